"""The accepted images of a dataset, split in three by their content.

An image's own pixels say where it falls. One too close to an image of a split that counts more
(held-out before validation before train) is rejected.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np

from adire_assets.core import splits
from adire_assets.core.errors import UserError
from adire_assets.core.file_names import suffix_of
from adire_assets.families.diffusion.config import DataConfig
from adire_assets.families.diffusion.data.duplicates import nearest, nearest_earlier
from adire_assets.families.diffusion.data.images import ENDINGS

MINIMUM_HELD_OUT = 4  # KID's unbiased estimate over fewer is noise
MINIMUM_TRAIN = 4
SHOWN_REASONS = 5
FRACTIONS_TRIED = 20  # with near duplicates, before the advice is to add images alone


@dataclass(frozen=True)
class Rejection:
    file: str
    reason: str


@dataclass(frozen=True)
class NearDuplicate:
    """`file` looks like `of`, an image of the same split; `distance` in bits of 64."""

    file: str
    of: str
    distance: int


@dataclass(frozen=True)
class Accepted:
    """An accepted image; its normalised pixels lie in `staged`."""

    source: str  # its path in the source folder, in composed form
    staged: Path
    pixels: str  # SHA-256 of size and full-size RGB pixels
    sha256: str
    phash: bytes  # 8 bytes
    uncalibrated: bool

    @property
    def score(self) -> float:
        """Where its content falls in [0, 1): held out, validation, train, in this order."""
        return splits.score(self.pixels)

    @property
    def name(self) -> str:
        """Its path in the dataset."""
        path = PurePosixPath(self.source)
        known = suffix_of(self.source) in ENDINGS
        return f"images/{path.with_suffix('') if known else path}.png"


def split_images(
    images: Sequence[Accepted], config: DataConfig
) -> tuple[dict[str, list[Accepted]], list[Rejection]]:
    """({split: its images}, those rejected as near duplicates across splits)."""
    kept: dict[str, list[Accepted]] = {"train": [], "validation": [], "held_out": []}
    rejected: list[Rejection] = []
    for name in splits.SPLITS:
        before = [(other, image) for other, split in kept.items() for image in split]
        candidates = [image for image in images if _split_of(image, config) == name]
        kept[name] = candidates
        if not before or not candidates:
            continue
        index, distance = nearest(_hashes(candidates), _hashes([image for _, image in before]))
        kept[name] = []
        for image, place, bits in zip(candidates, index, distance, strict=True):
            if bits > config.near_duplicate_distance:
                kept[name].append(image)
                continue
            other, twin = before[place]
            reason = f"a near duplicate ({bits} bits) of the {splits.SPLITS[other]} {twin.source}"
            rejected.append(Rejection(image.source, reason))
    return kept, rejected


def _split_of(image: Accepted, config: DataConfig) -> str:
    return splits.split_of(image.score, config.held_out_fraction, config.validation_fraction)


def near_duplicates(split: Sequence[Accepted], config: DataConfig) -> list[NearDuplicate]:
    """Each image of one split that is close to an earlier one, with the closest of these."""
    if not split:
        return []
    index, distance = nearest_earlier(_hashes(split))
    return [
        NearDuplicate(image.source, split[other].source, int(bits))
        for image, other, bits in zip(split, index, distance, strict=True)
        if bits <= config.near_duplicate_distance
    ]


def _hashes(images: Sequence[Accepted]) -> np.ndarray:
    """uint8 [n, 8]"""
    return np.frombuffer(b"".join(image.phash for image in images), np.uint8).reshape(-1, 8)


def refuse_too_few(
    source: Path,
    config: DataConfig,
    images: Sequence[Accepted],
    by_split: Mapping[str, Sequence[Accepted]],
    rejected: Sequence[Rejection],
) -> None:
    there = sum(map(len, by_split.values()))
    if there < config.minimum_images:
        problem = (
            f"{source}: {config.minimum_images} images are needed (data.minimum_images), "
            f"{there} are usable; add images"
        )
    elif (held_out := len(by_split["held_out"])) < MINIMUM_HELD_OUT:
        problem = (
            f"{source}: {MINIMUM_HELD_OUT} held-out images are needed to evaluate, "
            f"{held_out} of {there} fall there; {_advice(images, config)}"
        )
    elif (train := len(by_split["train"])) < MINIMUM_TRAIN:
        problem = (
            f"{source}: {MINIMUM_TRAIN} images are needed to train on, {train} of {there} "
            f"fall there; {_advice(images, config)}"
        )
    else:
        return
    shown = [f"rejected: {item.file}: {item.reason}" for item in rejected[:SHOWN_REASONS]]
    if len(rejected) > SHOWN_REASONS:
        reasons = Counter(item.reason.split(":")[0] for item in rejected)
        shown.append(f"... {len(rejected)} rejected in all; most: {reasons.most_common(1)[0][0]}")
    raise UserError("\n".join([problem, *shown]))


def _advice(images: Sequence[Accepted], config: DataConfig) -> str:
    """What to do about a split that is too small: the nearest fractions that work, if any do."""
    now = {key: getattr(config, key) for key in ("held_out_fraction", "validation_fraction")}
    scores = [image.score for image in images]
    enough = splits.fractions_that_give(scores, now, MINIMUM_HELD_OUT, MINIMUM_TRAIN)
    for fractions in islice(enough, FRACTIONS_TRIED):
        # Near duplicates of another split can only take from what is trained on.
        tried, _ = split_images(images, config.model_copy(update=fractions))
        usable = sum(map(len, tried.values())) >= config.minimum_images
        if usable and len(tried["train"]) >= MINIMUM_TRAIN:
            return f"add images, or set {splits.told(fractions, now)}"
    return "add images"
