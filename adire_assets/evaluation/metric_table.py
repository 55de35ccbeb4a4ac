"""The metrics of an evaluation, by name: each a function of the evidence, see `statistic`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from adire_assets.evaluation import metrics
from adire_assets.evaluation.evidence import Evidence
from adire_assets.evaluation.safety import nsfw_probabilities
from adire_assets.evaluation.statistic import Statistic


@dataclass(frozen=True)
class Metric:
    """`better` is "higher" or "lower"; `source` is where the formula comes from."""

    name: str
    measure: Callable[[Evidence], Statistic]
    unit: str
    better: str
    source: str


def _clip_s(evidence: Evidence) -> Statistic:
    return Statistic(each=metrics.clip_s(evidence.embeddings, evidence.texts))


def _kid(evidence: Evidence) -> Statistic:
    real, drawn = (
        vectors.astype(np.float64)
        for vectors in (evidence.held_out.embeddings, evidence.embeddings)
    )
    within = (real @ real.T + 1) ** 3
    count = len(real)
    if count < 2:
        return Statistic(constant=float("nan"))
    return Statistic(
        each=-2 * ((drawn @ real.T + 1) ** 3).mean(1),
        pairs=(drawn @ drawn.T + 1) ** 3,
        constant=float((within.sum() - np.trace(within)) / (count * (count - 1))),
    )


def _nsfw(evidence: Evidence) -> Statistic:
    return Statistic(each=np.array(nsfw_probabilities(evidence.images), np.float64))


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("clip_s", _clip_s, metrics.CLIP_S_SCALE, "higher", "Hessel et al. 2021"),
        Metric("kid", _kid, metrics.KID_UNIT, "lower", "Binkowski et al. 2018"),
        Metric("nsfw", _nsfw, "probability, mean over the images", "lower", "open_nsfw"),
    )
}
