"""Diversity: do the images differ from each other as much as the training images do?

    P_ij = (1 - cos(g_i, g_j)) / mean_{j != k} (1 - cos(t_j, t_k))

with g the judge's vectors of the images and t those of the training images. 0 is one image over
and over, 1 as varied as the training set, above 1 more varied; higher is better. NaN with fewer
than two images or fewer than two different training images. Prompts differ as well as seeds, so
the figure depends on the prompt set: compare within one only.

Source: mean pairwise distance as a measure of diversity as in Zhu et al. 2017, "Toward Multimodal
Image-to-Image Translation" (arXiv:1711.11586), with the judge's cosine for LPIPS.
"""

import math

from adire_assets.core.statistic import Statistic
from adire_assets.families.diffusion.evaluation.metric_inputs import MetricInputs
from adire_assets.families.diffusion.evaluation.metrics.vectors import (
    cosines,
    mean_cosine,
    zero_or_nan,
)

DIFFERENT = 1e-6  # mean cosine distance; rounding of float32 stays below, other pictures far above


def measure(inputs: MetricInputs) -> Statistic:
    """Mean cosine distance over pairs of images, relative to that of the training images."""
    train = inputs.train.embeddings
    spread = 1 - mean_cosine(train)
    if not spread > DIFFERENT:
        return Statistic(constant=math.nan)
    pairs = (1 - cosines(inputs.embeddings, inputs.embeddings)) / spread
    return Statistic(pairs=pairs, constant=zero_or_nan(inputs.embeddings, train))
