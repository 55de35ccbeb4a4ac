"""The line from images to a live model, one function per asset, in the order of the graph.

    roots.py: training_data  training_config  base_model  evaluation_config
    dataset -> lora_weights -> evaluation_report -> promotion_verdict -> triton_repository
    -> deployed_model (going_live.py)

Each function takes artefacts and gives back a `Built` artefact: it states the recipe, and how to
make the content when the store does not hold it yet. Dagster's assets call these and nothing else;
so can a notebook or a test. Nothing here reads the YAML of a model.

`run_worker` carries out a function in a child process; `tracked(recipe_key)` is a context that
yields MLflow's logging functions for the one run of that adapter.
"""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from adire_assets import lineage, measurements, promotion, registry, reports, tracking, upgrades
from adire_assets.config import DataConfig, Project, ServingConfig
from adire_assets.data import dvc
from adire_assets.diffusion.launch import launcher, shared_out
from adire_assets.errors import UserError
from adire_assets.evaluation_images import IMAGE_MODULES, drawing_of, evaluation_images
from adire_assets.fleet_config import load_fleet
from adire_assets.gates_config import GateConfig
from adire_assets.lineage import TRAINING_PACKAGES, Recipe
from adire_assets.serving import release
from adire_assets.store import Artefact, Built, Store, lock, read_json, write_json
from adire_assets.worker import recorded_job

TRAIN = "adire_assets.diffusion.lora:train"
# launch: into how many processes a batch is divided is part of what is trained.
TRAINING_MODULES = ("adire_assets.diffusion.lora", "adire_assets.diffusion.launch")
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
    )

    def make(folder: Path) -> dict[str, Any]:
        # Before and after: files that change while they are read would make a dataset of neither.
        dvc.verify_working_tree(project, config.dvc_file, config.path, tree)
        places = {"source": project.inside(config.path, "data.path"), "output": folder}
        build_dataset(places["source"], folder, config, tree.files)
        dvc.verify_working_tree(project, config.dvc_file, config.path, tree)
        arguments = {**places, "config": config.model_dump()}
        return {
            "dvc_hash": tree.dvc_hash,
            "data_hash": tree.hash,
            "resolution": config.resolution,
            "job": recorded_job("adire_assets.data.dataset:rebuild", arguments, places),
        }

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
            base = base_weights.path / "pipeline"
            training = shared_out(settings["training"], settings["device"], base)
            arguments: dict[str, Any] = {
                "dataset": images.path,
                "base": base,
                "variant": base_weights.json("base.json")["variant"],
                "output": folder,
                "training": training,
                "work": work,
                "resolution": images.manifest["resolution"],
                "device": settings["device"],
            }
            launch = launcher(settings["device"], training)
            places = {"dataset": images.path, "base_model": base_weights.path}
            places |= {"output": folder, "work": work}
            job = recorded_job(TRAIN, arguments, places, launch)
            result = run_worker(
                TRAIN,
                launcher=launch,
                mlflow_run_id=run.mlflow_run_id,
                # Costs time only when it is empty, so it is not part of the recorded job.
                cache=project.home / "cache",
                **arguments,
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
            "job": job,
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
    write_metrics: bool = True,
) -> Built:
    """Images, scores and latency of this adapter, beside those of the bare base.

    The images are artefacts of their own, drawn when the store does not hold them.

    `write_metrics`: show the scores as the model's in metrics/, for `dvc metrics`.
    """
    settings = config.json("config.json")
    evaluation = settings["evaluation"]
    device = lineage.device_class(load_fleet(project).device)
    drawing = drawing_of(evaluation, images.path)
    drawn = {
        name: evaluation_images(project, base_weights, lora, drawing, run_worker).artefact
        for name, lora in (("base_images", None), ("adapter_images", adapter))
    }
    made_from = {
        "dataset": images,
        "base_model": base_weights,
        "lora_weights": adapter,
        "judge": Store(project).open(settings["judge"]),
        **drawn,
    }
    recipe = Recipe(
        kind="evaluation_report",
        model=images.model,
        modules=EVALUATION_MODULES,
        inputs={name: artefact.content_hash for name, artefact in made_from.items()},
        config=evaluation,
        environment=lineage.environment(*TRAINING_PACKAGES, device=device),
    )

    shared = {name: recipe.inputs[name] for name in ("dataset", "judge", "base_images")}
    of_base = replace(recipe, kind="base_statistics", inputs=shared)

    def make(folder: Path) -> dict[str, Any]:
        with tracked(adapter.key) as run, lock(project, "device"):
            run_worker(
                f"{EVALUATION_MODULES[0]}:score",
                dataset=images.path,
                adapter_images=drawn["adapter_images"].path,
                base_images=drawn["base_images"].path,
                judge=made_from["judge"].path / "pipeline",
                evaluation=evaluation,
                output=folder,
                device=device,
                # Costs time only when it is empty.
                base_statistics=project.home / "cache" / of_base.kind / of_base.key,
            )
            run.log_metrics(numbers(folder))
            for name in ("report.json", "report.md", "contact_sheet.png", "timings.json"):
                run.log_artifact(str(folder / name), "evaluation")
        return {name: artefact.reference() for name, artefact in made_from.items()}

    built = Store(project).build(recipe, make)
    # Another evaluation of this adapter may have had it measured since.
    timings = measurements.timings_of(project, built.artefact)
    if timings != built.artefact.json(measurements.TIMINGS):
        write_json(built.artefact.path / measurements.TIMINGS, timings)
    if not write_metrics:
        return built
    report = built.artefact.json("report.json")
    scores = {name: value for name, value in report.items() if isinstance(value, int | float)}
    groups = {name: report[name] for name in ("scores", "base_scores")}
    dvc.write_metrics(project, images.model, scores | groups, adapter.path / "loss.csv")
    return built


