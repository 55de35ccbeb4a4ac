"""The asset `dataset`: the data that data.dvc names, validated and split in three."""

from pathlib import Path
from typing import Any

from adire_assets.core.family import family
from adire_assets.core.job_folder import recorded_job
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Built, Store
from adire_assets.tracking.dvc import versions


def build(project: Project, data: Artifact) -> Built:
    """What the family makes of the files: validated, de-duplicated and split."""
    read = data.json("data.json")
    step, config = family(read["family"]).dataset, read["data"]
    data_hash, dvc_hash = (data.manifest[name] for name in ("data_hash", "dvc_hash"))
    tree = versions.Subtree(data_hash, dvc_hash, data.json("files.json"))
    inputs = {"training_data": data.content_hash}
    recipe = Recipe("dataset", data.model, modules=step.modules, inputs=inputs)

    def make(folder: Path) -> dict[str, Any]:
        # Before and after: files that change while they are read would make a dataset of neither.
        versions.verify_working_tree(project, config["dvc_file"], config["path"], tree)
        places = {"source": project.inside(config["path"], "data.path"), "output": folder}
        arguments = {**places, "config": config}
        if gone := read.get("taken_down"):
            arguments["taken_down"] = gone
        step.functions.build(**arguments, files=tree.files)
        versions.verify_working_tree(project, config["dvc_file"], config["path"], tree)
        job = recorded_job(step.job("build"), arguments, places)
        return {"dvc_hash": dvc_hash, "data_hash": data_hash, "job": job}

    return Store(project).build(recipe, make)
