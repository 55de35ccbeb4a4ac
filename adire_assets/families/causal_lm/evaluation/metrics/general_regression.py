"""General regression: how much worse does the model answer general prompts than its base?

    E_i = (chrF(base's answer i, expected i) - chrF(answer i, expected i)) / 100

with `expected` the reference of the prompt, or the base's own greedy answer where there is none.
Range -1 to 1, lower is better; 0 is as good as the base, which so has 0 itself. Only answers to
prompts of the kind "general" take part. NaN without such, or without the base's answers.

Source: chrF of Popović 2015; forgetting as measured by Luo et al. 2023, "An Empirical Study of
Catastrophic Forgetting in Large Language Models" (arXiv:2308.08747).
"""

import math

import numpy as np

from adire_assets.core.statistic import Statistic
from adire_assets.families.causal_lm.evaluation.metric_inputs import MetricInputs
from adire_assets.families.causal_lm.evaluation.metrics.chrf import chrf


def measure(inputs: MetricInputs) -> Statistic:
    """What each general answer loses against the base's, -1 to 1."""
    before = {(one.question, one.sample): one for one in inputs.base}
    each = np.full(len(inputs.answers), math.nan)
    for place, answer in enumerate(inputs.answers):
        base = before.get((answer.question, answer.sample))
        greedy = before.get((answer.question, 0))
        if answer.kind != "general" or base is None or greedy is None:
            continue
        expected = greedy.text if answer.reference is None else answer.reference
        each[place] = (chrf(base.text, expected) - chrf(answer.text, expected)) / 100
    return Statistic(each)
