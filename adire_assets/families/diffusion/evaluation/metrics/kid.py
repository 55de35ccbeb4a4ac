"""KID: how far the images lie from the held-out ones, as a distribution.

    MMD^2 = mean_{i != j} k(g_i, g_j) - 2 mean_{i, j} k(g_i, r_j) + mean_{i != j} k(r_i, r_j)
    k(x, y) = (x.y + 1)^3

over the judge's unit vectors g of the images and r of the held-out images: the unbiased estimate
of the squared maximum mean discrepancy, over all images, with no random subsets. 0 is the same
distribution and lower is better; being unbiased, it comes out slightly below 0 for equal ones;
unit vectors bound it by about 16. NaN with fewer than two images on a side.

Source: equation 4 of Binkowski et al. 2018, "Demystifying MMD GANs" (arXiv:1801.01401). The paper
scales x.y by 1/d because Inception features grow with d; the judge's have length 1, so 1 is the
scale that makes judges of different width comparable. Inception is not used, hence figures from
papers do not compare. `statistic.standard_error` says how well the images determine it.
"""

import math

import numpy as np

from adire_assets.core.statistic import Statistic
from adire_assets.families.diffusion.evaluation.metric_inputs import MetricInputs
from adire_assets.families.diffusion.evaluation.metrics.vectors import (
    cosines,
    mean_over_pairs,
    zero_or_nan,
)


def measure(inputs: MetricInputs) -> Statistic:
    """The unbiased MMD^2 between the images and the held-out ones; 0 is no difference."""
    return between(inputs.held_out.embeddings, inputs.embeddings)


def between(real: np.ndarray, generated: np.ndarray) -> Statistic:
    """The same of two sets of unit vectors [m, d] and [n, d]; `generated` is what is weighted."""
    among_real = mean_over_pairs(_kernel(real, real))
    if math.isnan(among_real):
        return Statistic(constant=math.nan)
    return Statistic(
        each=-2 * _kernel(generated, real).mean(1),
        pairs=_kernel(generated, generated),
        constant=among_real + zero_or_nan(generated),
    )


def distance(real: np.ndarray, generated: np.ndarray) -> float:
    """The value of `between` with each image counted once."""
    return float(between(real, generated).value(np.ones(len(generated))))


def _kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (cosines(one, other) + 1.0) ** 3
