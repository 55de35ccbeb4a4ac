"""What every metric is computed from: the drawn images, the real ones, and their embeddings.

A metric is a function `(MetricInputs) -> Statistic`; it draws nothing and embeds nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class RealImageFeatures:
    """Real images: uint8 [H, W, 3] each, and the judge's unit vectors of them, float32 [m, d].

    There may be more than memory holds: look at one after the other.
    """

    images: Sequence[np.ndarray]
    embeddings: np.ndarray


@dataclass(frozen=True)
class MetricInputs:
    """The images of one variant, prompt by prompt, within a prompt seed by seed (n in all).

    `expected[i]` says what image i should show: {attribute: value}, {} when its prompt is silent.
    `attributes` has the judge's unit vector of each value's text: {attribute: {value: [d]}}.
    """

    images: Sequence[np.ndarray]  # uint8 [H, W, 3] each
    embeddings: np.ndarray  # float32 [n, d], unit vectors
    texts: np.ndarray  # float32 [n, d], unit vectors of the prompts, one for each image
    held_out: RealImageFeatures
    train: RealImageFeatures
    expected: tuple[Mapping[str, str], ...] = ()
    attributes: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