def promotion_verdict(
    project: Project,
    evaluation: Artefact,
    config: Artefact,
    run_worker: RunWorker,
    tracked: Tracked,
) -> Built:
    """The decision, gate by gate, under the hashes of evaluation, policy and champion; and its page
    (`reports.page_path`), in MLflow as well.

    A champion that was evaluated on other data or with other settings is evaluated again first.
    """
    policy = GateConfig(**config.json("config.json")["gates"])
    champion = promotion.champion_to_beat(project, evaluation)
    if champion:
        rival = promotion.comparable_evaluation(project, evaluation, champion)
    else:
        rival = promotion.beaten_before(project, evaluation)
    if champion and rival is None:
        store = Store(project)
        evaluation_report(
            project,
            store.open(evaluation.manifest["dataset"]),
            store.open(champion.base_model),
            store.open(champion.adapter),
            config,
            run_worker,
            tracked,
            write_metrics=False,
        )
        rival = promotion.comparable_evaluation(project, evaluation, champion)
        if rival is None:
            raise UserError(
                f"{evaluation.model}: its evaluation was made with other code, libraries or "
                f"settings than evaluations are now, so the champion (release {champion.number}) "
                f"cannot be compared with it; materialize {evaluation.model}/evaluation_report "
                "again"
            )
    built = promotion.verdict_of(project, evaluation, policy, rival)
    if not reports.page_path(project, built.artefact).is_file():
        with tracked(evaluation.manifest["lora_weights"]["key"]) as run:
            reports.write_page(
                project,
                built.artefact,
                lambda page: run.log_artifact(str(page), "evaluation"),
            )
    return built


def triton_repository(
    project: Project, adapter: Artefact, base_weights: Artefact, verdict: Artefact, config: Artefact
) -> tuple[Built, int]:
    """Release N of this adapter: (its Triton version directory, N). Refuses what did not pass."""
    evaluation = Store(project).open(verdict.manifest["evaluation"])
    promotion.require_passed(verdict)
    promotion.require_about(evaluation, adapter.content_hash, base_weights.content_hash)
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
    number = registry.register_release(
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
            provenance={
                **promotion.provenance(adapter, base_weights, evaluation),
                "policy": promotion.policy_facts(project, verdict, number),
            },
            golden=upgrades.golden_images(project, evaluation).artefact.reference(),
        ),
    )
    promotion.challenge(project, adapter.model, number)
    return built, number


def _training_tags(
    project: Project, recipe: Recipe, images: Artefact, base_weights: Artefact
) -> dict[str, str]:
    identity = lineage.code_identity(project.root)
    return {
        **{f"adire.{name}": str(fact) for name, fact in identity.items()},
        "adire.model": recipe.model,
        "adire.recipe_key": recipe.key,
        "adire.dvc_hash": images.manifest["dvc_hash"],
        "adire.data_hash": images.manifest["data_hash"],
        "adire.dataset_hash": images.content_hash,
        "adire.base_model_hash": base_weights.content_hash,
    }


def numbers(folder: Path) -> dict[str, float]:
    """The finite scores and timings of an evaluation, by name; `<metric>_base` is the base's."""
    report = read_json(folder / "report.json")
    merged = {
        **report["scores"],
        **{f"{name}_base": value for name, value in report["base_scores"].items()},
        **report,
        **read_json(folder / "timings.json"),
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
        IMAGE_MODULES,
        EVALUATION_MODULES,
        promotion.VERDICT_MODULES,
        RELEASE_MODULES,
    )
    libraries = {name for modules in steps for name in lineage.libraries(modules)}
    return {
        "code": [lineage.code_hash(modules) for modules in steps],
        "backend": release.backend_hash(project),
        "libraries": lineage.environment(*sorted(libraries), "nvidia-pytriton"),
    }
