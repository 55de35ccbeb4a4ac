"""The training step: an adapter from a dataset and a base model."""

from pathlib import Path
from typing import Any

from adire_assets.families.causal_lm.artifacts import BASE
from adire_assets.families.causal_lm.training import lora


def train(*, base_model: str, **arguments: Any) -> dict[str, Any]:
    """`lora.train` on the base model in an artifact's folder; `arguments` are its others."""
    return lora.train(base=str(Path(base_model) / BASE), **arguments)
