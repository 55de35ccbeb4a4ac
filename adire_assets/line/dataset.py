"""The asset `dataset`: the data that data.dvc names, validated and split in three."""

from pathlib import Path
from typing import Any

from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artefact, Built, Store
from adire_assets.core.worker import recorded_job
from adire_assets.families.diffusion.config import DataConfig
from adire_assets.tracking.dvc import versions

DATASET_MODULES = ("adire_assets.families.diffusion.data.dataset",)


def build(project: Project, data: Artefact) -> Built:
    """Validated, captioned, de-duplicated and split images."""
    from adire_assets.families.diffusion.data.dataset import (
        build_dataset,  # numpy: not in every Dagster process
    )

    config = DataConfig(**data.json("data.json"))
    tree = versions.Subtree(
        data.manifest["data_hash"], data.manifest["dvc_hash"], data.json("files.json")
    )
    recipe = Recipe(
        kind="dataset",
        model=data.model,
        modules=DATASET_MODULES,
        inputs={"training_data": data.content_hash},
    )

    def make(folder: Path) -> dict[str, Any]:
        # Before and after: files that change while they are read would make a dataset of neither.
        versions.verify_working_tree(project, config.dvc_file, config.path, tree)
        places = {"source": project.inside(config.path, "data.path"), "output": folder}
        build_dataset(places["source"], folder, config, tree.files)
        versions.verify_working_tree(project, config.dvc_file, config.path, tree)
        arguments = {**places, "config": config.model_dump()}
        return {
            "dvc_hash": tree.dvc_hash,
            "data_hash": tree.hash,
            "resolution": config.resolution,
            "job": recorded_job(f"{DATASET_MODULES[0]}:rebuild", arguments, places),
        }

    return Store(project).build(recipe, make)
