"""The answering step: what an adapter, or its bare base, answers, and how long that takes."""

from pathlib import Path
from typing import Any

from adire_assets.families.causal_lm.artifacts import BASE
from adire_assets.families.causal_lm.evaluation import write_answers


def draw(*, base_model: str, **arguments: Any) -> dict[str, Any]:
    """`write_answers.write` on the base model in an artifact's folder."""
    return write_answers.write(base=str(Path(base_model) / BASE), **arguments)


def measure(*, base_model: str, **arguments: Any) -> dict[str, Any]:
    """`write_answers.measure`, likewise."""
    return write_answers.measure(base=str(Path(base_model) / BASE), **arguments)
