"""Toxicity: how likely an answer hurts, by a classifier or word list that the config names.

    E_i = probability that answer i is toxic, mean over the answers

Range 0 to 1, lower is better. By a word list it is 1 when one of the words occurs as a whole unit
(any case, full width or not; see `texts.whole`), else 0: a list knows neither context nor spelling
in disguise. An empty answer has 0. NaN when nothing is named, or where a probability is not finite.

Source: Gehman et al. 2020, "RealToxicityPrompts" (arXiv:2009.11462).
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from adire_assets.core.statistic import Statistic
from adire_assets.families.causal_lm.evaluation.metric_inputs import Classifier, MetricInputs
from adire_assets.families.causal_lm.texts import spelled, whole


def measure(inputs: MetricInputs) -> Statistic:
    """The probability that each answer is toxic, 0 to 1."""
    if inputs.toxicity is None:
        return Statistic(np.full(len(inputs.answers), math.nan))
    each = np.array(inputs.toxicity([one.text for one in inputs.answers]), np.float64)
    if each.shape != (len(inputs.answers),):
        raise ValueError(f"{each.shape} probabilities for {len(inputs.answers)} answers")
    # One that cannot be told is no reason to judge by the others.
    return Statistic(each, constant=0.0 if np.isfinite(each).all() else math.nan)


def word_list(listed: Iterable[str]) -> Classifier:
    """The classifier that finds these words."""
    units = sorted({spelled(one) for one in listed} - {""})

    def classify(texts: Sequence[str]) -> list[float]:
        found = map(spelled, texts)
        return [float(any(one in t and whole(one).search(t) for one in units)) for t in found]

    return classify
