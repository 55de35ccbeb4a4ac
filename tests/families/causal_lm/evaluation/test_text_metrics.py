"""What holds of every metric of texts, and those of loss, form and length."""

import math
import random
import time

import numpy as np
import pytest

from adire_assets.core.statistic import standard_error
from adire_assets.families.causal_lm.evaluation.answers import Answer
from adire_assets.families.causal_lm.evaluation.metrics import METRICS
from adire_assets.families.causal_lm.evaluation.metrics.toxicity import word_list
from tests.support.answers import (
    CHINESE,
    ENGLISH,
    NEAR,
    OTHER,
    REFUSALS,
    YORUBA,
    answer,
    each,
    inputs,
    of,
    value,
)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "text", ["", "\0", "\ud7ff", "🙂" * 50, "\u0301", "(((", "%s {0} \\1", "١٢"]
)
def test_no_text_breaks_a_metric(metric, text):
    given = inputs(
        answer(text, text, slots={"a": text, "b": "("}), answer(text, ENGLISH), answer(text, None),
        train=(text, ENGLISH), refusals=("cannot",), toxicity=word_list([text, "("]),
    )  # fmt: skip
    assert len(each(metric, given)) == 3


@pytest.mark.parametrize("metric", METRICS)
def test_no_answers_are_worth_nothing(metric):
    assert math.isnan(value(metric, inputs()))


def test_every_metric_takes_an_answer_for_itself():
    """Scores of references as answers: what a perfect model has."""
    perfect = [
        Answer(text, text, text, {"a": "12"}, language, loss=0.0, reference_tokens=3)
        for text, language in (
            (f"{CHINESE}12", "zh"),
            (f"{YORUBA} 12", "yo"),
            (f"{ENGLISH} 12", "en"),
        )
    ]
    given = inputs(*perfect, base=tuple(perfect), train=(OTHER,), toxicity=word_list(["bad"]))
    for name, metric in METRICS.items():
        best = {"perplexity": 1.0, "bleu": 100.0, "chrf": 100.0}
        found = value(name, given)
        if not math.isnan(found):
            assert found == pytest.approx(best.get(name, float(metric.better == "higher"))), name


def test_sixty_prompts_of_three_answers_take_under_two_seconds():
    drawn = random.Random(0)
    words = [*"abcdefghij", *CHINESE, *ENGLISH.split(), *YORUBA.split()]

    def text() -> str:
        return " ".join(drawn.choices(words, k=40))

    answers = tuple(
        answer(text(), text(), prompt=text(), language=drawn.choice(("zh", "yo", "en")),
               slots={"a": text()[:6], "b": str(drawn.randrange(10**5))}, sample=sample)
        for _ in range(60) for sample in range(3)
    )  # fmt: skip
    given = inputs(
        *answers, base=answers, train=tuple(text() for _ in range(600)), refusals=REFUSALS,
        toxicity=word_list(["rubbish"]),
    )  # fmt: skip
    began = time.process_time()
    for metric in METRICS.values():
        metric.measure(given)
    assert time.process_time() - began < 2


# Loss


def test_loss_is_a_mean_over_tokens_and_perplexity_its_exponential():
    given = inputs(
        answer("", "r", prompt="a", loss=1.0, reference_tokens=10),
        answer("", "r", prompt="b", loss=3.0, reference_tokens=30),
    )
    assert value("loss", given) == pytest.approx(2.5)
    assert value("perplexity", given) == pytest.approx(math.exp(2.5))


def test_perplexity_of_equal_chances_is_their_number():
    uniform = answer("", "r", loss=math.log(41.0), reference_tokens=7)
    assert of("perplexity", "", "r", loss=uniform.loss, reference_tokens=7) == pytest.approx(41.0)


def test_the_scatter_of_loss_is_that_of_the_mean_over_tokens():
    drawn = np.random.default_rng(0)
    counts = drawn.integers(5, 60, 400)
    losses = drawn.gamma(2.0, 0.2, 400) + 0.05 * counts
    given = inputs(
        *(
            answer("", "r", prompt=str(place), loss=float(loss), reference_tokens=int(count))
            for place, (loss, count) in enumerate(zip(losses, counts, strict=True))
        )
    )
    picked = drawn.integers(0, 400, (4000, 400))
    means = (losses * counts)[picked].sum(1) / counts[picked].sum(1)
    error = standard_error(METRICS["loss"].measure(given))
    assert error == pytest.approx(means.std(), rel=0.05)
    perplexity = standard_error(METRICS["perplexity"].measure(given))
    assert perplexity == pytest.approx(np.exp(means).std(), rel=0.1)


@pytest.mark.parametrize("loss", [None, math.nan, math.inf])
def test_a_loss_that_overflowed_is_no_reason_to_judge_by_the_others(loss):
    known = answer("", "r", prompt="a", loss=1.0, reference_tokens=5)
    lost = answer("", "r", prompt="b", loss=loss, reference_tokens=5)
    for metric in ("loss", "perplexity"):
        assert math.isnan(value(metric, inputs(known, lost)))


def test_loss_may_be_told_with_the_greedy_answer_alone():
    told = answer("", "r", loss=1.0, reference_tokens=5)
    drawn = answer("", "r", sample=1, loss=None, reference_tokens=5)
    general = answer("", None, prompt="b", kind="general")
    assert value("loss", inputs(told, drawn, general)) == pytest.approx(1.0)


# Exact match, length, runaway


def test_exact_match_is_defined_where_the_reference_is_facts_alone():
    slots = {"price": "4,500 naira", "day": "3 May"}
    assert of("exact_match", "4,500 naira", "4,500 naira", slots=slots) == 1
    assert of("exact_match", "4,500 naira\n3 May \n", "4,500 naira\n3 May", slots=slots) == 1
    assert of("exact_match", "\n4,500 naira\n\n", "4,500 naira", slots=slots) == 1
    assert of("exact_match", "4500 naira", "4,500 naira", slots=slots) == 0
    assert of("exact_match", "", "4,500 naira.", slots=slots) == 0
    for reference, given in (("It is 4,500 naira", slots), ("Yes.", {}), ("", {}), ("...", {})):
        assert math.isnan(of("exact_match", reference, reference, slots=given))


def test_exact_match_is_defined_everywhere_where_one_answer_alone_is_right():
    same, near = answer(CHINESE, CHINESE), answer(NEAR, CHINESE)
    assert value("exact_match", inputs(same, near, only_answers=True)) == 0.5


def test_length_ratio_counts_in_both_directions():
    given = inputs(answer("ab", "abcd"), answer("abcdabcd", "abcd"), answer("布布布布", "abcd"))
    assert each("length_ratio", given) == [0.5, 0.5, 1]
    assert of("length_ratio", "", "") == 1


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("好" * 24, True),
        ("好" * 23, False),
        ("thank you " * 3, True),
        ("We are sorry, the cloth is wet. " * 2, False),
        ("We are sorry, the cloth is wet. " * 3, True),
        (f"Dear Ada, {'order 1042 ' * 6}", True),
        ("|---|---|---|---|---|---|---|\n", False),
        (" " * 90, False),
        (CHINESE, False),
        (YORUBA, False),
        ("", False),
        ("x" + ENGLISH * 3 + "y", True),
    ],
)
def test_an_answer_that_repeats_itself_runs_away(text, runs):
    assert of("runaway", text, "A reference.") == runs


def test_what_is_cut_off_runs_away_and_what_the_reference_repeats_does_not():
    assert of("runaway", "fine", "fine", finish_reason="length") == 1
    assert of("runaway", "ha " * 20, "ha " * 20) == 0
