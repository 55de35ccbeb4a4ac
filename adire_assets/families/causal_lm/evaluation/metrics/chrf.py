"""chrF: how many runs of up to six characters does the answer share with the reference?

    E_i = 100 * (1 + 4) P R / (4 P + R), mean over the answers

with P and R the means over n = 1 .. 6 of precision and recall of character n-grams, without spaces,
as sacreBLEU computes it (chrF2). Range 0 to 100, higher is better; an empty answer has 0. NaN
without a reference. It needs no tokenizer, so one scale serves all languages, though texts in an
alphabet share more by chance than Chinese ones.

Source: Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation".
"""

from sacrebleu.metrics import CHRF

from adire_assets.core.statistic import Statistic
from adire_assets.families.causal_lm.evaluation.metric_inputs import (
    MetricInputs,
    each_with_reference,
)

_CHRF = CHRF()


def measure(inputs: MetricInputs) -> Statistic:
    """chrF of each answer with its reference, 0 to 100."""
    return Statistic(each_with_reference(inputs, lambda answer, text: chrf(answer.text, text)))


def chrf(answer: str, reference: str) -> float:
    """chrF2 of two texts, 0 to 100; 100 for equal ones, even where both are empty."""
    return 100.0 if answer == reference else _CHRF.sentence_score(answer, [reference]).score
