"""What the metrics on unit vectors share. No metric itself."""

import math

import numpy as np

from adire_assets.core.statistic import Statistic


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """float64 [n, m] of unit vectors [n, d] and [m, d]."""
    with np.errstate(invalid="ignore"):  # what is not finite is for `zero_or_nan` to tell
        return one.astype(np.float64) @ other.astype(np.float64).T


def mean_over_pairs(pairs: np.ndarray) -> float:
    """The mean of a square matrix without its diagonal; NaN for fewer than two rows."""
    return float(Statistic(pairs=pairs).value(np.ones(len(pairs))))


def mean_cosine(vectors: np.ndarray) -> float:
    """That of the pairs of unit vectors [n, d], without n^2 of anything; NaN for fewer than two."""
    wide = vectors.astype(np.float64)
    count = len(wide)
    if count < 2:
        return math.nan
    return float(((wide.sum(0) ** 2).sum() - (wide**2).sum()) / (count * (count - 1)))


def zero_or_nan(*vectors: np.ndarray) -> float:
    """The constant of a statistic over these vectors: 0, or NaN when a number is not finite.

    A NaN in `Statistic.each` only leaves its image out; an embedding that broke must spoil the
    value, however the images are weighted.
    """
    return 0.0 if all(np.isfinite(array).all() for array in vectors) else math.nan
