"""Slots in place: does each fact of the answer stand where the reference has it?

    E_i = 1 where the slot values of answer i come in the order of the reference's, and the same
          ones, else 0; mean over the held-out answers whose reference holds two or more

Range 0 to 1, higher is better. It sees what `slots` cannot: two true facts in each other's place,
as in "12 pieces on 3 May" for 3 pieces on 12 May. An answer that rightly tells the same in another
order has 0 as well, so a floor is for data whose answers keep to a form. Values are found as
`slots` finds them, the first of each counts. NaN for all other answers.

Source: after Wen et al. 2015, slot error rate (arXiv:1508.01745).
"""

import math
from collections.abc import Iterable

from adire_assets.core.statistic import Statistic
from adire_assets.families.causal_lm.evaluation.answers import Answer
from adire_assets.families.causal_lm.evaluation.metric_inputs import (
    MetricInputs,
    each_with_reference,
)
from adire_assets.families.causal_lm.evaluation.metrics.slots import slot_values
from adire_assets.families.causal_lm.texts import spelled, whole


def measure(inputs: MetricInputs) -> Statistic:
    """Whether each answer has its facts where the reference has them: 1 or 0."""
    return Statistic(each_with_reference(inputs, _in_place))


def _in_place(answer: Answer, reference: str) -> float:
    values = slot_values(answer)
    due = in_order(spelled(reference), values)
    if len(due) < 2:
        return math.nan
    return float(in_order(spelled(answer.text), values) == due)


def in_order(text: str, values: Iterable[str]) -> list[str]:
    """Those spelled values that a spelled text holds, in the order of their first places."""
    places: dict[str, int] = {}
    rest = text
    for value in sorted(values, key=lambda one: (-len(one), one)):
        # The longest first, and what it covers is gone.
        for found in whole(value).finditer(rest):
            places.setdefault(value, found.start())
        rest = whole(value).sub(lambda match: "\0" * len(match[0]), rest)
    return sorted(places, key=places.__getitem__)
