"""The four roots of a model's graph: what the project says now, resolved, validated and kept.

Everything downstream works from these artefacts, so a file that is edited in the middle of a run
changes nothing in it. `root_keys` tells what the roots would be now, without making them.
"""

import shutil
from pathlib import Path
from typing import Any

from adire_assets import lineage
from adire_assets.config import (
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    ModelSource,
    Project,
    load_model,
)
from adire_assets.data import dvc
from adire_assets.diffusion import base
from adire_assets.fleet_config import load_fleet
from adire_assets.lineage import Recipe
from adire_assets.store import Built, Store, write_json

WEIGHTS = {  # kind -> the file that tells such a folder, and the config key that names it
    "base_model": ("model_index.json", "base_model"),
    "judge": ("config.json", "evaluation.judge"),
}


def training_data(project: Project, model: str) -> Built:
    """The files that data.dvc names for this model, and how to read them; no bytes are copied."""
    config = load_model(project, model).data
    tree = dvc.subtree(project, config.dvc_file, config.path)
    dvc.verify_working_tree(project, config.dvc_file, config.path, tree)
    recipe = _training_data_recipe(model, config, tree)

    def make(folder: Path) -> dict[str, Any]:
        write_json(folder / "files.json", dict(sorted(tree.files.items())))
        write_json(folder / "data.json", config.model_dump())
        return {"dvc_hash": tree.dvc_hash, "data_hash": tree.hash}

    return Store(project).build(recipe, make)


def training_config(project: Project, model: str) -> Built:
    """The resolved hyperparameters, and the device they are meant for."""
    return _config_root(
        project, _training_config_recipe(project, model, load_model(project, model))
    )


def base_model(project: Project, model: str) -> Built:
    """The base's weights, held in the store under their content hash."""
    return _weights(project, model, "base_model", load_model(project, model).base_model)


def evaluation_config(project: Project, model: str) -> Built:
    """How the model is evaluated, gated and served; the judge's weights come into the store."""
    config = load_model(project, model)
    recipe = _evaluation_config_recipe(project, model, config)
    return _config_root(project, recipe, judge=judge(project, model).artefact.reference())


def judge(project: Project, model: str) -> Built:
    """The weights of the CLIPModel that scores this model's images."""
    return _weights(project, model, "judge", load_model(project, model).evaluation.judge)


def evaluation_settings(config: EvaluationConfig) -> dict[str, Any]:
    """What an evaluation is made with: everything but the thresholds."""
    return config.model_dump(exclude={"gates"})


def root_keys(project: Project, model: str) -> dict[str, str]:
    """Root asset name -> recipe key as the working tree is now; reads hashes, not images."""
    config = load_model(project, model)
    tree = dvc.subtree(project, config.data.dvc_file, config.data.path)
    return {
        "training_data": _training_data_recipe(model, config.data, tree).key,
        "training_config": _training_config_recipe(project, model, config).key,
        "base_model": _weights_recipe(project, model, "base_model", config.base_model).key,
        "evaluation_config": _evaluation_config_recipe(project, model, config).key,
    }


def _training_data_recipe(model: str, config: DataConfig, tree: dvc.Subtree) -> Recipe:
    return Recipe("training_data", model, inputs={"files": tree.hash}, config=config.model_dump())


def _training_config_recipe(project: Project, model: str, config: ModelConfig) -> Recipe:
    device = lineage.device_class(load_fleet(project).device)
    return Recipe(
        "training_config",
        model,
        config={"training": config.training.model_dump(), "device": device},
    )


def _evaluation_config_recipe(project: Project, model: str, config: ModelConfig) -> Recipe:
    judge = _weights_recipe(project, model, "judge", config.evaluation.judge)
    return Recipe(
        "evaluation_config",
        model,
        inputs={"judge": judge.inputs["weights"]},
        config={
            "evaluation": evaluation_settings(config.evaluation),
            "gates": config.evaluation.gates.model_dump(),
            "serving": config.serving.model_dump(),
        },
    )


def _config_root(project: Project, recipe: Recipe, **references: dict[str, str]) -> Built:
    def make(folder: Path) -> dict[str, Any]:
        write_json(folder / "config.json", {**recipe.config, **references})
        return references

    return Store(project).build(recipe, make)


def _resolve(project: Project, kind: str, source: ModelSource) -> base.ResolvedBase:
    marker, key = WEIGHTS[kind]
    return base.resolve(
        source.source, source.revision, source.variant, project.root, marker=marker, key=key
    )


def _weights_recipe(project: Project, model: str, kind: str, source: ModelSource) -> Recipe:
    found = _resolve(project, kind, source)
    return Recipe(
        kind, model, inputs={"weights": found.content_hash}, config={"variant": source.variant}
    )


def _weights(project: Project, model: str, kind: str, source: ModelSource) -> Built:
    recipe = _weights_recipe(project, model, kind, source)

    def make(folder: Path) -> dict[str, Any]:
        found = _resolve(project, kind, source)
        # The hub's cache is immutable and large, so it is linked; a folder may be edited: copied.
        copy = _link if source.is_hub else shutil.copyfile
        shutil.copytree(found.path, folder / "pipeline", copy_function=copy)
        write_json(folder / "base.json", {"variant": source.variant})
        return {"source": source.source, "revision": source.revision}

    return Store(project).build(recipe, make)


def _link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(Path(source).resolve())
    except OSError:
        shutil.copyfile(source, target)
