"""The recipe of what a family's job makes."""

from collections.abc import Mapping
from typing import Any

from adire_assets.core.family import Family, Step
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact


def job_recipe(
    project: Project,
    family: Family,
    step: Step,
    kind: str,
    made_from: Mapping[str, Artifact],
    config: Mapping[str, Any],
    device: str,
) -> Recipe:
    """What `step` makes of these artifacts, of one model, on a device of this class."""
    facts = project.placement.facts()
    return Recipe(
        kind,
        next(iter(made_from.values())).model,
        modules=step.modules,
        inputs={name: artifact.content_hash for name, artifact in made_from.items()},
        config=config,
        environment=facts.environment(*family.packages, device=device),
        facts=facts,
    )


def references(made_from: Mapping[str, Artifact]) -> dict[str, dict[str, str]]:
    """What the manifest says of them."""
    return {name: artifact.reference() for name, artifact in made_from.items()}
