"""Loss and perplexity: how well does the model foretell the references?

    loss = sum_i n_i l_i / sum_i n_i,    perplexity = exp(loss)

with l_i the mean negative log-likelihood of a token of reference i after its prompt, in nats, and
n_i its tokens: a mean over tokens. Loss is 0 or more, perplexity 1 or more, lower is better, and
both hold for one tokenizer and chat template only. A statistic's `each` are the linear forms of
these values (see `ratios`; perplexity by its first derivative), whose mean is the value itself, and
not an answer's own loss. An answer without a loss does not take part (it need not be told for each
sample); where a prompt has a reference but no finite loss, the value is NaN, or a model that
overflows on some texts would be judged by the others.

Source: Jelinek et al. 1977, "Perplexity - a measure of the difficulty of speech recognition tasks".
"""

import math

import numpy as np

from adire_assets.core.statistic import Statistic
from adire_assets.families.causal_lm.evaluation.answers import Answer
from adire_assets.families.causal_lm.evaluation.metric_inputs import (
    MetricInputs,
    each_with_reference,
)
from adire_assets.families.causal_lm.evaluation.metrics.ratios import of_ratio


def measure(inputs: MetricInputs) -> Statistic:
    """Nats per token of the references, 0 or more."""
    losses = each_with_reference(inputs, _finite)
    counts = np.array([one.reference_tokens for one in inputs.answers], np.float64)
    expected = {one.question for one in inputs.answers if one.expected is not None}
    told = {one.question for one, loss in zip(inputs.answers, losses, strict=True) if loss == loss}
    return Statistic(of_ratio(losses, counts), constant=math.nan if expected - told else 0.0)


def measure_perplexity(inputs: MetricInputs) -> Statistic:
    """exp of the loss, 1 or more."""
    loss = measure(inputs)
    assert loss.each is not None
    value = float(loss.value(np.ones(len(loss.each))))
    try:
        perplexity = math.exp(value)
    except OverflowError:
        perplexity = math.nan
    return Statistic(perplexity * (1 + loss.each - value), constant=loss.constant)


def _finite(answer: Answer, reference: str) -> float:
    known = answer.loss is not None and math.isfinite(answer.loss)
    return float(answer.loss) if known and answer.loss is not None else math.nan
