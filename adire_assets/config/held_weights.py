"""The weights that a model's YAML names, its base and its judge, held in the store.

The family decides what they are made from and how. `kind` is "base_model" or "judge".
"""

from pathlib import Path
from typing import Any

from adire_assets.config.model import ModelConfig, load_model
from adire_assets.core.family import family
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Built, Store
from adire_assets.core.worker import RunWorker


def recipe(project: Project, model: str, config: ModelConfig, kind: str) -> Recipe:
    """What the weights are made from, as the config says now."""
    return family(config.family).weights.functions.recipe(project, model, config, kind)


def known(project: Project, model: str, kind: str) -> Artifact | None:
    """The weights when the store has them already, else None."""
    return Store(project).find(recipe(project, model, load_model(project, model), kind))


def held(project: Project, model: str, kind: str, run_worker: RunWorker | None = None) -> Built:
    """The weights, made if the store lacks them; `run_worker` runs what needs a child process."""
    config = load_model(project, model)
    made_from = recipe(project, model, config, kind)
    weights = family(config.family).weights.functions

    def make(folder: Path) -> dict[str, Any]:
        return weights.make(project, config, made_from, folder, run_worker)

    return Store(project).build(made_from, make)
