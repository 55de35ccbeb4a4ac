"""A release of a real training in a project whose data DVC keeps."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from adire_assets.config import held_weights
from adire_assets.core.lineage import Recipe
from adire_assets.core.placement import run_step
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Store, write_json
from adire_assets.core.worker import RunWorker
from adire_assets.families.diffusion import FAMILY
from adire_assets.families.diffusion.config import ServingConfig
from adire_assets.gates import promotion
from adire_assets.line import sources
from adire_assets.line.dataset import build as build_dataset
from adire_assets.line.train import lora_weights as make_lora_weights
from adire_assets.serving import release
from adire_assets.serving.release import ReleaseRecord
from tests.support.training import silent

MODEL = "cloth"
THREADS = 3  # more than the cores of many a machine that makes it again
CONFIG = """
data: {path: data/cloth, resolution: 64, instance_prompt: cloth, held_out_fraction: 0.4}
family: diffusion
base_model: {source: base_models/random}
training:
  {learning_rate: 0.01, max_train_steps: 4, checkpointing_steps: 2, rank: 2, num_processes: 1}
evaluation: {judge: {source: base_models/none}}
"""


def in_child(project: Project) -> RunWorker:
    def run(
        function: str, *, launcher: tuple[str, ...] = (), recorder: object, **arguments: Any
    ) -> dict[str, Any]:
        return run_step(project, function, arguments, launcher=launcher, progress=silent)

    return run


@contextmanager
def untracked(recipe_key: str) -> Iterator[Any]:
    def nothing(*_: Any) -> None:
        return None

    yield SimpleNamespace(
        mlflow_run_id="run", set_tags=nothing, log_params=nothing, log_artifacts=nothing
    )


def pin(project: Project, remote: Path) -> None:
    from dvc.repo import Repo

    with Repo.init(str(project.root), no_scm=True) as repo:
        with repo.config.edit() as config:
            config["remote"]["storage"] = {"url": str(remote)}
        repo.add([str(project.root / "data")])
        repo.push(remote="storage")


def bring_out(project: Project) -> None:
    """Release 1: trained as the line does it, with an evaluation that nobody made."""
    images = build_dataset(project, sources.training_data(project, MODEL).artifact).artifact
    worker = in_child(project)
    base = held_weights.held(project, MODEL, "base_model", worker).artifact
    settings = sources.training_config(project, MODEL).artifact
    adapter = make_lora_weights(project, images, base, settings, worker, untracked).artifact

    def write(folder: Path) -> None:
        release.write_release(
            project,
            FAMILY,
            folder,
            model=MODEL,
            adapter=adapter.path,
            base=base,
            serving=ServingConfig().model_dump(),
        )

    content = Store(project).build(Recipe("triton_repository", MODEL), write).artifact
    keep(project, 1, content, adapter, base)


def keep(
    project: Project, number: int, content: Artifact, adapter: Artifact, base: Artifact
) -> ReleaseRecord:
    evaluation = (
        Store(project)
        .build(
            Recipe("evaluation_report", MODEL, inputs={"number": str(number)}),
            lambda folder: write_json(folder / "report.json", {"number": number}),
        )
        .artifact
    )
    facts = promotion.provenance(adapter, base, evaluation) if number == 1 else {}
    record = ReleaseRecord(
        model=MODEL,
        number=number,
        repository=content.reference(),
        adapter=adapter.reference(),
        base_model=base.reference(),
        evaluation=evaluation.reference(),
        verdict=evaluation.reference(),
        mlflow_run_id="run",
        provenance=facts,
    )
    return release.write_record(project, record)
