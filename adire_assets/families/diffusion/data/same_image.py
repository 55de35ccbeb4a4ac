"""Which images of datasets are a given file in other bytes, by their pixels.

A dataset keeps the SHA-256 of an image's file, its perceptual hash and its pixels at the dataset's
resolution, so a file is brought to that form and compared with them.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from adire_assets.core.errors import UserError
from adire_assets.core.file_names import suffix_of
from adire_assets.core.files import read_json, read_json_lines
from adire_assets.core.splits import SPLITS
from adire_assets.families.diffusion.data.images import (
    ENDINGS,
    NO_IMAGE,
    OTHER_PICTURES,
    Rejected,
    load,
    own_pixel_limit,
)


def fit(image: Image.Image, resolution: int) -> Image.Image:
    """The image with the shorter side at `resolution` (Lanczos)."""
    shorter = min(image.size)
    if shorter == resolution:
        return image
    width, height = (round(side * resolution / shorter) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def perceptual_hash(image: Image.Image) -> bytes:
    """8 bytes"""
    return np.packbits(imagehash.phash(image).hash.flatten()).tobytes()


def identities(file: Path, maximum_pixels: int, datasets: Iterable[Path]) -> Iterator[str]:
    """The SHA-256 of the files that the images of datasets with the pixels of `file` came from.

    None of an image that no dataset takes. UserError for a file that is no image.
    """
    try:
        with own_pixel_limit():
            image = load(file, file.parent, maximum_pixels).image
    except Rejected as reason:
        if str(reason) == NO_IMAGE and suffix_of(file.name) not in (*ENDINGS, *OTHER_PICTURES):
            raise UserError(f"{file} is {reason}; name an image") from None
        return
    for dataset in datasets:
        resolution = read_json(dataset / "summary.json").get("resolution")
        if resolution is None or min(image.size) < resolution:
            continue
        fitted = fit(image, resolution)
        phash = perceptual_hash(fitted).hex()
        for split in SPLITS:
            for row in read_json_lines(dataset / f"{split}.jsonl"):
                if row.get("phash") == phash and _has(dataset / row["file_name"], fitted):
                    yield row["sha256"]


def _has(file: Path, image: Image.Image) -> bool:
    with Image.open(file) as kept:
        return kept.size == image.size and kept.convert("RGB").tobytes() == image.tobytes()
