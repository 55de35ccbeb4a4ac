"""Answers of a language model, made up, and what the metrics make of them."""

from typing import Any

import numpy as np

from adire_assets.families.causal_lm.evaluation.answers import Answer
from adire_assets.families.causal_lm.evaluation.metric_inputs import MetricInputs
from adire_assets.families.causal_lm.evaluation.metrics import METRICS


def answer(text: str, reference: str | None = None, **others: Any) -> Answer:
    """One answer to a question that holds no fact."""
    return Answer(**{"prompt": "?", "text": text, "reference": reference, **others})


def inputs(*answers: Answer, **others: Any) -> MetricInputs:
    return MetricInputs(answers, **others)


def each(metric: str, given: MetricInputs) -> list[float]:
    """What the metric gives each answer."""
    found = METRICS[metric].measure(given).each
    assert found is not None
    assert len(found) == len(given.answers)
    return [float(one) for one in found]


def value(metric: str, given: MetricInputs) -> float:
    return float(METRICS[metric].measure(given).value(np.ones(len(given.answers))))


def of(metric: str, text: str, reference: str | None, **others: Any) -> float:
    """The metric of one answer."""
    return value(metric, inputs(answer(text, reference, **others)))
