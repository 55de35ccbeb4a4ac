"""A quotient of sums as a `Statistic`."""

import numpy as np


def of_ratio(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """What each answer adds to  r = sum_i counts_i values_i / sum_i counts_i.

    E_i = r + counts_i / mean(counts) * (values_i - r), the linear form of a ratio (Cochran 1977,
    "Sampling Techniques", chapter 6): its mean is r, and its spread that of r over other answers to
    first order. So E_i is not the answer's own value. NaN where a value is; all where none counts.
    """
    known = ~np.isnan(values)
    total = counts[known].sum()
    if total == 0:
        return np.full(len(values), np.nan)
    ratio = (counts[known] * values[known]).sum() / total
    return ratio + counts / (total / known.sum()) * (values - ratio)
