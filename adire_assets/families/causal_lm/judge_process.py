"""The judge of answers while a release goes live: are they worded, and do they state the facts, as
the references of the evaluation?

    with open_judge(judge, evaluation, device) as judge:
        judge(prompts, contents)    # a score of each, 0 to 1

The score is ROUGE-L over characters, and where the reference's record has slots the mean of that
and slot F1. It asks no model, so it needs no process of its own.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from adire_assets.core.errors import UserError
from adire_assets.families.causal_lm.evaluation import answers
from adire_assets.families.causal_lm.evaluation.answers import Answer
from adire_assets.families.causal_lm.evaluation.metric_inputs import MetricInputs
from adire_assets.families.causal_lm.evaluation.metrics import rouge_l, slots

Judge = Callable[[Sequence[str], Sequence[str]], list[float]]


def open_judge(judge: Path, evaluation: Path, device: str) -> AbstractContextManager[Judge]:
    """By the evaluation of the release whose answers are judged."""
    evaluated = {question_of(one): one for one in answers.read_answers(evaluation)}
    values = tuple({value for one in evaluated.values() for value in one.slots.values()})

    def score(prompts: Sequence[str], contents: Sequence[str]) -> list[float]:
        if unknown := [prompt for prompt in prompts if prompt not in evaluated]:
            raise UserError(f"no answer to {unknown[0][:80]!r} was evaluated, to judge others by")
        asked = zip(prompts, contents, strict=True)
        return scores_of(
            [replace(evaluated[one], text=answers.composed(text)) for one, text in asked], values
        )

    return nullcontext(score)


def question_of(answer: Answer) -> str:
    """What an answer was asked by, each message once."""
    return "\n".join(one["content"] for one in answer.messages) or answer.prompt


def scores_of(found: Sequence[Answer], values: Iterable[str] = ()) -> list[float]:
    """The score of each answer; 0 without a reference. `values`: slot values of other records, so
    that an answer which states one of them is known to state it."""
    inputs = MetricInputs(tuple(found), train_slots=tuple(values))
    worded, stated = rouge_l.measure_by_character(inputs).each, slots.measure_f1(inputs).each
    assert worded is not None and stated is not None
    return [_together(float(one), float(other)) for one, other in zip(worded, stated, strict=True)]


def _together(worded: float, stated: float) -> float:
    if math.isnan(worded):
        return 0.0
    return worded if math.isnan(stated) else (worded + stated) / 2
