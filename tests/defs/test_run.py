"""What `adire materialize --select` says before it starts."""

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.store import write_json
from adire_assets.defs.assets import model_assets
from adire_assets.defs.resources import ChildProcesses, MlflowTracking, ReferenceIOManager
from adire_assets.defs.run import left_behind, selected
from adire_assets.line import sources

ROOT = Path(__file__).parents[2]
CONFIG = """
family: diffusion
data: {path: data/cloth, dvc_file: data.dvc, resolution: 64, instance_prompt: cloth}
base_model: {source: base_models/missing}
training: {max_train_steps: 100}
evaluation: {judge: {source: judge}, prompts: [cloth]}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A model whose data, base and judge are not there yet, and its four roots of then."""
    project = Project(tmp_path, tmp_path / ".adire")
    project.model_file("cloth").parent.mkdir(parents=True)
    project.model_file("cloth").write_text(CONFIG)
    shutil.copy(ROOT / "configs" / "fleet.yaml", tmp_path / "configs")
    made = {name: {"key": "of then"} for name in sources.SOURCES}
    made["training_config"] = sources.training_config(project, "cloth").artifact.reference()
    for name, reference in made.items():
        write_json(project.home / "references" / "latest" / "cloth" / f"{name}.json", reference)
    return project


@pytest.fixture
def graph(project: Project) -> Any:
    root = str(project.root)
    return dg.Definitions(
        assets=model_assets(project, "cloth"),
        resources={
            "references": ReferenceIOManager(project_root=root),
            "children": ChildProcesses(project_root=root),
            "mlflow": MlflowTracking(project_root=root),
        },
    ).resolve_asset_graph()


def told(project: Project, graph: Any, *names: str) -> list[str]:
    wanted = [dg.AssetKey(["cloth", name]) for name in names]
    return list(left_behind(project, "cloth", graph, wanted))


def test_settings_that_changed_since_are_named_with_the_selection_that_takes_them(
    project: Project, graph: Any
) -> None:
    def of_settings(*names: str) -> list[str]:
        return [line for line in told(project, graph, *names) if "training_config" in line]

    assert of_settings("lora_weights") == []
    project.model_file("cloth").write_text(CONFIG.replace("100", "200"))
    [sentence] = of_settings("lora_weights")
    assert sentence.startswith("cloth: training_config has changed since it was materialized")
    assert sentence.endswith("--select training_config,lora_weights")
    assert of_settings("training_config", "lora_weights") == []
    assert of_settings("dataset") == []


def test_a_root_is_looked_at_only_for_what_is_made_from_it_and_hinders_nothing(
    project: Project, graph: Any
) -> None:
    for name in ("base_model", "training_data", "deployed_model"):
        assert told(project, graph, name) == []
    [sentence] = told(project, graph, "dataset")
    assert sentence.startswith("cloth: cannot tell whether training_data has changed")
    assert "data.dvc" in sentence
    assert told(project, graph, "training_data", "dataset") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dataset", "dataset"),
        ("cloth/dataset", "dataset"),
        (" dataset , training_data", "dataset training_data"),
        ("training_data+", "training_data dataset"),
        ("+dataset", "training_data dataset"),
        ("++dataset", "training_data dataset"),
        ("*lora_weights", "training_data training_config base_model dataset lora_weights"),
        ("triton_repository*", "triton_repository deployed_model"),
        ("key:triton_repository+", "triton_repository deployed_model"),
        ('key:"cloth/triton_repository"+', "triton_repository deployed_model"),
        ("dataset or training_data", "dataset training_data"),
        ("+lora_weights and not base_model", "training_data training_config dataset lora_weights"),
        ("sinks(triton_repository+)", "deployed_model"),
        ('group:"cloth" and key:"*_config"', "training_config evaluation_config"),
    ],
)
def test_a_selection_takes_dagsters_syntax_in_the_models_names(
    graph: Any, text: str, expected: str
) -> None:
    assert {key.path[-1] for key in selected("cloth", text, graph)} == set(expected.split())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no name where one is expected"),
        ("dataset,", "no name where one is expected"),
        ("datset+", "cloth has no asset datset; it has: "),
        ("silk/dataset", "cloth has no asset silk/dataset"),
        ("not datset", "cloth has no asset datset"),
        ("dataset and", "is no selection"),
        ("(dataset", "is no selection"),
        ('key:"silk/*"', "selects no asset of cloth"),
    ],
)
def test_what_selects_nothing_is_told(graph: Any, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        selected("cloth", text, graph)
