"""Length ratio: is the answer as long as the reference?

    E_i = min(a, r) / max(a, r)

with a and r the characters of answer and reference, without spaces at their ends. Range 0 to 1,
higher is better: 1 is as long, 0.5 half or twice as long, 0 an empty answer. NaN without a
reference. Either direction counts, so that short and long answers do not make a good mean.

Source: none; the brevity penalty of Papineni et al. 2002, "BLEU", in both directions.
"""

from adire_assets.core.statistic import Statistic
from adire_assets.families.causal_lm.evaluation.metric_inputs import (
    MetricInputs,
    each_with_reference,
)


def measure(inputs: MetricInputs) -> Statistic:
    """The shorter length / the longer of each answer and reference, 0 to 1."""

    def ratio(answer: str, reference: str) -> float:
        lengths = len(answer.strip()), len(reference.strip())
        return min(lengths) / max(lengths) if max(lengths) else 1.0

    return Statistic(each_with_reference(inputs, lambda answer, text: ratio(answer.text, text)))
