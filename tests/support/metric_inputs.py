"""Made-up inputs of metrics: unit vectors around one direction, and pictures of striped noise."""

import dataclasses
from typing import Any

import numpy as np

from adire_assets.families.diffusion.evaluation.metric_inputs import MetricInputs, RealImageFeatures

DIMENSIONS = 16
SIZE = 48  # pixels


def units(rng: np.random.Generator, count: int, width: int = DIMENSIONS) -> np.ndarray:
    """float32 [count, width]."""
    rows = rng.standard_normal((count, width)) + 0.5
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def picture(rng: np.random.Generator, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    """Soft blobs, no two alike, with the brightness and contrast of a photograph."""
    coarse = rng.normal(0, 1, (height // 6 + 1, width // 6 + 1, 3))
    blobs = coarse.repeat(6, 0).repeat(6, 1)[:height, :width]
    fine = rng.normal(0, 0.2, (height, width, 3))
    return np.clip(120 + 45 * (blobs + fine), 0, 255).astype(np.uint8)


def reference(rng: np.random.Generator, count: int) -> RealImageFeatures:
    return RealImageFeatures(tuple(picture(rng) for _ in range(count)), units(rng, count))


def metric_inputs(
    seed: int = 0, images: int = 5, held_out: int = 12, train: int = 20
) -> MetricInputs:
    """Images that are of one kind with the real ones; every prompt expects a shape."""
    rng = np.random.default_rng(seed)
    drawn = reference(rng, images)
    shapes = dict(zip(("ring", "leaf", "star"), units(rng, 3), strict=True))
    return MetricInputs(
        images=drawn.images,
        embeddings=drawn.embeddings,
        texts=units(rng, images),
        held_out=reference(rng, held_out),
        train=reference(rng, train),
        expected=tuple({"shape": "leaf"} for _ in range(images)),
        attributes={"shape": shapes},
    )


def take(given: MetricInputs, places: list[int], **changes: Any) -> MetricInputs:
    """The inputs for images `places`, an image twice where it is named twice."""
    return dataclasses.replace(
        given,
        images=tuple(given.images[place] for place in places),
        embeddings=given.embeddings[places],
        texts=given.texts[places],
        expected=tuple(given.expected[place] for place in places),
        **changes,
    )
