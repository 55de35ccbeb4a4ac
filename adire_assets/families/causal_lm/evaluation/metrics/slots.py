"""Slots: does the answer state the facts that it must, and no others?

    recall     share of the record's slot values that occur in the answer
    precision  share of the facts of the answer that are true
    F1         2 P R / (P + R), 0 where both are 0

A fact of an answer is every number ("12", "12.5", "2024-05-12", "b-12" are one each) and every slot
value of any record, of the evaluation or of training, that occurs in it: what a model invents is
mostly what it was trained on. It is true when it is a slot value of this record, or occurs in what
was asked or in the reference. Each fact counts once, however often it is said. Range 0 to 1, higher
is better. Only held-out answers take part; without slots recall and F1 are NaN, and precision is
where no fact is stated. An answer that owes facts and states none has 0.

A value occurs as a whole unit (`texts.whole`), and not within a longer slot value of any record:
the order 1042 does not occur in the price "1042 naira", nor the name 王伟 in another's 王伟强.
Texts are compared as `texts.spelled` writes them: "45,000" is "45000", and Yoruba marks count.

An answer that repeats the question states all facts and answers nothing. So a run of words that it
shares with the last question is left out when it is long (5 words, and more than twice as long as
any run that the reference shares with it) and is either half of the question or holds two slot
values.

What it does not see: numbers in words, names that are no record's slot, two true facts in each
other's place (`slots_in_place` does). A list of the right facts without a sentence is right here
and wrong in the overlap with the reference: ask for both.

Source: slot error rate of Wen et al. 2015, "Semantically Conditioned LSTM-based Natural Language
Generation" (arXiv:1508.01745), as precision and recall.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache

import numpy as np

from adire_assets.core.statistic import Statistic
from adire_assets.families.causal_lm.evaluation.answers import Answer
from adire_assets.families.causal_lm.evaluation.metric_inputs import MetricInputs
from adire_assets.families.causal_lm.texts import (
    numbers,
    spelled,
    whole,
    word_spans,
    words,
)

ECHO = 5  # words: fewer may well be said again in an answer


def measure_recall(inputs: MetricInputs) -> Statistic:
    """Share of the slot values that each answer repeats, 0 to 1."""
    return Statistic(_scores(inputs)[:, 0])


def measure_precision(inputs: MetricInputs) -> Statistic:
    """Share of the facts of each answer that are true, 0 to 1."""
    return Statistic(_scores(inputs)[:, 1])


def measure_f1(inputs: MetricInputs) -> Statistic:
    """Harmonic mean of precision and recall of each answer, 0 to 1."""
    recall, precision = _scores(inputs).T
    total = precision + recall
    return Statistic(np.where(total == 0, 0.0, 2 * precision * recall / np.where(total, total, 1)))


def slot_values(answer: Answer) -> set[str]:
    """The slot values of an answer's record as they are compared."""
    return {value for value in map(spelled, answer.slots.values()) if value}


@dataclass(frozen=True)
class Facts:
    """`values` are known slot values, `others` numbers outside of them."""

    values: frozenset[str]
    others: frozenset[str]


def by_first_word(values: Iterable[str]) -> Mapping[str, Sequence[str]]:
    """Spelled values by the word that they begin with, so that a text looks for few of many."""
    found = defaultdict(list)
    for value in values:
        found[next(iter(words(value)), "")].append(value)
    return found


def facts(text: str, known: Mapping[str, Sequence[str]]) -> Facts:
    """The facts of a spelled text; `known` are the slot values of all records `by_first_word`."""
    near = (one for word in {"", *words(text)} for one in known.get(word, ()) if one in text)
    found, rest = [], text
    for value in sorted(near, key=len, reverse=True):
        # The longest first, and what it covers is gone.
        rest, count = whole(value).subn(lambda match: "\0" * len(match[0]), rest)
        if count:
            found.append(value)
    return Facts(frozenset(found), frozenset(numbers(rest)))


@lru_cache(maxsize=2)
def _scores(inputs: MetricInputs) -> np.ndarray:
    """[n, 2]: recall and precision of each answer."""
    values = {value for one in inputs.answers for value in slot_values(one)}
    known = by_first_word(values.union(map(spelled, inputs.train_slots)) - {""})
    each = [_recall_and_precision(answer, known) for answer in inputs.answers]
    return np.array(each, np.float64).reshape(-1, 2)


def _recall_and_precision(
    answer: Answer, known: Mapping[str, Sequence[str]]
) -> tuple[float, float]:
    if answer.kind != "held_out":
        return math.nan, math.nan
    due = slot_values(answer)
    question, reference = spelled(answer.question), spelled(answer.reference or "")
    told = _without_echo(spelled(answer.text), spelled(answer.prompt), reference, due)
    stated = facts(told, known)
    true = due | numbers("\n".join(due))
    for text in (question, reference):
        true |= facts(text, known).values | numbers(text)
    said = stated.values | stated.others
    recall = len(due & stated.values) / len(due) if due else math.nan
    if said:
        return recall, len(said & true) / len(said)
    return recall, 0.0 if due else math.nan


def _without_echo(answer: str, question: str, reference: str, due: set[str]) -> str:
    asked = words(question)
    least = max(ECHO, 2 * _shared_run(reference, asked)[1] + 1)
    while True:
        first, count = _shared_run(answer, asked)
        spans = word_spans(answer)[first : first + count]
        if count < least:
            return answer
        start, end = spans[0][0], spans[-1][1]
        if 2 * count < len(asked) and len(facts(answer[start:end], by_first_word(due)).values) < 2:
            return answer
        answer = f"{answer[:start]}\n{answer[end:]}"


def _shared_run(text: str, asked: list[str]) -> tuple[int, int]:
    """(first word, number of words) of the longest run of words that stands in both."""
    matcher = SequenceMatcher(None, words(text), asked, autojunk=False)
    run = matcher.find_longest_match()
    return run.a, run.size
