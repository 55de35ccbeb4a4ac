"""Language kept: the share of answers in the language of their reference.

    E_i = 1 when language(answer i) = language(reference i), else 0

Range 0 to 1, higher is better; an empty answer, or one of no letters, has 0. NaN without a
reference, or where that has no letters. `causal_lm.languages` says how languages are told apart. A
reference told by its script alone is kept by any text of that script.
"""

import math

from adire_assets.core.statistic import Statistic
from adire_assets.families.causal_lm.evaluation.answers import Answer
from adire_assets.families.causal_lm.evaluation.metric_inputs import (
    MetricInputs,
    each_with_reference,
)
from adire_assets.families.causal_lm.languages import SCRIPTS, language_of


def measure(inputs: MetricInputs) -> Statistic:
    """Whether each answer keeps the language of its reference, 1 or 0."""

    def kept(answer: Answer, reference: str) -> float:
        expected = language_of(reference)
        found = language_of(answer.text)
        if not expected:
            return math.nan
        return float(found == expected or SCRIPTS.get(found, found) == expected)

    return Statistic(each_with_reference(inputs, kept))
