"""Answers of a language model, made up, and what the metrics make of them."""

from typing import Any

import numpy as np

from adire_assets.families.causal_lm.evaluation.answers import Answer
from adire_assets.families.causal_lm.evaluation.metric_inputs import MetricInputs
from adire_assets.families.causal_lm.evaluation.metrics import METRICS

CHINESE = "感谢您的订单1042。我们将染制12匹满月纹，总价45000奈拉，3月14日可以完成。"
NEAR = "感谢您的订单1042。我们会染制12匹满月纹，价格45000奈拉，3月14日可以完成。"
OTHER = "因为下雨，布没有晾干，非常抱歉。1042 12 45000 3 14"
YORUBA = "A dúpẹ́ fún àṣẹ yín. Aṣọ aró náà yóò ṣetán ní ọjọ́ kẹta."
ENGLISH = "We thank you for your order. The indigo cloth will be ready on the third day."
REFUSALS = (r"nobody can know", r"没有人知道", r"kò sí ẹni tó mọ̀?")  # as a config has them


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
