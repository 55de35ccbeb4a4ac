"""Style similarity: is an image as near to the real ones as these are to each other?

    E_i = mean_j cos(g_i, h_j) / mean_{j != k} cos(h_j, h_k)

with g_i the judge's vector of image i and h those of the held-out images. 1 is as near as real
images are to each other; it may exceed 1 (an image in the middle of the style is nearer to all of
them than they are to one another) and a judge with cosines below 0 can make it negative. Higher is
better. NaN with fewer than two held-out images, or when these point nowhere together (mean cosine
at or below 0), because there is no style to compare with then.

Source: image-image cosine as CLIP-I of Ruiz et al. 2023, "DreamBooth" (arXiv:2208.12242),
divided by its value for real images so that judges compare.
"""

import math

from adire_assets.core.statistic import Statistic
from adire_assets.families.diffusion.evaluation.metric_inputs import MetricInputs
from adire_assets.families.diffusion.evaluation.metrics.vectors import (
    cosines,
    mean_cosine,
    zero_or_nan,
)


def measure(inputs: MetricInputs) -> Statistic:
    """Mean cosine of each image with the held-out images, relative to theirs; 1 is as real."""
    real = inputs.held_out.embeddings
    among_real = mean_cosine(real)
    if not among_real > 0:
        return Statistic(constant=math.nan)
    each = cosines(inputs.embeddings, real).mean(1) / among_real
    return Statistic(each=each, constant=zero_or_nan(inputs.embeddings, real))
