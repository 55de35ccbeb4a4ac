"""The weights of a model's base and judge, as its config names them now, held in the store.

A base model that is a single .safetensors file is turned into a diffusers folder in a child
process; every other is copied or linked.
"""

import shutil
from pathlib import Path
from typing import Any, TypeGuard

from adire_assets.config.weights import ModelSource
from adire_assets.core.errors import UserError
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, hard_link_or_copy, write_json
from adire_assets.core.worker import RunWorker
from adire_assets.families.diffusion import base
from adire_assets.families.diffusion.artifacts import PIPELINE, link_weights
from adire_assets.families.diffusion.config import BaseModelSource, DiffusionConfig
from adire_assets.families.diffusion.schedulers import refusal

CONVERSION_MODULES = ("adire_assets.families.diffusion.formats.single_file",)
WEIGHTS = {  # kind -> the file that tells such a folder, and the config key that names it
    "base_model": ("model_index.json", "base_model"),
    "judge": ("config.json", "evaluation.judge"),
}


def recipe(project: Project, model: str, config: DiffusionConfig, kind: str) -> Recipe:
    """What a base model or judge is made from, as the config says now. UserError for a scheduler
    that the config names and that does not fit the base."""
    source = _source(config, kind)
    if _is_file(source):
        made, _, described = _conversion_recipe(project, model, source)
        _require_schedulers(config, described.path)
        return made
    found = _resolve(project, kind, source)
    if kind == "base_model":
        _require_schedulers(config, found.path)
    return Recipe(
        kind, model, inputs={"weights": found.content_hash}, config={"variant": source.variant}
    )


def make(
    project: Project,
    config: DiffusionConfig,
    recipe: Recipe,
    folder: Path,
    run_worker: RunWorker | None,
) -> dict[str, Any]:
    """Fill the folder of a base model or judge; what its manifest says of the source.

    `run_worker` is called for a single file.
    """
    source = _source(config, recipe.kind)
    if _is_file(source):
        assert run_worker is not None  # a judge is no single file
        return _convert(project, source, recipe, folder, run_worker)
    found = _resolve(project, recipe.kind, source)
    # The hub's cache is immutable and large, so it is linked; a folder may be edited: copied.
    copy = hard_link_or_copy if source.is_hub else shutil.copyfile
    shutil.copytree(found.path, folder / PIPELINE, copy_function=copy)
    write_json(folder / "base.json", {"variant": source.variant})
    return {"source": source.source, "revision": source.revision}


def _require_schedulers(config: DiffusionConfig, pipeline: Path) -> None:
    training, serving = config.training, config.serving
    shown = training.validation_scheduler, training.validation_num_inference_steps
    for key, scheduler, steps in (
        ("serving.scheduler", serving.scheduler, serving.maximum_inference_steps),
        ("training.validation_scheduler", *shown),
    ):
        if why := refusal(pipeline, scheduler, steps):
            raise UserError(f"{key}: {why}")


def _source(config: DiffusionConfig, kind: str) -> ModelSource:
    return config.base_model if kind == "base_model" else config.evaluation.judge


def _is_file(source: ModelSource) -> TypeGuard[BaseModelSource]:
    return isinstance(source, BaseModelSource) and source.is_file


def _resolve(project: Project, kind: str, source: ModelSource) -> base.ResolvedBase:
    marker, key = WEIGHTS[kind]
    return base.resolve(
        source.source,
        source.revision,
        source.variant,
        project.root,
        marker=marker,
        key=key,
        sha256=source.sha256,
    )


def find_again(project: Project, recorded: Artifact, folder: Path) -> str:
    """Make the new `folder` that of a base model which the store no longer holds; its name.

    UserError when its source holds other weights now.
    """
    manifest = recorded.manifest
    source, recipe = manifest["source"], manifest["recipe"]
    if "config" in recipe["inputs"]:  # a single file, which is converted
        raise UserError(
            f"the base model {source} is no longer in the store; run "
            f"`adire materialize {recorded.model} --select base_model`, which makes it again"
        )
    variant, wanted = recipe["config"]["variant"], recipe["inputs"]["weights"]
    found = base.resolve(source, manifest["revision"], variant, project.root)
    if found.content_hash != wanted:
        raise UserError(
            f"the base model {source} is no longer in the store, and {found.path} is other weights "
            f"now ({found.content_hash[:12]}, not {wanted[:12]}); put those of then back there"
        )
    link_weights(found.path, variant, folder)
    return found.identity


def _conversion_recipe(
    project: Project, model: str, source: BaseModelSource
) -> tuple[Recipe, base.ResolvedBase, base.ResolvedBase]:
    """(recipe, file, config) of a base model that is a single file."""
    if source.config is None:  # the schema asks for it
        raise UserError(f"base_model.config is missing; {source.source} holds weights only")
    file = _resolve(project, "base_model", source)
    config = base.resolve_config(source.config.source, source.config.revision, project.root)
    recipe = Recipe(
        "base_model",
        model,
        modules=CONVERSION_MODULES,
        inputs={"weights": file.content_hash, "config": config.content_hash},
    )
    return recipe, file, config


def _convert(
    project: Project,
    source: BaseModelSource,
    recipe: Recipe,
    folder: Path,
    run_worker: RunWorker,
) -> dict[str, Any]:
    _, file, config = _conversion_recipe(project, recipe.model, source)
    result = run_worker(
        "adire_assets.families.diffusion.formats.single_file:convert",
        file=file.path,
        config=config.path,
        output=folder / PIPELINE,
    )
    # Read again if its size or time is another: the key must be that of what was converted.
    if _conversion_recipe(project, recipe.model, source)[0].inputs != recipe.inputs:
        raise UserError(
            f"base_model: {file.path} or its config changed while it was converted; "
            f"materialize {recipe.model}/base_model again"
        )
    write_json(folder / "base.json", {"variant": None})
    return {"source": source.source, "revision": None, "config": config.identity, **result}
