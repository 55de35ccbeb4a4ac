"""A metric as a function of weighted images, so that it can be computed again for any resample.

With w_i >= 0 the weight of image i (1 for each in the evaluation itself, how often it was drawn in
a resample), every metric has the form

    value(w) = sum_{i != j} w_i w_j P_ij / sum_{i != j} w_i w_j  +  sum_i w_i E_i / sum_i w_i  +  c

that is a U-statistic of order two at most: a mean of something each image has (E), a mean over
pairs (P), or both. An image drawn twice is never paired with itself, which would bias P.

An image whose E is NaN does not take part in that mean (a prompt that expects no attribute says
nothing about attributes). Computed in float64; needs numpy only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from adire_assets.store import read_json, write_json

FILE, CONSTANTS = "statistics.safetensors", "statistics.json"


@dataclass(frozen=True)
class Statistic:
    """`each` [n], `pairs` [n, n] (its diagonal is never read), `constant`."""

    each: np.ndarray | None = None
    pairs: np.ndarray | None = None
    constant: float = 0.0

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


def save_statistics(folder: Path, statistics: Mapping[str, Statistic]) -> None:
    """Write statistics.safetensors and statistics.json (the constants) into `folder`."""
    tensors = {
        f"{name}.{part}": np.ascontiguousarray(array, np.float64)
        for name, statistic in statistics.items()
        for part, array in (("each", statistic.each), ("pairs", statistic.pairs))
        if array is not None
    }
    save_file(tensors, folder / FILE)
    write_json(folder / CONSTANTS, {name: s.constant for name, s in statistics.items()})


def load_statistics(folder: Path) -> dict[str, Statistic]:
    """What `save_statistics` wrote, by metric."""
    tensors = load_file(folder / FILE)
    return {
        name: Statistic(tensors.get(f"{name}.each"), tensors.get(f"{name}.pairs"), constant)
        for name, constant in read_json(folder / CONSTANTS).items()
    }
