"""CLIP-S: does the image show what the prompt says?

    E_i = 2.5 * max(cos(image_i, prompt_i), 0), mean over the images

Range 0 to 2.5, higher is better. One number has three scales: a cosine of 0.30 is 30 for
torchmetrics and 0.75 here. Each judge has a level of its own, so a threshold holds for one judge
only.

Source: equation 1 of Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation Metric for Image
Captioning" (arXiv:2104.08718), without its prefix "A photo depicts".
"""

import numpy as np

from adire_assets.core.statistic import Statistic
from adire_assets.families.diffusion.evaluation.metric_inputs import MetricInputs
from adire_assets.families.diffusion.evaluation.metrics.vectors import zero_or_nan

SCALE = 2.5


def measure(inputs: MetricInputs) -> Statistic:
    """CLIP-S of each image with its prompt, 0 to 2.5; NaN when an embedding is not finite."""
    each = scores(inputs.embeddings, inputs.texts)
    return Statistic(each=each, constant=zero_or_nan(inputs.embeddings, inputs.texts))


def scores(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """CLIP-S of each pair, float64 [n], of unit vectors [n, d], row by row a pair."""
    if images.shape != texts.shape:
        raise ValueError(f"pairs need equal shapes, got {images.shape} and {texts.shape}")
    cosine = (images.astype(np.float64) * texts.astype(np.float64)).sum(1)
    return SCALE * np.maximum(cosine, 0.0)
