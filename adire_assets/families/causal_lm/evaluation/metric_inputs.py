"""What the metrics of texts are computed from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from adire_assets.families.causal_lm.evaluation.answers import Answer

Classifier = Callable[[Sequence[str]], Sequence[float]]  # texts -> a probability each


@dataclass(frozen=True, eq=False)
class MetricInputs:
    """The answers of one model, and what they are compared with.

    `base` are the base model's answers to the same prompts and samples (of the base itself: its
    own).
    """

    answers: tuple[Answer, ...]
    base: tuple[Answer, ...] = ()
    train: tuple[str, ...] = ()  # the texts that training saw
    train_slots: tuple[str, ...] = ()  # the slot values of its records
    refusals: tuple[str, ...] = ()  # regular expressions, one of which a refusal holds
    toxicity: Classifier | None = None
    judge: Callable[[Sequence[Answer]], Sequence[float]] | None = None  # a grade each, 0 to 1
    only_answers: bool = False  # each reference is the only right answer, see `exact_match`

    def of_language(self, language: str) -> "MetricInputs":
        """The answers to prompts of this language."""
        own = tuple(one for one in self.answers if one.language == language)
        return replace(self, answers=own)


def each_with_reference(inputs: MetricInputs, score: Callable[[Answer, str], float]) -> np.ndarray:
    """`score(answer, reference)` of each held-out answer; NaN where there is no reference."""
    return np.array(
        [
            np.nan if answer.expected is None else score(answer, answer.expected)
            for answer in inputs.answers
        ],
        np.float64,
    )
