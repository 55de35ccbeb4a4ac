"""Exact match: is the answer the reference, character for character?

    E_i = 1 when answer and reference are equal, but for spaces at line ends and NFC, else 0

Range 0 to 1, higher is better. It is defined where one answer alone is right: where the reference
consists of slot values and punctuation only ("What is the price?" "4,500 naira"), or for each
reference where the config says so (`only_answers`). NaN elsewhere.

Source: Rajpurkar et al. 2016, "SQuAD" (arXiv:1606.05250), without its removal of articles, case and
punctuation.
"""

import math

from adire_assets.core.statistic import Statistic
from adire_assets.families.causal_lm.evaluation.answers import Answer
from adire_assets.families.causal_lm.evaluation.metric_inputs import (
    MetricInputs,
    each_with_reference,
)
from adire_assets.families.causal_lm.evaluation.metrics.slots import slot_values
from adire_assets.families.causal_lm.texts import spelled, whole, words


def measure(inputs: MetricInputs) -> Statistic:
    """Whether each answer is its reference, 1 or 0."""

    def equal(answer: Answer, reference: str) -> float:
        if not inputs.only_answers and not _only_slots(answer, reference):
            return math.nan
        return float(_lines(answer.text) == _lines(reference))

    return Statistic(each_with_reference(inputs, equal))


def _only_slots(answer: Answer, reference: str) -> bool:
    rest = spelled(reference)
    for value in sorted(slot_values(answer), key=len, reverse=True):
        rest = whole(value).sub(" ", rest)
    return not words(rest) and bool(answer.slots)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]
