"""What the answers of an adapter, beside the bare base's, are worth in numbers."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from adire_assets.core.errors import UserError
from adire_assets.core.statistic import Statistic, standard_error
from adire_assets.families.causal_lm.evaluation.answers import Answer
from adire_assets.families.causal_lm.evaluation.metric_inputs import MetricInputs
from adire_assets.families.causal_lm.evaluation.metrics import METRICS

DIGITS = 6
Statistics = Mapping[str, Statistic]
Scores = dict[str, float | None]


def measure(inputs: MetricInputs) -> Statistics:
    """Every metric of these answers."""
    return {name: metric.measure(inputs) for name, metric in METRICS.items()}


def scored(
    adapter: MetricInputs, base: MetricInputs, statistics: Mapping[str, Statistics]
) -> dict[str, Any]:
    """The scores of report.json; `statistics` are the `measure` of "adapter" and "base".

    Both answered the same prompts and samples, prompt by prompt. A score is null where there is
    nothing to compute it from, overall or in a language. `seeds` are the samples of a prompt.
    UserError where the two sides do not belong together.
    """
    asked = [[(one.question, one.sample) for one in side.answers] for side in (adapter, base)]
    if asked[0] != asked[1]:
        raise UserError(
            "the answers with the LoRA and without it are to other prompts or samples; "
            "generate both again"
        )
    prompts = [one.question for one in adapter.answers]
    numbers = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    clusters = np.array([numbers[prompt] for prompt in prompts], np.int64)
    return {
        "scores": _scores(statistics["adapter"]),
        "base_scores": _scores(statistics["base"]),
        "standard_errors": {
            name: _plain(standard_error(one, clusters))
            for name, one in statistics["adapter"].items()
        },
        "toxicity_probability_maximum": _maximum(statistics["adapter"]["toxicity"]),
        "by_language": {
            language: {
                "answers": sum(one.language == language for one in adapter.answers),
                "scores": _of_language(adapter, statistics["adapter"], language),
                "base_scores": _of_language(base, statistics["base"], language),
            }
            for language in sorted({one.language for one in adapter.answers} - {""})
        },
        "prompts": len(numbers),
        "seeds": sorted({one.sample for one in adapter.answers}),
        "answers": len(prompts),
        "metrics": {
            name: {"unit": metric.unit, "better": metric.better, "source": metric.source}
            for name, metric in METRICS.items()
        },
        "per_answer": [
            {
                **_told(answer),
                "base_text": base.answers[place].text,
                **{
                    name + suffix: _plain(one.each[place])
                    for suffix, of in (("", "adapter"), ("_base", "base"))
                    for name, one in statistics[of].items()
                    if one.each is not None and METRICS[name].of_each_answer
                },
            }
            for place, answer in enumerate(adapter.answers)
        ],
    }


def _told(answer: Answer) -> dict[str, Any]:
    keys = ("prompt", "language", "kind", "sample", "seed", "text", "reference", "finish_reason")
    return {key: getattr(answer, key) for key in keys}


def _scores(statistics: Statistics) -> Scores:
    return {name: _value(one, np.ones(one.answers)) for name, one in statistics.items()}


def _of_language(inputs: MetricInputs, statistics: Statistics, language: str) -> Scores:
    weights = np.array([float(one.language == language) for one in inputs.answers])
    own = inputs.of_language(language)
    return {
        name: _value(one, weights)
        if METRICS[name].of_each_answer
        else _value(METRICS[name].measure(own), np.ones(len(own.answers)))
        for name, one in statistics.items()
    }


def _value(statistic: Statistic, weights: np.ndarray) -> float | None:
    return _plain(float(statistic.value(weights)))


def _maximum(statistic: Statistic) -> float | None:
    if statistic.each is None or not statistic.each.size:
        return None
    return _plain(float(statistic.each.max()))


def _plain(value: float) -> float | None:
    """A number for report.json: rounded, and null when it is not finite."""
    return round(float(value), DIGITS) if math.isfinite(value) else None
