"""The training step: an adapter from a dataset and a base model."""

from typing import Any

from adire_assets.families.diffusion.artifacts import base_in, resolution_of
from adire_assets.families.diffusion.training import lora


def train(*, dataset: str, base_model: str, **arguments: Any) -> dict[str, Any]:
    """`lora.train` on the artifacts in two folders; `arguments` are its others."""
    return lora.train(
        dataset=dataset, resolution=resolution_of(dataset), **base_in(base_model), **arguments
    )
