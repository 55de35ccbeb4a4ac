"""The four roots of a model's graph: what the project says now, resolved, validated and kept.

Every artefact downstream is made from these, so a file that is edited in the middle of a run
changes nothing in them; going live asks the gates of that moment. `root_keys` tells what the roots
would be now, without making them.

A base model that is a single .safetensors file is turned into a diffusers folder in a child
process; every other root is made here.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adire_assets import lineage
from adire_assets.config import DataConfig, EvaluationConfig, ModelConfig, Project, load_model
from adire_assets.data import dvc
from adire_assets.diffusion import base
from adire_assets.errors import UserError
from adire_assets.evaluation.prompts import load_prompt_set
from adire_assets.fleet_config import load_fleet
from adire_assets.lineage import Recipe
from adire_assets.sources_config import BaseModelSource, ModelSource
from adire_assets.store import Artefact, Built, Store, link, write_json

if TYPE_CHECKING:
    from adire_assets.pipeline import RunWorker

CONVERSION_MODULES = ("adire_assets.diffusion.single_file",)
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


def base_model(project: Project, model: str, run_worker: "RunWorker") -> Built:
    """The base's weights, held in the store under their content hash.

    `run_worker` is called for a single file that the store does not hold yet.
    """
    source = load_model(project, model).base_model
    if source.is_file:
        return _converted(project, model, source, run_worker)
    return _weights(project, model, "base_model", source)


def known_base_model(project: Project, model: str) -> Artefact | None:
    """What `base_model` would give, when the store holds it already."""
    return Store(project).find(_base_recipe(project, model, load_model(project, model)))


def evaluation_config(project: Project, model: str) -> Built:
    """How the model is evaluated, gated and served; the judge's weights come into the store."""
    config = load_model(project, model)
    recipe = _evaluation_config_recipe(project, model, config)
    return _config_root(project, recipe, judge=judge(project, model).artefact.reference())


def judge(project: Project, model: str) -> Built:
    """The weights of the CLIP or SigLIP that scores this model's images."""
    return _weights(project, model, "judge", load_model(project, model).evaluation.judge)


def known_judge(project: Project, model: str) -> Artefact | None:
    """What `judge` would give, when the store holds it already."""
    source = load_model(project, model).evaluation.judge
    return Store(project).find(_weights_recipe(project, model, "judge", source))


def evaluation_settings(project: Project, config: EvaluationConfig) -> dict[str, Any]:
    """What an evaluation is made with: everything but the thresholds, and how the judge is pinned,
    because the judge's own hash counts. `prompt_set` is the content of its file, or None."""
    settings = config.model_dump(exclude={"gates": True, "judge": {"sha256"}})
    if config.prompt_set is not None:
        file = project.inside(config.prompt_set, "evaluation.prompt_set")
        settings["prompt_set"] = load_prompt_set(file).model_dump()
    return settings


def root_keys(project: Project, model: str) -> dict[str, str]:
    """Root asset name -> recipe key as the working tree is now; reads hashes, not images."""
    return {name: root_key(project, model, name) for name in ROOTS}


def root_key(project: Project, model: str, name: str) -> str:
    """The recipe key of one root as the working tree is now; the others are not looked at."""
    return ROOTS[name](project, model, load_model(project, model)).key


def _training_data_now(project: Project, model: str, config: ModelConfig) -> Recipe:
    tree = dvc.subtree(project, config.data.dvc_file, config.data.path)
    return _training_data_recipe(model, config.data, tree)


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
            "evaluation": evaluation_settings(project, config.evaluation),
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
        source.source,
        source.revision,
        source.variant,
        project.root,
        marker=marker,
        key=key,
        sha256=source.sha256,
    )


def _base_recipe(project: Project, model: str, config: ModelConfig) -> Recipe:
    source = config.base_model
    if source.is_file:
        return _conversion_recipe(project, model, source)[0]
    return _weights_recipe(project, model, "base_model", source)


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
        copy = link if source.is_hub else shutil.copyfile
        shutil.copytree(found.path, folder / "pipeline", copy_function=copy)
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
    project: Project, model: str, source: BaseModelSource, run_worker: "RunWorker"
) -> Built:
    recipe, file, config = _conversion_recipe(project, model, source)

    def make(folder: Path) -> dict[str, Any]:
        result = run_worker(
            "adire_assets.diffusion.single_file:convert",
            file=file.path,
            config=config.path,
            output=folder / "pipeline",
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


ROOTS = {
    "training_data": _training_data_now,
    "training_config": _training_config_recipe,
    "base_model": _base_recipe,
    "evaluation_config": _evaluation_config_recipe,
}
