"""The drawing step: the images of an adapter, or of its bare base, and how long they take."""

from typing import Any

from adire_assets.families.diffusion.artifacts import base_in
from adire_assets.families.diffusion.evaluation import images


def draw(*, base_model: str, **arguments: Any) -> dict[str, Any]:
    """`images.draw` on the base model in a folder; `arguments` are its others."""
    return images.draw(**base_in(base_model), **arguments)


def measure(*, base_model: str, **arguments: Any) -> dict[str, Any]:
    """`images.measure`, likewise."""
    return images.measure(**base_in(base_model), **arguments)
