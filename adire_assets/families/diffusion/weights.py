"""The weights of a model's base and judge, as its config names them now, held in the store.

A base model that is a single .safetensors file is turned into a diffusers folder in a child
process; every other is copied or linked.
"""

import shutil
from pathlib import Path
from typing import Any

from adire_assets.config.model import ModelConfig, load_model
from adire_assets.config.weights import ModelSource
from adire_assets.core.errors import UserError
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Built, Store, hard_link_or_copy, write_json
from adire_assets.core.worker import RunWorker
from adire_assets.families.diffusion import base
from adire_assets.families.diffusion.artifacts import PIPELINE, link_weights
from adire_assets.families.diffusion.config import BaseModelSource, DiffusionConfig

CONVERSION_MODULES = ("adire_assets.families.diffusion.formats.single_file",)
WEIGHTS = {  # kind -> the file that tells such a folder, and the config key that names it
    "base_model": ("model_index.json", "base_model"),
    "judge": ("config.json", "evaluation.judge"),
}


def base_model(project: Project, model: str, run_worker: RunWorker) -> Built:
    """The base's weights, held in the store under their content hash.

    `run_worker` is called for a single file that the store does not hold yet.
    """
    source = _config(project, model).base_model
    if source.is_file:
        return _converted(project, model, source, run_worker)
    return _weights(project, model, "base_model", source)


def _config(project: Project, model: str) -> DiffusionConfig:
    return _own(load_model(project, model))


def _own(config: ModelConfig) -> DiffusionConfig:
    assert isinstance(config, DiffusionConfig)  # it is of this family
    return config


def known_base_model(project: Project, model: str) -> Artifact | None:
    """What `base_model` would give, when the store holds it already."""
    return Store(project).find(base_recipe(project, model, _config(project, model)))


def judge(project: Project, model: str) -> Built:
    """The weights of the CLIP or SigLIP that scores this model's images."""
    return _weights(project, model, "judge", _config(project, model).evaluation.judge)


def known_judge(project: Project, model: str) -> Artifact | None:
    """What `judge` would give, when the store holds it already."""
    return Store(project).find(judge_recipe(project, model, _config(project, model)))


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


def base_recipe(project: Project, model: str, config: ModelConfig) -> Recipe:
    """What the base model is made from, as the config says now."""
    source = _own(config).base_model
    if source.is_file:
        return _conversion_recipe(project, model, source)[0]
    return _weights_recipe(project, model, "base_model", source)


def judge_recipe(project: Project, model: str, config: ModelConfig) -> Recipe:
    """What the judge is made from, as the config says now."""
    return _weights_recipe(project, model, "judge", _own(config).evaluation.judge)


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
        copy = hard_link_or_copy if source.is_hub else shutil.copyfile
        shutil.copytree(found.path, folder / PIPELINE, copy_function=copy)
        write_json(folder / "base.json", {"variant": source.variant})
        return {"source": source.source, "revision": source.revision}

    return Store(project).build(recipe, make)


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


def _converted(
    project: Project, model: str, source: BaseModelSource, run_worker: RunWorker
) -> Built:
    recipe, file, config = _conversion_recipe(project, model, source)

    def make(folder: Path) -> dict[str, Any]:
        result = run_worker(
            "adire_assets.families.diffusion.formats.single_file:convert",
            file=file.path,
            config=config.path,
            output=folder / PIPELINE,
        )
        # Read again if its size or time is another: the key must be that of what was converted.
        if _conversion_recipe(project, model, source)[0].inputs != recipe.inputs:
            raise UserError(
                f"base_model: {file.path} or its config changed while it was converted; "
                f"materialize {model}/base_model again"
            )
        write_json(folder / "base.json", {"variant": None})
        facts = {"config": config.identity, **result}
        return {"source": source.source, "revision": None, **facts}

    return Store(project).build(recipe, make)
