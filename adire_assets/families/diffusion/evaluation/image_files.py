"""The images that an evaluation reads: those of a dataset, and those that were drawn.

A dataset may have more images than memory holds, so each is decoded when it is looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image

from adire_assets.core.errors import UserError
from adire_assets.core.store import read_json
from adire_assets.families.diffusion.evaluation.prompts import read_rows


class ImageFiles(Sequence[np.ndarray]):
    """uint8 [H, W, 3] each, read anew each time."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, place: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, place: slice) -> "ImageFiles": ...
    def __getitem__(self, place: int | slice) -> "np.ndarray | ImageFiles":
        if isinstance(place, slice):
            return ImageFiles(self.paths[place])
        with Image.open(self.paths[place]) as image:
            return np.asarray(image.convert("RGB"))


@dataclass(frozen=True)
class RealImages:
    """One part of a dataset: captions, and uint8 [H, W, 3] each."""

    captions: tuple[str, ...]
    images: ImageFiles


@dataclass(frozen=True)
class DrawnImages:
    """An evaluation_images artifact: its entries and the images, uint8 [H, W, 3] each."""

    entries: tuple[dict[str, Any], ...]
    images: tuple[np.ndarray, ...]
    problems: tuple[str, ...]


def read_drawn(folder: Path) -> DrawnImages:
    """The images of an evaluation_images artifact."""
    entries = read_json(folder / "images.json")
    images = tuple(ImageFiles([folder / entry["file"] for entry in entries]))
    return DrawnImages(tuple(entries), images, tuple(read_json(folder / "problems.json")))


def read_real(dataset: Path, part: str) -> RealImages:
    """The part "held_out" or "train" of a dataset artifact. UserError when it is empty or leaves
    its folder."""
    rows = read_rows(dataset, part)
    paths = [(dataset / row["file_name"]).resolve() for row in rows]
    for row, path in zip(rows, paths, strict=True):
        if not path.is_relative_to(dataset.resolve()):
            raise UserError(f"{dataset / part}.jsonl: {row['file_name']} leaves the dataset")
    return RealImages(tuple(row["text"] for row in rows), ImageFiles(paths))


def require_pairs(adapter: DrawnImages, base: DrawnImages) -> None:
    """UserError unless both show the same prompts and seeds: all is compared image by image."""
    asked = [[(entry["prompt"], entry["seed"]) for entry in one.entries] for one in (adapter, base)]
    if adapter.entries and asked[0] != asked[1]:
        raise UserError(
            "the images of the adapter and of its base are not those of the same prompts and "
            "seeds; draw both with the same settings"
        )


def evenly_spaced(count: int, at_most: int) -> range | list[int]:
    """The places of `at_most` of `count` things, evenly over all of them."""
    if count <= at_most:
        return range(count)
    return np.linspace(0, count - 1, at_most).round().astype(int).tolist()
