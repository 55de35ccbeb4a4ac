"""Runaway: the share of answers that do not come to an end.

    E_i = 1 when answer i was cut off by the token limit, or repeats itself and its reference does
          not, else 0

A text repeats itself when a stretch of at least 24 characters, with a letter or digit in it, is one
unit of any length at least three times in a row (t[k] = t[k + p] over 2 p characters or more).
Range 0 to 1, lower is better. An empty answer is no runaway; other metrics give it 0.

A loop with a counter in it ("1. yes 2. yes") is not seen, but ends at the token limit.

Source: none; repetition as the failure of decoding in Holtzman et al. 2020, "The Curious Case of
Neural Text Degeneration" (arXiv:1904.09751).
"""

import numpy as np

from adire_assets.core.statistic import Statistic
from adire_assets.families.causal_lm.evaluation.answers import Answer
from adire_assets.families.causal_lm.evaluation.metric_inputs import MetricInputs

TIMES = 3
CHARACTERS = 24


def measure(inputs: MetricInputs) -> Statistic:
    """Whether each answer runs away, 1 or 0."""
    return Statistic(np.array([float(_runs_away(one)) for one in inputs.answers]))


def _runs_away(answer: Answer) -> bool:
    if answer.finish_reason == "length":
        return True
    return repeats(answer.text) and not repeats(answer.reference or "")


def repeats(text: str) -> bool:
    """Whether one unit makes up a long stretch of the text."""
    text = " ".join(text.split()) + " "  # the last unit ends as the others do
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    for period in range(1, len(codes) // TIMES + 1):
        breaks = np.flatnonzero(codes[period:] != codes[:-period])
        bounds = np.concatenate([[-1], breaks, [len(codes) - period]])
        gaps = np.diff(bounds) - 1
        start, length = bounds[gaps.argmax()] + 1, gaps.max() + period
        long = length >= max(CHARACTERS, TIMES * period)
        if long and any(one.isalnum() for one in text[start : start + period]):
            return True
    return False
