"""The golden set of a release: kept, drawn again by other software, and told when it differs."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import torch
from PIL import Image

from adire_assets.cli import main
from adire_assets.config.weights import ModelSource
from adire_assets.core import lineage
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Store, read_json, write_json
from adire_assets.defs.checks import GOLDEN_CHECK, golden_check
from adire_assets.defs.resources import ChildProcesses, ReferenceIOManager
from adire_assets.families.diffusion import FAMILY
from adire_assets.families.diffusion.config import EvaluationConfig, ServingConfig
from adire_assets.families.diffusion.evaluation import evaluate, golden, images
from adire_assets.families.diffusion.evaluation.drawing import drawing_of
from adire_assets.gates import upgrades
from adire_assets.ops.gc import collect_garbage
from adire_assets.serving import release
from adire_assets.serving.release import ReleaseRecord
from tests.support import tiny

ROOT = Path(__file__).parents[2]
MODEL = "cloth"
CONFIG = """\
family: diffusion
data: {path: data/cloth, instance_prompt: cloth}
base_model: {source: base}
evaluation: {judge: {source: judge}}
"""
THREADS = 2


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Release 1 of a random base, evaluated by the real evaluation in two batches."""
    root = tmp_path_factory.mktemp("golden")
    project = Project(root, root / ".adire")
    (root / "configs" / "models").mkdir(parents=True)
    shutil.copy(ROOT / "configs" / "fleet.yaml", root / "configs")
    project.model_file(MODEL).write_text(CONFIG)
    shutil.copytree(ROOT / "triton_models", root / "triton_models")
    tiny.make_dataset(root / "dataset")
    tiny.make_random_judge(root / "judge", seed=4)
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIRE_THREADS", str(THREADS))
        bring_out(project)
    torch.set_num_threads(before)
    return project


def bring_out(project: Project) -> None:
    store = Store(project)

    def make_base(folder: Path) -> None:
        tiny.make_random_base(folder / "pipeline")
        write_json(folder / "base.json", {"variant": None})

    base = store.build(Recipe("base_model", MODEL), make_base).artifact
    adapter = store.build(
        Recipe("lora_weights", MODEL),
        lambda folder: tiny.make_adapter(folder, base.path / "pipeline", 1) and None,
    ).artifact
    evaluation = evaluated(project, base, adapter)

    def write(folder: Path) -> None:
        settings = ServingConfig().model_dump()
        release.write_release(
            project, FAMILY, folder, model=MODEL, adapter=adapter.path, base=base, serving=settings
        )

    content = store.build(Recipe("triton_repository", MODEL), write).artifact
    for number, golden_set in ((1, upgrades.golden_set(project, FAMILY, evaluation)), (2, None)):
        release.write_record(
            project,
            ReleaseRecord(
                model=MODEL,
                number=number,
                repository=content.reference(),
                adapter=adapter.reference(),
                base_model=base.reference(),
                evaluation=evaluation.reference(),
                verdict=evaluation.reference(),
                mlflow_run_id=None,
                provenance={},
                golden=golden_set,
            ),
        )


def evaluated(project: Project, base: Artifact, adapter: Artifact) -> Artifact:
    config = EvaluationConfig(
        judge=ModelSource(source="judge"),
        prompts=[f"cloth number {number}" for number in range(6)],
        seeds=[0, 1, 2, 3],
        num_inference_steps=2,
        latency_images=3,
    )

    def make(folder: Path) -> None:
        evaluation = config.model_dump(mode="json", exclude={"gates"})
        shared: dict[str, Any] = {"device": "cpu", "progress": lambda message, **numbers: None}
        drawn = {}
        for name, lora in (("adapter_images", str(adapter.path)), ("base_images", None)):
            drawn[name] = Path(tempfile.mkdtemp(dir=project.home))
            images.draw(
                base=str(base.path / "pipeline"),
                variant=None,
                adapter=lora,
                drawing=drawing_of(evaluation, project.root / "dataset"),
                output=str(drawn[name]),
                **shared,
            )
        evaluate.score(
            dataset=str(project.root / "dataset"),
            **{name: str(path) for name, path in drawn.items()},
            judge=str(project.root / "judge"),
            evaluation=evaluation,
            output=str(folder),
            **shared,
        )

    environment = lineage.environment(*FAMILY.packages, "torchmetrics", device="cpu")
    recipe = Recipe("evaluation_report", MODEL, environment=environment)
    return Store(project).build(recipe, make).artifact


@pytest.fixture
def project(
    template: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_environment: dict
) -> Project:
    root = tmp_path / "project"
    shutil.copytree(template.root, root)
    for name in ("ADIRE_THREADS", "ADIRE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ADIRE_PROJECT", str(root))
    return Project(root, root / ".adire")


