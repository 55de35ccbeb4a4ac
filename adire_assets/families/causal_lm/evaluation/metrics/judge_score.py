"""Judge score: what a language model that the config names thinks of the answers.

    E_i = (grade - 1) / 9 of answer i, a grade from 1 to 10; mean over the greedy answers

Range 0 to 1, higher is better. It is another model's opinion: it knows style better than facts, and
favours long answers. NaN for drawn answers, and everywhere when no judge is named.

Source: see `language_judge`.
"""

import math

import numpy as np

from adire_assets.core.statistic import Statistic
from adire_assets.families.causal_lm.evaluation.metric_inputs import MetricInputs


def measure(inputs: MetricInputs) -> Statistic:
    """The judge's grade of each greedy answer, 0 to 1."""
    each = np.full(len(inputs.answers), math.nan)
    greedy = [place for place, one in enumerate(inputs.answers) if one.sample == 0]
    if inputs.judge is not None and greedy:
        each[greedy] = inputs.judge([inputs.answers[place] for place in greedy])
    return Statistic(each)
