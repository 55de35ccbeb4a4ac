"""`adire status` answers without the libraries that take seconds to import."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adire_assets.config import held_weights
from adire_assets.config.model import load_model
from adire_assets.core.lineage import Recipe, code_hash
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Store
from adire_assets.ops import operations
from adire_assets.serving import release
from adire_assets.serving.rollout import deployment
from adire_assets.tracking import registry, runs
from adire_assets.tracking.dvc import versions

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "mlflow",
    "dagster",
    "dvc",
    "scipy",
    "pandas",
)
CHILD = """
import sys
from pathlib import Path
from adire_assets.cli import main as cli; from adire_assets.ops import operations
from adire_assets.core.project import Project

root = Path(sys.argv[1])
print(*operations.status(Project(root, root / ".adire")), sep="\\n")
print("heavy:", [name for name in sys.argv[2:] if name in sys.modules])
"""


def test_status_loads_nothing_heavy_and_still_sees_the_champion(
    mlflow_project: Project, clean_environment: dict[str, str]
) -> None:
    root = mlflow_project.root
    shutil.copy(ROOT / "configs" / "models" / "indigo.yaml", root / "configs" / "models")
    models = root / "configs" / "models"
    (models / "silk.yml").write_text((models / "indigo.yaml").read_text())
    broken = (models / "indigo.yaml").read_text().replace("base_models/tiny/judge", "circle/judge")
    (models / "round.yaml").write_text(broken)
    (root / "circle").symlink_to("circle")
    shutil.copytree(ROOT / "configs" / "prompts", root / "configs" / "prompts")
    shutil.copy(ROOT / "configs" / "fleet.yaml", root / "configs")
    run = runs.training_run(mlflow_project, "indigo", "0" * 64)
    number = registry.register_release(
        mlflow_project, "indigo", content_hash="c" * 64, run_id=run, source=root
    )
    registry.set_alias(mlflow_project, "indigo", "champion", number)
    assert registry.seen_aliases(mlflow_project, "indigo") == {"champion": number}
    assert registry.seen_aliases(mlflow_project, "silk") == {}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(root), *HEAVY],
        env=clean_environment,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "indigo: nothing is live on local"
    assert any(f"MLflow's champion is {number}" in line for line in lines)
    assert "silk.yml: not read; a model is a <name>.yaml, so rename it" in lines
    assert any("circle/judge cannot be followed" in line for line in lines)
    assert lines[-1] == "heavy: []"


def test_looking_at_aliases_makes_no_database(tmp_path: Path) -> None:
    (tmp_path / "configs" / "models").mkdir(parents=True)
    project = Project(tmp_path, tmp_path / ".adire")
    assert registry.seen_aliases(project, "indigo") == {}
    assert not project.home.exists()


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose release 1 of indigo is live and made from what the project says."""
    project = Project(tmp_path, tmp_path / ".adire")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    config, store = load_model(project, "indigo"), Store(project)

    def add(kind: str, settings: dict, facts: dict, modules: tuple[str, ...] = ()) -> Artifact:
        recipe = Recipe(kind, "indigo", modules=modules, config=settings)
        return store.build(recipe, lambda _: facts).artifact

    base, judge = add("base_model", {}, {}), add("judge", {}, {})
    data = {"job": {"arguments": {"config": config.data.model_dump()}}}
    dataset = add("dataset", {}, data, ("adire_assets.core.file_names",))
    pinned = {"data_hash": "d", "dataset": dataset.reference()}
    adapter = add("lora_weights", config.training.model_dump(), pinned)
    settings = config.evaluation.settings(project)
    evaluation = add("evaluation_report", settings, {"judge": judge.reference()})
    repository = add("triton_repository", config.serving.model_dump(), {})
    parts = {"adapter": adapter, "evaluation": evaluation, "base_model": base}
    parts |= {"repository": repository, "verdict": evaluation}
    references = {name: part.reference() for name, part in parts.items()}
    release.write_record(
        project,
        release.ReleaseRecord("indigo", 1, **references, mlflow_run_id=None, provenance={}),
    )
    monkeypatch.setattr(deployment, "champion", lambda *_: 1)
    monkeypatch.setattr(versions, "subtree", lambda *_: versions.Subtree("d", "d.dir", {}))
    held = {"base_model": base, "judge": judge}
    monkeypatch.setattr(held_weights, "known", lambda project, model, kind: held[kind])
    return project


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("description: N", "description: n", []),
        ("# The house", "# A house", []),
        ("  resolution: 128", "  resolution: 96", ["data settings changed: resolution"]),
        (
            "instance_prompt: a photo",
            "instance_prompt: a picture",
            ["data settings changed: instance_prompt"],
        ),
        ("rank: 16", "rank: 8", ["training settings changed: rank"]),
        ("maximum_images: 4", "maximum_images: 3", ["serving settings changed: maximum_images"]),
        ("seeds: [0, 1]", "seeds: [0, 2]", ["the evaluation settings changed"]),
    ],
)
def test_what_would_be_made_again_is_stale_and_nothing_else(
    made: Project, old: str, new: str, said: list[str]
) -> None:
    assert operations.stale(made, "indigo") == []
    file = made.model_file("indigo")
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    assert operations.stale(made, "indigo") == said


def test_another_judge_and_other_code_of_the_dataset_are_stale(
    made: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = held_weights.known
    monkeypatch.setattr(
        held_weights, "known", lambda *of: None if of[-1] == "judge" else known(*of)
    )
    changed = ("adire_assets.core.file_names",)
    monkeypatch.setattr(
        operations, "code_hash", lambda names: "x" if names == changed else code_hash(names)
    )
    assert operations.stale(made, "indigo") == [
        "the judge is another",
        "the code that makes datasets changed",
    ]
