"""The source assets of a model's graph: what the project says now, resolved, validated and kept.

Every artifact downstream is made from these, so editing a file during a run changes none of them. A
deployment uses the gates of the moment at which it starts. `source_keys` gives the keys that the
sources would have now, without making them.

The weights of base and judge are the family's (`config.held_weights`).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from adire_assets.config import held_weights
from adire_assets.config.fleet import device_class
from adire_assets.config.model import ModelConfig, load_model
from adire_assets.config.takedowns import taken_down
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Built, Store, write_json
from adire_assets.core.worker import RunWorker
from adire_assets.tracking.dvc import versions


def training_data(project: Project, model: str) -> Built:
    """The files that data.dvc names for this model, and how to read them; no bytes are copied."""
    whole = load_model(project, model)
    config = whole.data
    tree = versions.subtree(project, config.dvc_file, config.path)
    versions.verify_working_tree(project, config.dvc_file, config.path, tree)
    recipe = _training_data_recipe(project, model, whole, tree)

    def make(folder: Path) -> dict[str, Any]:
        write_json(folder / "files.json", dict(sorted(tree.files.items())))
        write_json(folder / "data.json", recipe.config)
        return {"dvc_hash": tree.dvc_hash, "data_hash": tree.hash}

    return Store(project).build(recipe, make)


def training_config(project: Project, model: str) -> Built:
    """The resolved hyperparameters, and the device they are meant for."""
    recipe = _training_config_recipe(project, model, load_model(project, model))
    return _config_root(project, recipe)


def base_model(project: Project, model: str, run_worker: RunWorker) -> Built:
    """The weights that an adapter is trained on, held in the store."""
    return held_weights.held(project, model, "base_model", run_worker)


def evaluation_config(project: Project, model: str) -> Built:
    """How the model is evaluated, gated and served; the judge's weights come into the store."""
    config = load_model(project, model)
    recipe = _evaluation_config_recipe(project, model, config)
    judge = held_weights.held(project, model, "judge").artifact
    return _config_root(project, recipe, judge=judge.reference())


def source_keys(project: Project, model: str) -> dict[str, str]:
    """{source: recipe key} as the working tree is now; reads hashes, not the data."""
    return {name: source_key(project, model, name) for name in SOURCES}


def source_key(project: Project, model: str, name: str) -> str:
    """The recipe key of one source as the working tree is now."""
    return SOURCES[name](project, model, load_model(project, model)).key


def _training_data_now(project: Project, model: str, config: ModelConfig) -> Recipe:
    tree = versions.subtree(project, config.data.dvc_file, config.data.path)
    return _training_data_recipe(project, model, config, tree)


def _training_data_recipe(
    project: Project, model: str, config: ModelConfig, tree: versions.Subtree
) -> Recipe:
    settings = {"family": config.family, "data": config.data.model_dump()}
    if gone := taken_down(project):
        settings["taken_down"] = [*gone]
    return Recipe("training_data", model, inputs={"files": tree.hash}, config=settings)


def _training_config_recipe(project: Project, model: str, config: ModelConfig) -> Recipe:
    training, device = config.training.model_dump(), device_class(project)
    settings = {"family": config.family, "training": training, "device": device}
    return Recipe("training_config", model, config=settings)


def _evaluation_config_recipe(project: Project, model: str, config: ModelConfig) -> Recipe:
    judge = held_weights.recipe(project, model, config, "judge")
    settings = {
        "family": config.family,
        "evaluation": config.evaluation_settings(project),
        "gates": config.evaluation.gates.model_dump(),
        "serving": config.serving.settings(project),
    }
    inputs = {"judge": judge.inputs["weights"]}
    return Recipe("evaluation_config", model, inputs=inputs, config=settings)


def _config_root(project: Project, recipe: Recipe, **references: dict[str, str]) -> Built:
    def make(folder: Path) -> dict[str, Any]:
        write_json(folder / "config.json", {**recipe.config, **references})
        return references

    return Store(project).build(recipe, make)


SOURCES: dict[str, Callable[[Project, str, ModelConfig], Recipe]] = {
    "training_data": _training_data_now,
    "training_config": _training_config_recipe,
    "base_model": partial(held_weights.recipe, kind="base_model"),
    "evaluation_config": _evaluation_config_recipe,
}