def upgrade(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """The installed diffusers goes on drawing, and claims another version."""
    known = lineage.installed
    monkeypatch.setattr(
        lineage, "installed", lambda name: version if name == "diffusers" else known(name)
    )
    monkeypatch.setattr(lineage.installed, "cache_clear", lambda: None, raising=False)


def spoil(project: Project) -> None:
    """What the upgrade draws is another picture: its scheduler goes other ways."""
    base = Store(project).open(release.read_record(project, MODEL, 1).base_model)
    file = base.path / "pipeline" / "scheduler" / "scheduler_config.json"
    file.chmod(0o644)
    write_json(file, {**read_json(file), "beta_end": 0.05})


def adire(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["adire", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    return int(ended.value.code or 0)


def test_a_release_keeps_the_first_full_batch_of_its_evaluation(project: Project) -> None:
    record = release.read_record(project, MODEL, 1)
    kept = Store(project).open(record.golden)
    evaluation = Store(project).open(record.evaluation)
    settings = kept.json("golden.json")
    assert [(r["prompt"], r["seed"]) for r in settings["requests"]] == [
        (f"cloth number {number}", 4 * number + seed) for number in (3, 4) for seed in range(4)
    ]
    assert settings["threads"] == THREADS
    drawn = evaluation.json("images.json")[12:20]
    for entry, image in zip(settings["images"], drawn, strict=True):
        pixels = np.asarray(Image.open(evaluation.path / image["file"]))
        assert entry["sha256"] == golden.pixel_hash(pixels)
        assert (np.asarray(Image.open(kept.path / entry["file"])) == pixels).all()


def test_garbage_collection_keeps_the_golden_set_of_a_release(project: Project) -> None:
    store = Store(project)
    kept = store.open(release.read_record(project, MODEL, 1).golden)
    manifest = kept.path / "manifest.json"
    manifest.chmod(0o644)
    write_json(manifest, {**read_json(manifest), "created": "2000-01-01T00:00:00+00:00"})
    others = [
        store.build(Recipe("golden_set", MODEL, inputs={"number": number}), lambda _: None)
        for number in ("1", "2", "3")
    ]
    list(collect_garbage(project, keep=2, dry_run=False))
    assert kept in store.artifacts(MODEL, "golden_set")
    assert sum(other.artifact.path.exists() for other in others) == 2


def test_the_same_software_draws_every_pixel_again_and_once(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("ADIRE_THREADS", "1")  # the golden set's own thread count is what counts
    assert adire(monkeypatch, "golden", f"{MODEL}@1") == 0
    said = capsys.readouterr().out
    assert "golden images: drawing 8 again" in said
    assert said.splitlines()[-1] == (
        f"golden: {MODEL}@1 exact: 8 of 8 images have the same pixels (software and machine are "
        "the same)"
    )
    assert adire(monkeypatch, "golden", f"{MODEL}@1") == 0
    said = capsys.readouterr().out
    assert "drawing" not in said and "made again before" in said and "exact: 8 of 8" in said
    assert not list((project.home / "jobs").iterdir())


def test_a_changed_product_ends_with_status_1(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    upgrade(monkeypatch, "0.43.0")
    spoil(project)
    assert adire(monkeypatch, "golden", f"{MODEL}@1") == 1
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith(f"golden: {MODEL}@1 changed: 8 of 8 images differ, worst 'cloth")
    assert "diffusers" in said[-1] and "-> 0.43.0" in said[-1]
    measures = [
        float(line.partition("PSNR ")[2].partition(" ")[0]) for line in said if "seed" in line
    ]
    assert len(measures) == 9 and measures[:8] == sorted(measures[:8])
    [report] = Store(project).artifacts(MODEL, "golden_report")
    assert report.manifest["recipe"]["environment"]["diffusers"] == "0.43.0"
    assert len(list(report.path.glob("*.png"))) == 8


def test_what_cannot_be_drawn_again_is_said(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name, sentence in (
        (f"{MODEL}@2", "release 2 of cloth was made before golden sets were kept; materialize"),
        (f"{MODEL}@9", "there is no release 9 of cloth"),
        (MODEL, "nothing of cloth is live; name a release"),
        (f"{MODEL}@x", "a release is named like indigo@3"),
    ):
        assert adire(monkeypatch, "golden", name) == 1
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1


def test_the_asset_check_draws_only_when_something_changed_and_warns(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record = release.read_record(project, MODEL, 1)

    @dg.asset(key_prefix=[MODEL], io_manager_key="references")
    def triton_repository():
        return record.repository

    monkeypatch.setattr(release, "record_of", lambda project, repository: record)
    checks = golden_check(project, MODEL)
    resources = {
        "references": ReferenceIOManager(project_root=str(project.root)),
        "children": ChildProcesses(project_root=str(project.root)),
    }
    monkeypatch.setenv("ADIRE_THREADS", str(THREADS))

    def evaluate_check() -> dg.AssetCheckEvaluation:
        with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
            done = dg.materialize(
                [triton_repository, checks], instance=instance, resources=resources
            )
        assert done.success
        [evaluation] = done.get_asset_check_evaluations()
        return evaluation

    unchanged = evaluate_check()
    assert unchanged.check_name == GOLDEN_CHECK and unchanged.passed
    assert "still those of the golden answers" in unchanged.description
    assert not Store(project).artifacts(MODEL, "golden_report")
    upgrade(monkeypatch, "0.43.0")
    spoil(project)
    changed = evaluate_check()
    assert not changed.passed and changed.severity == dg.AssetCheckSeverity.WARN
    assert changed.description.startswith("changed: 8 of 8 images differ")
    assert len(Store(project).artifacts(MODEL, "golden_report")) == 1
