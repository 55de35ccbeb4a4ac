"""Sharpness: is there as much fine structure as in real images, and not more?

    s = variance of the Laplacian of the luminance / variance of the luminance
    E_i = 1 when  q05 / 2.5 <= s_i <= 2.5 q95,  else 0

with q05 and q95 the 5 % and 95 % quantiles of s over the real images (training and held-out, at
the size of the generated ones). The value is the share of images inside, 0 to 1, higher is better;
a flat image has no s and is outside. Divided by the variance, s tells structure from contrast
(which `exposure` watches): white noise has 20 whatever its strength, a blurred image almost 0. NaN
without real images.

The factor 2.5, from the house example at 128 pixels (q05 0.50, q95 2.18, so 0.20 to 5.4). s, and
the share inside: real images 0.34 to 2.9, all; a sound adapter 0.08 to 1.6, 0.95; Gaussian blur of
1 pixel 0.05 to 0.5, 0.59, of 2 pixels below 0.07, none; noise of sigma 60 over real images 3.8 to
15, 0.23; noise alone 19.4 to 20.5, none.

Source: variance of the Laplacian, Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield
microscopy: a comparative study", normalised by the variance of the picture.
"""

import math

import numpy as np

from adire_assets.core.statistic import Statistic
from adire_assets.families.diffusion.evaluation.metric_inputs import MetricInputs
from adire_assets.families.diffusion.evaluation.metrics.pictures import (
    luminance,
    usual_pictures,
    usual_range,
)

TOLERANCE = 2.5
FLAT = 1.0  # variance of an 8-bit luminance; below it only rounding is left


def measure(inputs: MetricInputs) -> Statistic:
    """Whether each image has about the fine structure of real ones, 1 or 0."""
    real = [sharpness(image) for image in usual_pictures(inputs)]
    if not real:
        return Statistic(constant=math.nan)
    low, high = usual_range(real)
    own = np.array([sharpness(image) for image in inputs.images], np.float64)
    inside = (own > 0) & (own >= low / TOLERANCE) & (own <= high * TOLERANCE)
    return Statistic(each=inside.astype(np.float64))


def sharpness(image: np.ndarray) -> float:
    """Variance of the Laplacian over that of the luminance; 0 for a flat uint8 [H, W, 3] image."""
    light = luminance(image)
    middle = light[1:-1, 1:-1]
    around = light[:-2, 1:-1] + light[2:, 1:-1] + light[1:-1, :-2] + light[1:-1, 2:]
    variance = float(light.var())
    return 0.0 if variance < FLAT else float((4 * middle - around).var()) / variance
