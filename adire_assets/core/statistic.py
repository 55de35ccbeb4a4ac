"""A metric as a function of weighted answers, so that it can be computed again for any resample.

With w_i >= 0 the weight of answer i (1 for each in the evaluation itself, how often it was drawn in
a resample), every metric has the form

    value(w) = sum_{i != j} w_i w_j P_ij / sum_{i != j} w_i w_j  +  sum_i w_i E_i / sum_i w_i  +  c

that is a U-statistic of order two at most: a mean of something each answer has (E), a mean over
pairs (P), or both. An answer drawn twice is never paired with itself, which would bias P.

An answer whose E is NaN does not take part in that mean (a prompt that expects no attribute says
nothing about attributes). Computed in float64; needs numpy only.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from adire_assets.core.store import read_json, write_bytes, write_json

FILE, CONSTANTS = "statistics.safetensors", "statistics.json"


@dataclass(frozen=True)
class Statistic:
    """`each` [n], `pairs` [n, n] (its diagonal is never read), `constant`: E, P and c above."""

    each: np.ndarray | None = None
    pairs: np.ndarray | None = None
    constant: float = 0.0

    @property
    def answers(self) -> int:
        """n; 0 when the metric had nothing to look at."""
        return next((len(part) for part in (self.each, self.pairs) if part is not None), 0)

    def value(self, weights: np.ndarray) -> np.ndarray:
        """The metric for each row of `weights` [..., n]: float64 [...], NaN if nothing counts."""
        weights = np.asarray(weights, np.float64)
        total = np.full(weights.shape[:-1], self.constant)
        with np.errstate(invalid="ignore", divide="ignore"):
            if self.each is not None:
                known = ~np.isnan(self.each)
                total = total + (
                    weights[..., known]
                    @ self.each[known].astype(np.float64)
                    / weights[..., known].sum(-1)
                )
            if self.pairs is not None:
                pairs = self.pairs.astype(np.float64)
                np.fill_diagonal(pairs, 0.0)
                products = ((weights @ pairs) * weights).sum(-1)
                total = total + products / (weights.sum(-1) ** 2 - (weights**2).sum(-1))
        return total


def standard_error(statistic: Statistic, clusters: np.ndarray | None = None) -> float:
    """The standard error of the value over other answers of the same model, by the jackknife.

    sqrt((n - 1) / n * sum_i (value without i - mean of these)^2), after Efron and Stein 1981, "The
    Jackknife Estimate of Variance": for a mean exactly its standard error, for a U-statistic
    slightly too large on average. `clusters` [n] names the group of each answer (its prompt, say),
    and then whole groups are left out: seeds of one prompt are not independent. The real answers
    are taken as given. NaN with fewer than two groups, or where the value is.
    """
    parts = [part for part in (statistic.each, statistic.pairs) if part is not None]
    if not parts:
        return float("nan")
    labels = np.arange(len(parts[0])) if clusters is None else np.asarray(clusters)
    counts = np.ones(len(labels), bool)
    if statistic.each is not None and statistic.pairs is None:
        counts = ~np.isnan(statistic.each)  # leaving out what takes no part would change nothing
    groups = np.unique(labels[counts])
    if len(groups) < 2:
        return float("nan")
    without = statistic.value(labels != groups[:, None])
    count = len(groups)
    return float(np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum()))


def save_statistics(folder: Path, statistics: Mapping[str, Statistic]) -> None:
    """Write statistics.safetensors and statistics.json (the constants) into `folder`."""
    tensors = {
        f"{name}.{part}": np.ascontiguousarray(array, np.float64)
        for name, statistic in statistics.items()
        for part, array in (("each", statistic.each), ("pairs", statistic.pairs))
        if array is not None
    }
    # Other processes may read or write the same: each file is there whole, the constants first.
    constants = {name: s.constant for name, s in statistics.items()}
    # JSON knows no NaN.
    finite = {name: c if math.isfinite(c) else None for name, c in constants.items()}
    write_json(folder / CONSTANTS, finite)
    write_bytes(folder / FILE, save(tensors))


def load_statistics(folder: Path) -> dict[str, Statistic]:
    """What `save_statistics` wrote, by metric."""
    tensors = load_file(folder / FILE)
    return {
        name: Statistic(
            tensors.get(f"{name}.each"),
            tensors.get(f"{name}.pairs"),
            math.nan if constant is None else constant,
        )
        for name, constant in read_json(folder / CONSTANTS).items()
    }
