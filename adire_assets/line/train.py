"""The asset `lora_weights`: the adapter."""

import shutil
from pathlib import Path
from typing import Any

from adire_assets.core import lineage
from adire_assets.core.family import family
from adire_assets.core.job_folder import recorded_job
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Built, Store
from adire_assets.core.worker import RunWorker
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
    """The trained adapter."""
    settings = config.json("config.json")
    plug = family(settings["family"])
    facts = project.placement.facts()
    recipe = Recipe(
        kind="lora_weights",
        model=dataset.model,
        modules=plug.train.modules,
        inputs={"dataset": dataset.content_hash, "base_model": base_weights.content_hash},
        config=settings["training"],
        environment=facts.environment(*plug.packages, device=settings["device"]),
        facts=facts,
    )

    work = project.home / "work" / recipe.key[:32]

    def make(folder: Path) -> dict[str, Any]:
        with tracked(recipe.key) as run:
            run.set_tags(_training_tags(project, recipe, dataset, base_weights))
            run.log_params(settings["training"])
            device = settings["device"]
            launcher, training = plug.launched(settings["training"], device, base_weights.path)
            places = {
                "dataset": dataset.path,
                "base_model": base_weights.path,
                "output": folder,
                "work": work,
            }
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
            run.log_artifacts(str(folder), "adapter")
        return {
            "dataset": dataset.reference(),
            "base_model": base_weights.reference(),
            "dvc_hash": dataset.manifest["dvc_hash"],
            "data_hash": dataset.manifest["data_hash"],
            "seed": settings["training"]["seed"],
            "mlflow_run_id": run.mlflow_run_id,
            "training": result,
            "job": job,
        }

    built = Store(project).build(recipe, make)
    shutil.rmtree(work, ignore_errors=True)  # the checkpoints have served
    return built


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
