"""The scoring step."""

from pathlib import Path
from typing import Any

from adire_assets.families.diffusion.artifacts import PIPELINE
from adire_assets.families.diffusion.evaluation import evaluate


def score(*, judge: str, **arguments: Any) -> dict[str, Any]:
    """`evaluate.score` with the judge in an artifact's folder; `arguments` are its others."""
    return evaluate.score(judge=str(Path(judge) / PIPELINE), **arguments)
