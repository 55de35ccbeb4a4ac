"""Small trainings for tests."""

import csv
from pathlib import Path
from typing import Any

from adire_assets.core.worker import Progress
from adire_assets.families.diffusion.training import lora
from tests.support import tiny

SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-2,
    "max_train_steps": 8,
    "checkpointing_steps": 4,
    "gradient_accumulation_steps": 1,
}


def silent(message: str, **numbers: float) -> None:
    pass


def arguments(folder: Path, base: Path, dataset: Path, **settings: Any) -> dict[str, Any]:
    """What `lora.train` takes, with output and work below `folder`; the output is made."""
    variant = settings.pop("variant", None)
    output = folder / "output"
    output.mkdir(parents=True, exist_ok=True)
    return {
        "dataset": str(dataset),
        "base": str(base),
        "variant": variant,
        "output": str(output),
        "training": {**SETTINGS, **settings},
        "work": str(folder / "work"),
        "resolution": tiny.RESOLUTION,
        "device": "cpu",
    }


def run(
    folder: Path, base: Path, dataset: Path, progress: Progress = silent, **settings: Any
) -> Path:
    """Train in this process; returns the folder of the adapter."""
    given = arguments(folder, base, dataset, **settings)
    lora.train(**given, progress=progress)
    return Path(given["output"])


def curve(folder: Path, name: str = "loss") -> dict[int, float]:
    """{step: loss} of a training's output."""
    with (folder / f"{name}.csv").open() as file:
        return {int(row["step"]): float(list(row.values())[1]) for row in csv.DictReader(file)}
