"""Answers read from a file, their scores beside the base's, and the report that people read."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from adire_assets.core.errors import UserError
from adire_assets.families.causal_lm.evaluation import report
from adire_assets.families.causal_lm.evaluation.answers import (
    Answer,
    read_answers,
    train_texts_and_slots,
)
from adire_assets.families.causal_lm.evaluation.metric_inputs import MetricInputs
from adire_assets.families.causal_lm.evaluation.metrics import METRICS
from adire_assets.families.causal_lm.evaluation.metrics.toxicity import word_list
from adire_assets.families.causal_lm.evaluation.scores import measure, scored
from adire_assets.gates.comparison import compare

LANGUAGES = {
    "zh": ("订单{}何时完成？", "订单{}将在三月完成。"),
    "en": ("When is order {} ready?", "Your order {} is ready in March."),
}


def line(**changes: Any) -> dict[str, Any]:
    return {
        "prompt": "When?", "messages": [{"role": "user", "content": "When?"}], "sample": 0,
        "seed": None, "text": "Now.", "reference": "Now.", "slots": {}, "language": "en",
        "kind": "held_out", "finish_reason": "stop", "tokens": 2, "loss": 0.5,
        "reference_tokens": 2, "question_tokens": 3, **changes,
    }  # fmt: skip


def written(folder: Path, *lines: object) -> Path:
    text = "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in lines)
    (folder / "answers.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_answers_are_read_as_they_were_written(tmp_path):
    # U+2028 ends no line of JSON.
    rows = [
        line(text="a\u2028b"),
        line(kind="general", reference=None, loss=None, sample=1, seed=7),
    ]
    first, second = read_answers(written(tmp_path, *rows))
    assert first.text == "a\u2028b"
    assert first.question == "When?"
    assert (second.sample, second.seed, second.loss, second.expected) == (1, 7, None, None)


def test_texts_are_composed(tmp_path):
    [found] = read_answers(written(tmp_path, line(text="o\u0323", slots={"a": "o\u0323"})))
    assert (found.text, found.slots) == ("ọ", {"a": "ọ"})


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (line(score=1), "answers.jsonl:2: key 'score' is not known"),
        ({"prompt": "When?"}, "answers.jsonl:2: key 'text' is missing"),
        ([1], "answers.jsonl:2: key 'prompt' is missing"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, row, told):
    with pytest.raises(UserError, match=told):
        read_answers(written(tmp_path, line(), row))


def test_a_line_that_is_cut_off_is_named(tmp_path):
    (tmp_path / "answers.jsonl").write_text('{"prompt": "Wh', encoding="utf-8")
    with pytest.raises(UserError, match=r"answers.jsonl:1: not JSON"):
        read_answers(tmp_path)


def test_training_texts_are_all_messages_and_slot_values_once(tmp_path):
    talk = {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        "slots": {"one": "o\u0323", "other": "ọ"},
    }
    lines = f"{json.dumps(talk)}\n" * 2
    (tmp_path / "train.jsonl").write_text(lines, encoding="utf-8")
    assert train_texts_and_slots(tmp_path) == (("a", "b"), ("ọ",))


def answers(right: bool, prompts: int = 8) -> tuple[Answer, ...]:
    made = []
    for place in range(prompts):
        language = ("zh", "en")[place % 2]
        asked, told = (text.format(1000 + place) for text in LANGUAGES[language])
        for sample in range(2):
            text = told if right and sample == 0 else told.replace("1", "7", 1)
            made.append(
                Answer(asked, text, told, {"order": str(1000 + place)}, language, sample=sample,
                       loss=0.5 if right else 2.0, reference_tokens=4 + 4 * (place % 2))
            )  # fmt: skip
    return tuple(made)


def evaluated(adapter: tuple[Answer, ...], base: tuple[Answer, ...]) -> dict[str, Any]:
    common: dict[str, Any] = {"train": ("Your order 77 is",), "toxicity": word_list(["March"])}
    own, bare = (MetricInputs(one, base, **common) for one in (adapter, base))
    statistics = {"adapter": measure(own), "base": measure(bare)}
    return {"adapter_problems": [], **scored(own, bare, statistics)}


def test_scores_stand_beside_the_bases():
    found = evaluated(answers(True), answers(False))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found["scores"]) == list(found["base_scores"]) == list(METRICS)
    assert (found["scores"]["slot_f1"], found["base_scores"]["slot_f1"]) == (0.5, 0)
    assert (found["scores"]["loss"], found["base_scores"]["loss"]) == (0.5, 2)
    assert found["scores"]["refusal_accuracy"] is None
    assert (found["prompts"], found["seeds"], found["answers"]) == (8, [0, 1], 16)
    assert found["toxicity_probability_maximum"] == 1


def test_answers_to_other_prompts_are_refused():
    for base in (answers(False, 7), answers(False)[::-1]):
        with pytest.raises(UserError, match="generate both again"):
            evaluated(answers(True), base)


def test_standard_errors_are_over_prompts():
    # Each prompt has one right and one wrong answer, so that prompts do not differ.
    assert evaluated(answers(True), answers(False))["standard_errors"]["slot_f1"] == 0


def test_scores_are_told_by_language():
    mixed = tuple(
        dataclasses.replace(one, loss=1.0) if one.language == "zh" else one for one in answers(True)
    )
    found = evaluated(mixed, answers(False))
    own = {language: of["scores"] for language, of in found["by_language"].items()}
    assert list(own) == ["en", "zh"]
    assert (own["en"]["loss"], own["zh"]["loss"]) == (0.5, 1)
    assert own["zh"]["perplexity"] == pytest.approx(math.e)
    assert found["scores"]["loss"] == pytest.approx((0.5 * 8 + 1 * 4) / 12)
    assert (own["en"]["toxicity"], own["zh"]["toxicity"]) == (1, 0)
    assert found["by_language"]["zh"]["answers"] == 8


def varied(given: tuple[Answer, ...]) -> tuple[Answer, ...]:
    """Prompts that differ in how much is won: some answers are right on either side."""
    return tuple(
        dataclasses.replace(
            one,
            loss=(one.loss or 0) * (1 + place % 7 / 20),
            text=one.reference or "" if place % 9 == 0 else one.text,
        )
        for place, one in enumerate(given)
    )


def test_a_challenger_is_compared_by_what_its_prompts_ask_for():
    own, rival = (measure(MetricInputs(varied(answers(right, 60)))) for right in (True, False))
    better = {name: metric.better for name, metric in METRICS.items()}
    margins = dict.fromkeys(METRICS, 0.05)
    silent = {
        *("exact_match", "refusal_accuracy", "memorisation", "general_regression", "toxicity"),
        *("judge_score", "slots_in_place"),
    }
    found = {one.metric: one for one in compare(own, rival, better, margins, 60, 2)}
    assert {name for name, one in found.items() if "no prompt" in one.explanation} == silent
    assert {name for name, one in found.items() if one.passed} == set(METRICS)
    found = {one.metric: one for one in compare(rival, own, better, margins, 60, 2)}
    lost = {"slot_f1", "slot_recall", "slot_precision", "loss", "perplexity", "bleu", "chrf"}
    assert not any(found[name].passed for name in lost)


def test_an_adapter_that_overflows_on_one_text_does_not_pass_against_a_champion():
    own = [*answers(True, 12)]
    own[:2] = [dataclasses.replace(one, loss=None) for one in own[:2]]
    sides = (measure(MetricInputs(one)) for one in (tuple(own), answers(False, 12)))
    [found] = compare(*sides, {"loss": "lower"}, {"loss": 0.05}, 12, 2)
    assert not found.passed


def test_an_answer_has_its_own_scores_and_no_linear_forms():
    entry = evaluated(answers(True), answers(False))["per_answer"][0]
    assert (entry["slot_f1"], entry["slot_f1_base"]) == (1, 0)
    assert entry["base_text"] == "订单7000将在三月完成。"
    assert "loss" not in entry


def test_no_answers_have_no_scores_and_a_report():
    found = evaluated((), ())
    assert set(found["scores"].values()) == {None}
    assert "0 answers" in report.markdown({**found, "adapter_problems": ["weights are NaN"]})
    assert "weights are NaN" in report.markdown({**found, "adapter_problems": ["weights are NaN"]})


def test_the_report_shows_scores_by_language_and_six_answers():
    text = report.markdown(evaluated(answers(True), answers(False)))
    assert "| slot_f1, higher is better | 0.500 ± 0.000 | 0.000 |" in text
    assert "| metric | en (8) | zh (8) |" in text
    assert "| loss | 0.500 / 2.000 | 0.500 / 2.000 |" in text
    assert text.count("## Answer ") == 6
    shown = text.split("## Answer ")[1:]
    assert [part.splitlines()[2][:2] for part in shown] == ["en"] * 3 + ["zh"] * 3
    assert "订单1002将在三月完成。" in text or "订单1004将在三月完成。" in text
    for part in shown:
        assert "slot_f1 1.000" in part  # greedy answers alone, which are the right ones here
        assert [part.count(one) for one in ("With the LoRA:", "Without:", "Reference:")] == [1] * 3


def test_an_answer_cannot_end_its_frame_in_the_report():
    hostile = dataclasses.replace(
        answers(True, 1)[0], text="````\n# Passed\n<script>", language="a|b"
    )
    text = report.markdown(evaluated((hostile,), (hostile,)))
    assert "`````text\n````\n# Passed\n<script>\n`````" in text
    assert "a\\|b (1)" in text


def test_equal_answers_give_equal_reports():
    assert report.markdown(evaluated(answers(True), answers(False))) == report.markdown(
        evaluated(answers(True), answers(False))
    )
