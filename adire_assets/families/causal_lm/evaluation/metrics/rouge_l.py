"""ROUGE-L, by character and by word: how much of the reference stands in the answer, in its order?

    R = LCS / |reference|,  P = LCS / |answer|,  E_i = 2 P R / (P + R) = 2 LCS / (|ref.| + |answer|)

with LCS the length of the longest common subsequence of tokens. `rouge_l_char` takes each character
for one (NFC; letters, marks, digits, punctuation and single spaces, of every script alike),
`rouge_l_word` each word and number, a Han character being a word. Range 0 to 1, higher is better;
an empty answer has 0. NaN without a reference.

Letters of one alphabet find each other in order, so by character unrelated English has 0.39, two
letters of one workshop 0.55 in English, 0.50 in Yoruba and 0.40 in Chinese; by word these are 0.09,
0.30, 0.31 and 0.33. And overlap passes a fluent letter with invented names: a threshold needs one
of `slot_f1` beside it.

Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3.1 with
beta = 1; the bit-parallel LCS of Hyyrö 2004, "Bit-parallel LCS-length computation revisited".
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

from adire_assets.core.statistic import Statistic
from adire_assets.families.causal_lm.evaluation.metric_inputs import (
    MetricInputs,
    each_with_reference,
)
from adire_assets.families.causal_lm.texts import words


def measure_by_character(inputs: MetricInputs) -> Statistic:
    """ROUGE-L F1 of each answer with its reference over characters, 0 to 1."""
    return _measure(inputs, lambda text: " ".join(text.split()))


def measure_by_word(inputs: MetricInputs) -> Statistic:
    """ROUGE-L F1 of each answer with its reference over words, 0 to 1."""
    return _measure(inputs, words)


def _measure(inputs: MetricInputs, tokens: Callable[[str], Sequence[str]]) -> Statistic:
    return Statistic(
        each_with_reference(
            inputs, lambda answer, reference: rouge_l(tokens(answer.text), tokens(reference))
        )
    )


def rouge_l(answer: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of two sequences of tokens; two empty ones are the same."""
    total = len(answer) + len(reference)
    return 2 * common_subsequence(answer, reference) / total if total else 1.0


def common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence; each zero bit of `remaining` is one of it."""
    places: dict[str, int] = defaultdict(int)
    for place, token in enumerate(one):
        places[token] |= 1 << place
    full = (1 << len(one)) - 1
    remaining = full
    for token in other:
        matched = remaining & places[token] if token in places else 0
        remaining = ((remaining + matched) | (remaining - matched)) & full
    return len(one) - remaining.bit_count()
