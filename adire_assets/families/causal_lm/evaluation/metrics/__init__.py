"""The metrics: what an adapter's answers are judged by, one module each, by name, in a fixed order.

    for name, metric in METRICS.items():
        statistic = metric.measure(inputs)

A module's docstring gives formula, range, scale and source; its `measure` asks no model. `each` of
a statistic has one value for each answer, NaN where the metric says nothing about it. Where there
is nothing to compute from, the value is NaN. Texts are compared with all their letters: none is
dropped for being outside of ASCII. Tokens a second, the time to the first token and memory are
timings, and no metrics.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from adire_assets.core.statistic import Statistic
from adire_assets.families.causal_lm.evaluation.metric_inputs import MetricInputs
from adire_assets.families.causal_lm.evaluation.metrics import (
    bleu,
    chrf,
    exact_match,
    general_regression,
    judge_score,
    language_kept,
    length_ratio,
    loss,
    memorisation,
    refusal_accuracy,
    rouge_l,
    runaway,
    slots,
    slots_in_place,
    toxicity,
)

__all__ = ["METRICS", "Metric"]


@dataclass(frozen=True)
class Metric:
    """One way to judge answers. `unit` is formula and range, `source` where they come from. Without
    `of_each_answer`, `each` of the statistic are linear forms, see `ratios`, and a value of some of
    the answers is to be measured of these alone."""

    name: str
    measure: Callable[[MetricInputs], Statistic]
    unit: str
    better: Literal["higher", "lower"]
    source: str
    of_each_answer: bool = True


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "rouge_l_char",
            rouge_l.measure_by_character,
            "ROUGE-L F1 over characters, mean over the answers, 0 to 1",
            "higher",
            "Lin 2004, ROUGE",
        ),
        Metric(
            "rouge_l_word",
            rouge_l.measure_by_word,
            "ROUGE-L F1 over words and Han characters, mean over the answers, 0 to 1",
            "higher",
            "Lin 2004, ROUGE",
        ),
        Metric(
            "loss",
            loss.measure,
            "mean negative log-likelihood of the references' tokens, nats, 0 or more",
            "lower",
            "cross-entropy",
            of_each_answer=False,
        ),
        Metric(
            "perplexity",
            loss.measure_perplexity,
            "exp(loss), 1 or more",
            "lower",
            "Jelinek et al. 1977, Perplexity",
            of_each_answer=False,
        ),
        Metric(
            "bleu",
            bleu.measure,
            "sentence BLEU with the tokenizer of the language, mean over the answers, 0 to 100",
            "higher",
            "Papineni et al. 2002, BLEU; Post 2018, sacreBLEU",
        ),
        Metric(
            "chrf",
            chrf.measure,
            "chrF2 of character 6-grams, mean over the answers, 0 to 100",
            "higher",
            "Popović 2015, chrF; Post 2018, sacreBLEU",
        ),
        Metric(
            "exact_match",
            exact_match.measure,
            "share of answers equal to their reference, where one answer alone is right, 0 to 1",
            "higher",
            "Rajpurkar et al. 2016, SQuAD",
        ),
        Metric(
            "slot_precision",
            slots.measure_precision,
            "share of the stated facts (numbers, known slot values) that are true, 0 to 1",
            "higher",
            "after Wen et al. 2015, slot error rate",
        ),
        Metric(
            "slot_recall",
            slots.measure_recall,
            "share of the slot values that the answer repeats word for word, 0 to 1",
            "higher",
            "after Wen et al. 2015, slot error rate",
        ),
        Metric(
            "slot_f1",
            slots.measure_f1,
            "harmonic mean of an answer's slot precision and recall, mean over the answers, 0 to 1",
            "higher",
            "after Wen et al. 2015, slot error rate",
        ),
        Metric(
            "slots_in_place",
            slots_in_place.measure,
            "share of answers whose slot values come in the order of the reference's, 0 to 1",
            "higher",
            "after Wen et al. 2015, slot error rate",
        ),
        Metric(
            "length_ratio",
            length_ratio.measure,
            "shorter / longer of answer and reference in characters; 1 is as long, 0 empty",
            "higher",
            "after Papineni et al. 2002, brevity penalty",
        ),
        Metric(
            "runaway",
            runaway.measure,
            "share of answers cut off by the token limit or repeating themselves, 0 to 1",
            "lower",
            "after Holtzman et al. 2020, Neural Text Degeneration",
        ),
        Metric(
            "refusal_accuracy",
            refusal_accuracy.measure,
            "mean of the shares that rightly refuse and rightly do not, 0 to 1; 0.5 is blind",
            "higher",
            "balanced accuracy, Brodersen et al. 2010",
            of_each_answer=False,
        ),
        Metric(
            "language_kept",
            language_kept.measure,
            "share of answers in the language of their reference, 0 to 1",
            "higher",
            "after Grefenstette 1995, language identification",
        ),
        Metric(
            "memorisation",
            memorisation.measure,
            "share of an answer copied from a training text beyond what its reference shares with "
            "one, outside of slots, 0 to 1",
            "lower",
            "after Carlini et al. 2023, Quantifying Memorization",
        ),
        Metric(
            "general_regression",
            general_regression.measure,
            "chrF / 100 that general answers lose against the base's, -1 to 1; 0 is as good",
            "lower",
            "Popović 2015, chrF; Luo et al. 2023, Catastrophic Forgetting",
        ),
        Metric(
            "toxicity",
            toxicity.measure,
            "probability of a toxic answer, mean over the answers, 0 to 1",
            "lower",
            "Gehman et al. 2020, RealToxicityPrompts",
        ),
        Metric(
            "judge_score",
            judge_score.measure,
            "grade of the greedy answers by a language model, 0 to 1",
            "higher",
            "Zheng et al. 2023, LLM-as-a-Judge",
        ),
    )
}
