"""The artifact folders that this family's steps read.

base_model, judge   pipeline/ (the weights), base.json {"variant": of their files, or null}
dataset             see `data.dataset`
"""

from pathlib import Path
from typing import Any

from adire_assets.core.store import read_json, write_json

PIPELINE = "pipeline"


def base_in(artifact: str | Path) -> dict[str, Any]:
    """The arguments `base` and `variant` of what draws with or trains on a base model."""
    folder = Path(artifact)
    return {"base": str(folder / PIPELINE), "variant": read_json(folder / "base.json")["variant"]}


def resolution_of(dataset: str | Path) -> int:
    """Pixels of the shorter side of a dataset's images."""
    return read_json(Path(dataset) / "summary.json")["resolution"]


def link_weights(weights: Path, variant: str | None, folder: Path) -> Path:
    """The new `folder` as that of a base model or judge whose weights lie in another one."""
    folder.mkdir(parents=True)
    (folder / PIPELINE).symlink_to(weights.absolute())
    write_json(folder / "base.json", {"variant": variant})
    return folder
