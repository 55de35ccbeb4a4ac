"""One image in one of its views: scaled to cover a bucket, cut out at a place, augmented.

An image has a finite number of views, so each can be encoded once and found again by its key.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from adire_assets.core.errors import UserError
from adire_assets.core.files import read_json, read_json_lines
from adire_assets.core.lineage import file_digest
from adire_assets.families.diffusion.training.augmentations import AUGMENTATIONS
from adire_assets.families.diffusion.training.buckets import Shape


@dataclass(frozen=True)
class Row:
    """An image of the dataset; `content` is the SHA-256 of its file."""

    file: Path
    content: str
    text: str


@dataclass(frozen=True)
class View:
    """How an image is seen: scaled to cover `shape`, cut out there, augmented."""

    row: int
    shape: Shape
    across: float
    down: float
    versions: tuple[int, ...] = ()

    def augmented(self, names: Sequence[str]) -> list[tuple[str, int]]:
        """The augmentations that change something here, of all that are in use."""
        used = names if self.versions else ()
        return [(name, n) for name, n in zip(used, self.versions, strict=True) if n]


def read_rows(folder: Path, name: str) -> list[Row]:
    """The rows of <name>.jsonl in a dataset artifact."""
    manifest = folder / "manifest.json"
    known = read_json(manifest)["files"] if manifest.is_file() else {}
    rows = []
    for row in read_json_lines(folder / f"{name}.jsonl"):
        file = row["file_name"]
        content = known.get(file) or file_digest(folder / file)
        rows.append(Row(folder / file, content, row["text"]))
    return rows


def key_of(row: Row, view: View, augmentations: Sequence[str]) -> tuple:
    """What the view's pixels are a function of."""
    augmented = tuple(view.augmented(augmentations))
    return row.content, view.shape, view.across, view.down, augmented


def pixels(file: Path, view: View, augmentations: Sequence[str]) -> Tensor:
    """float32 [1, 3, H, W] in -1..1. UserError when the image is smaller than the view."""
    width, height = view.shape
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    scale = max(width / image.width, height / image.height)
    if scale > 1:
        raise UserError(
            f"{file} is smaller than {width}x{height} pixels; materialize dataset again"
        )
    if scale < 1:
        wide, high = (round(side * scale) for side in image.size)
        size = max(wide, width), max(high, height)
        image = image.resize(size, Image.Resampling.LANCZOS)
    left = round((image.width - width) * view.across)
    top = round((image.height - height) * view.down)
    image = image.crop((left, top, left + width, top + height))
    for name, version in view.augmented(augmentations):
        image = AUGMENTATIONS[name](image, version)
    return torch.from_numpy(np.asarray(image, np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
