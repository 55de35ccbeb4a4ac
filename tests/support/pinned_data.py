"""Three models whose data DVC keeps, and what is made of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Store, read_json, write_json
from adire_assets.line import dataset, sources
from adire_assets.serving import record, release
from adire_assets.serving.state import DeploymentRecord

IMAGES = {"resolution": 32, "instance_prompt": "cloth\u2028in blue", "minimum_images": 8}
DATA = {  # model -> (whose configuration it has, its data)
    "indigo": ("indigo", {"path": "data/indigo", "held_out_fraction": 0.3, **IMAGES}),
    "silk": ("indigo", {"path": "data/silk", "held_out_fraction": 0.3, **IMAGES}),
    "letters": ("adire_letters", {"path": "data/letters", "minimum_examples": 8}),
}
IMAGE, RECORD = "data/indigo/old cloth/p7.png", "data/letters/letters.jsonl:3"


def pin(project: Project) -> None:
    from dvc.repo import Repo

    with Repo(str(project.root)) as repo:
        repo.add([str(project.root / "data")])


def build(project: Project, model: str) -> Artifact:
    return dataset.build(project, sources.training_data(project, model).artifact).artifact


def release_on(project: Project, data: Artifact) -> release.ReleaseRecord:
    """The next release of the model, whose adapter is trained on this dataset."""

    def write(folder: Path) -> dict[str, Any]:
        write_json(folder / "adapter.json", data.key)
        return {"dataset": data.reference()}

    inputs = {"dataset": data.content_hash}
    adapter = Store(project).build(Recipe("lora_weights", data.model, inputs=inputs), write)
    names = ("repository", "adapter", "base_model", "evaluation", "verdict")
    parts = dict.fromkeys(names, adapter.artifact.reference())
    number = len(release.records(project, data.model)) + 1
    made = release.ReleaseRecord(data.model, number, **parts, mlflow_run_id=None, provenance={})
    return release.write_record(project, made)


def make_live(project: Project, one: release.ReleaseRecord, slots: dict[str, int]) -> None:
    def live(state: DeploymentRecord) -> DeploymentRecord:
        return replace(state, slots=slots).with_live_release(one.number, "deploy", None)

    record.change(project, "local", one.model, live)


def foreign(dataset: Artifact) -> None:
    """Make a dataset one of a family that is not installed."""
    manifest = dataset.manifest
    manifest["recipe"]["modules"] = {"sculpture.dataset": "0" * 64}
    write_json(dataset.path / "manifest.json", manifest)
    data = dataset.path.parents[1] / "training_data"
    for path in data.glob("*/data.json"):
        write_json(path, {**read_json(path), "family": "sculpture"})
