"""The asset `lora_weights`: the adapter."""

import shutil
from pathlib import Path
from typing import Any

from adire_assets.config.fleet import load_fleet
from adire_assets.core import lineage
from adire_assets.core.family import family
from adire_assets.core.job_folder import recorded_job
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Built, Store
from adire_assets.core.worker import RunWorker
from adire_assets.gates import contents
from adire_assets.line.job_recipe import job_recipe, references
from adire_assets.line.step_cost import step_cost
from adire_assets.tracking import runs
from adire_assets.tracking.runs import Tracked


def lora_weights(
    project: Project,
    dataset: Artifact,
    base_weights: Artifact,
    config: Artifact,
    run_worker: RunWorker,
    tracked: Tracked,
) -> Built:
    """The trained adapter. UserError for a dataset with something that was taken down since."""
    contents.refuse_dataset(project, dataset)
    costs, settings = load_fleet(project).costs, config.json("config.json")
    plug, device = family(settings["family"]), settings["device"]
    made_from = {"dataset": dataset, "base_model": base_weights}
    recipe = job_recipe(
        project, plug, plug.train, "lora_weights", made_from, settings["training"], device
    )
    work = work_folder(project, recipe.key)

    def make(folder: Path) -> dict[str, Any]:
        with tracked(recipe.key) as run:
            run.set_tags(_training_tags(project, recipe, dataset, base_weights))
            run.log_params(settings["training"])
            launcher, training = plug.launched(settings["training"], device, base_weights.path)
            read = {name: artifact.path for name, artifact in made_from.items()}
            places = {**read, "output": folder, "work": work}
            arguments: dict[str, Any] = {**places, "training": training, "device": device}
            job = recorded_job(plug.train.job("train"), arguments, places, launcher)
            result = run_worker(
                plug.train.job("train"),
                launcher=launcher,
                recorder=runs.recorder(run.mlflow_run_id),
                # Costs time only when it is empty, so it is not part of the recorded job.
                cache=project.home / "cache",
                **arguments,
            )
            if cost := step_cost(project, costs, device, every=bool(launcher)):
                run.log_metrics({"cost": cost["amount"]})
            run.log_artifacts(str(folder), "adapter")
        return {
            **references(made_from),
            **{name: dataset.manifest[name] for name in ("dvc_hash", "data_hash")},
            "seed": settings["training"]["seed"],
            "mlflow_run_id": run.mlflow_run_id,
            "training": result,
            "job": job,
            "cost": cost,
        }

    built = Store(project).build(recipe, make)
    shutil.rmtree(work, ignore_errors=True)  # the checkpoints have served
    return built


def work_folder(project: Project, recipe_key: str) -> Path:
    """Where the training of this recipe keeps its checkpoints."""
    return project.home / "work" / recipe_key[:32]


def _training_tags(
    project: Project, recipe: Recipe, dataset: Artifact, base_weights: Artifact
) -> dict[str, str]:
    identity = lineage.code_identity(project.root)
    return {
        **{f"adire.{name}": str(fact) for name, fact in identity.items()},
        "adire.model": recipe.model,
        "adire.recipe_key": recipe.key,
        "adire.dvc_hash": dataset.manifest["dvc_hash"],
        "adire.data_hash": dataset.manifest["data_hash"],
        "adire.dataset_hash": dataset.content_hash,
        "adire.base_model_hash": base_weights.content_hash,
    }
