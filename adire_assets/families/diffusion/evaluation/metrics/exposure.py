"""Exposure: is an image about as bright, and as rich in contrast, as real ones are?

    E_i = 1 when  m_i >= q05(m) / 1.5,  255 - m_i >= (255 - q95(m)) / 1.5
          and     q05(c) / 1.5 <= c_i <= 1.5 q95(c),  else 0

with m the mean and c the standard deviation of an image's luminance (0 to 255), and q05 and q95
the 5 % and 95 % quantiles over the real images (training and held-out, at the size of the
generated ones). The value is the share of images inside, 0 to 1, higher is better. NaN without
real images.

The factor 1.5, from the house example (m from 46 to 125, c from 31 to 78, so 31 to 168 and 21 to
117). The share inside: real images all; a sound adapter 0.84 (the rest are darker); real
images at 0.4 of their brightness 0.45, at 0.3 of their contrast 0.27; one flat colour none. Noise
is well exposed: that is what `sharpness` is for.

Source: none; brightness and RMS contrast (Peli 1990, "Contrast in complex images") against the
real images' own range.
"""

import math
from collections.abc import Iterable

import numpy as np

from adire_assets.core.statistic import Statistic
from adire_assets.families.diffusion.evaluation.metric_inputs import MetricInputs
from adire_assets.families.diffusion.evaluation.metrics.pictures import (
    luminance,
    usual_pictures,
    usual_range,
)

TOLERANCE = 1.5
WHITE = 255.0


def measure(inputs: MetricInputs) -> Statistic:
    """Whether each image has about the brightness and contrast of real ones, 1 or 0."""
    real = _light(usual_pictures(inputs))
    if not len(real):
        return Statistic(constant=math.nan)
    dark, bright = usual_range(real[:, 0])
    dull, harsh = usual_range(real[:, 1])
    mean, contrast = _light(inputs.images).T
    inside = (mean >= dark / TOLERANCE) & (WHITE - mean >= (WHITE - bright) / TOLERANCE)
    inside &= (contrast >= dull / TOLERANCE) & (contrast <= harsh * TOLERANCE)
    return Statistic(each=inside.astype(np.float64))


def flat(image: np.ndarray) -> bool:
    """Whether a uint8 [H, W, 3] image is one colour throughout (no channel spans 3 levels).

    What a pipeline paints when its numbers overflowed: NaN becomes a single black.
    """
    span = image.max((0, 1)).astype(int) - image.min((0, 1))
    return bool((span < 3).all())


def _light(images: Iterable[np.ndarray]) -> np.ndarray:
    """Mean and standard deviation of the luminance, float64 [n, 2]."""
    light = map(luminance, images)
    return np.array([(part.mean(), part.std()) for part in light], np.float64).reshape(-1, 2)
