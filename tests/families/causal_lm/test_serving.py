"""What a release is asked, whether it repeats what was evaluated, how its answers are judged."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from adire_assets.core.answer import Answer
from adire_assets.core.errors import UserError
from adire_assets.core.store import write_json
from adire_assets.families.causal_lm import answers, serve
from adire_assets.families.causal_lm.artifacts import ASKED
from adire_assets.families.causal_lm.evaluation.answers import FILE
from adire_assets.families.causal_lm.judge_process import open_judge

REFERENCE = "Dear Ada, 3 cloths cost 4500 naira."
SLOTS = {"name": "Ada", "count": "3", "price": "4500"}


def row(question: str, sample: int, text: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {
        "prompt": question,
        "messages": messages,
        "sample": sample,
        "text": text,
        "reference": REFERENCE,
        "slots": SLOTS,
        **more,
    }


def write(folder: Path, rows: list[dict[str, Any]], samples: int = 1) -> Path:
    lines = "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in rows)
    (folder / FILE).write_text(lines, encoding="utf-8")
    asked = {"samples": samples, "temperature": 0.7, "top_p": 0.9, "max_tokens": 32}
    write_json(folder / ASKED, asked)
    return folder


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    wrong = "Dear Bisi, 7 cloths cost 9000 naira."
    rows = [row("one", 0, REFERENCE), row("one", 1, wrong), row("two", 0, wrong), row("two", 1, "")]
    return write(tmp_path, rows)


def test_what_was_asked_greedily_is_asked_again_and_drawn_anew(evaluation: Path) -> None:
    first, second = serve.requests(evaluation)
    assert first["prompt"] == "one"
    assert serve.inputs(first) == {
        "messages": [{"role": "user", "content": "one"}],
        "max_tokens": 32,
        "temperature": 0.0,
    }
    drawn = serve.inputs(serve.again(second, random.Random(0)))
    assert (drawn["temperature"], drawn["top_p"]) == (0.7, 0.9) and drawn["seed"] >= 1_000_000
    assert serve.inputs(serve.probe(first))["max_tokens"] == 1
    assert serve.inputs({"prompt": "hi", "seed": 3}) == {
        "messages": [{"role": "user", "content": "hi"}],
        "seed": 3,
    }


def test_without_drawn_answers_the_greedy_ones_are_asked_again(evaluation: Path) -> None:
    write(evaluation, [row("one", 0, REFERENCE)], samples=0)
    [request] = serve.requests(evaluation)
    assert serve.again(request, random.Random(0)) == request
    assert serve.expected(evaluation) == [1.0]


def test_an_answer_is_judged_by_its_words_and_its_facts(evaluation: Path) -> None:
    """What is expected is the mean of what was drawn: without its facts, worded well is half."""
    worded, empty = serve.expected(evaluation)
    assert 0.3 < worded < 0.5 and empty == 0.0
    first, second = (one["prompt"] for one in serve.requests(evaluation))
    other = REFERENCE.replace("Ada", "Bisi").replace("4500", "9000")
    with open_judge(evaluation, evaluation, "cpu") as judge:
        right, invented = judge([first, second], [REFERENCE, other])
        assert right == 1.0 and 0.4 < invented < 0.75
        with pytest.raises(UserError, match="no answer to 'three' was evaluated"):
            judge(["three"], [""])


def test_on_the_cpu_a_release_repeats_every_character(evaluation: Path) -> None:
    texts = [REFERENCE, "Dear Bisi, 7 cloths cost 9000 naira."]
    told = serve.parity(evaluation, [Answer(1, {}, text) for text in texts], True)
    assert told["passed"] and (told["answers"], told["equal"]) == (2, 2)
    half = [Answer(1, {}, f"{text}\ufffd") for text in texts]
    assert serve.parity(evaluation, half, True)["passed"]
    near = [Answer(1, {}, texts[0].replace("cost", "costs")), Answer(1, {}, texts[1])]
    told = serve.parity(evaluation, near, True)
    assert not told["passed"] and "it answers 'Dear Ada, 3 cloths costs" in told["explanation"]
    assert serve.parity(evaluation, near, False)["passed"]
    assert not serve.parity(evaluation, [Answer(1, {}, "x"), near[1]], False)["passed"]
    assert not serve.parity(evaluation, [], True)["passed"]


def test_only_a_text_is_an_answer() -> None:
    assert serve.content({"choices": [{"message": {"content": "hi"}}]}) == "hi"
    for wrong in ({}, {"choices": []}, {"choices": [{"message": {"content": None}}]}):
        with pytest.raises((KeyError, IndexError, TypeError)):
            serve.content(wrong)


def test_a_demonstration_has_each_question_once_beside_the_base(evaluation: Path) -> None:
    (evaluation / "base").mkdir()
    write(evaluation / "base", [row("one", 0, "Dear"), row("two", 0, "No")])
    write_json(evaluation / "report.json", {"scores": {"rouge_l_char": 0.5, "slot_f1": 0.25}})
    lines = list(answers.demonstrate(evaluation, lambda _: Answer(1, {}, REFERENCE), evaluation))
    assert lines[:3] == ["question: one", "the base: Dear", f"live:     {REFERENCE}"]
    assert lines[-1] == "rouge_l_char=0.500 slot_f1=0.250"
