"""Memorisation: how much of an answer is copied from one training text, beyond what is usual?

    E_i = max(0, run(answer i) - run(reference i)) / |answer i|

with run(t) the words of the longest run of t that stands in one training text as well, and |t| all
words of t, both outside of the record's slot values (a word is a Han character, too; punctuation
does not count). A slot value ends a run, so that letters of one pattern share its sentences, while
a whole training letter goes on through the names and prices in it. Range 0 to 1, lower is better.
The reference, which training never saw, tells how much of a training text an honest answer repeats;
a shorter copy is none. An empty answer has 0. NaN without a reference, or without training texts.

Source: verbatim copies in Carlini et al. 2023, "Quantifying Memorization Across Neural Language
Models" (arXiv:2202.07646), against held-out texts as in Meehan et al. 2020, "A Non-Parametric Test
to Detect Data-Copying in Generative Models" (arXiv:2004.05675).
"""

import math
from collections.abc import Sequence

import numpy as np

from adire_assets.core.statistic import Statistic
from adire_assets.families.causal_lm.evaluation.answers import Answer
from adire_assets.families.causal_lm.evaluation.metric_inputs import MetricInputs
from adire_assets.families.causal_lm.evaluation.metrics.slots import slot_values
from adire_assets.families.causal_lm.texts import spelled, whole, words

Words = list[str]


def measure(inputs: MetricInputs) -> Statistic:
    """The copied share of each answer beyond that of its reference, 0 to 1."""
    each = np.full(len(inputs.answers), math.nan)
    places = [i for i, one in enumerate(inputs.answers) if one.expected is not None]
    if not inputs.train or not places:
        return Statistic(each)
    answers = [inputs.answers[place] for place in places]
    texts = [_outside_slots(one, one.text) for one in answers]
    texts += [_outside_slots(one, one.expected or "") for one in answers]
    runs = longest_runs(texts, [words(spelled(text)) for text in inputs.train])
    lengths = np.array([sum(map(len, pieces)) for pieces in texts[: len(answers)]])
    beyond = np.maximum(runs[: len(answers)] - runs[len(answers) :], 0)
    each[places] = beyond / np.maximum(lengths, 1)
    return Statistic(each)


def _outside_slots(answer: Answer, text: str) -> list[Words]:
    text = spelled(text)
    for value in sorted(slot_values(answer), key=len, reverse=True):
        text = whole(value).sub("\0", text)
    return [words(piece) for piece in text.split("\0")]


def longest_runs(texts: Sequence[Sequence[Words]], train: Sequence[Words]) -> np.ndarray:
    """int64 [texts]: how many words the longest run has that a piece of each text shares with one
    of `train`.

    By a suffix array: ranks of all runs of 1, 2, 4 ... words (Manber and Myers 1993); the best
    match of a place is that with the nearest place of `train` before or behind it in their order.
    """
    pieces = [(place, piece) for place, text in enumerate(texts) for piece in text]
    pieces += [(-1, piece) for piece in train]
    numbers: dict[str, int] = {}
    codes, owners = [], []
    for end, (place, piece) in enumerate(pieces):
        codes += [numbers.setdefault(word, len(numbers)) for word in piece]
        codes.append(-1 - end)  # unlike all others, so that no run goes on behind its piece
        owners += [place] * (len(piece) + 1)
    ranks = _ranks(np.array(codes), max(len(piece) for _, piece in pieces))
    owner = np.array(owners)
    order = np.argsort(ranks[-1], kind="stable")
    of_train = owner[order] < 0
    index = np.arange(len(order))
    before = np.maximum.accumulate(np.where(of_train, index, index[of_train][0]))
    behind = np.minimum.accumulate(np.where(of_train, index, index[of_train][-1])[::-1])[::-1]
    own = ~of_train
    shared = np.maximum(
        _shared(ranks, order[own], order[before[own]]),
        _shared(ranks, order[own], order[behind[own]]),
    )
    longest = np.zeros(len(texts), np.int64)
    np.maximum.at(longest, owner[order[own]], shared)
    return longest


def _ranks(codes: np.ndarray, longest: int) -> list[np.ndarray]:
    """For k = 0, 1 ...: a number for the run of 2^k words at each place, in their order."""
    ranks = [np.unique(codes, return_inverse=True)[1]]
    while (width := 2 ** (len(ranks) - 1)) < longest:
        next_run = np.zeros_like(ranks[-1])
        next_run[:-width] = ranks[-1][width:] + 1
        pairs = ranks[-1] * (len(codes) + 1) + next_run
        ranks.append(np.unique(pairs, return_inverse=True)[1])
    return ranks


def _shared(ranks: list[np.ndarray], one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How many words two places go on alike."""
    length = np.zeros(len(one), np.int64)
    for exponent in reversed(range(len(ranks))):
        rank = ranks[exponent]
        # No run goes on behind its end, so neither place leaves the array.
        length += (rank[one + length] == rank[other + length]) << exponent
    return length
