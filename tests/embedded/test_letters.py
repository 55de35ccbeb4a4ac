"""The letters of the workshop, and the exercises that their base model learns from."""

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from adire_assets.core.errors import UserError
from adire_assets.embedded.letters import corpus
from adire_assets.embedded.letters.letters import letters, write_letters

COUNT = 960


def test_each_letter_states_the_facts_that_it_was_told() -> None:
    found = list(letters(COUNT, 0))
    for letter in found:
        slots = letter["slots"]
        assert isinstance(slots, dict)
        for value in slots.values():
            assert value in str(letter["input"]) and value in str(letter["output"])
        assert "{" not in f"{letter['instruction']}{letter['input']}{letter['output']}"
    assert Counter(letter["language"] for letter in found) == {"en": 320, "zh": 320, "yo": 320}
    assert len({letter["input"] for letter in found}) == COUNT


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("first", 3), ("second", 3), ("third", 4)):
        write_letters(tmp_path / name, count=24, seed=seed)
    first, second, third = (
        (tmp_path / name / "letters.jsonl").read_bytes() for name in ("first", "second", "third")
    )
    assert first == second != third
    assert len(first.decode().splitlines()) == 24
    with pytest.raises(UserError, match=r"first is not empty; name a new folder for the letters"):
        write_letters(tmp_path / "first")


def test_no_exercise_shows_a_letter() -> None:
    """A base that had seen the letters would make the LoRA's work for it."""
    random = Random(0)
    texts = [answer for _, answer in (corpus.exercise(random) for _ in range(3_000))]
    for letter in letters(240, 0):
        body = str(letter["output"]).split("\n")[1]
        assert not any(body in text for text in texts)


def test_an_exercise_is_answered_from_its_question_alone() -> None:
    """Its answer, but for joining words, stands in the question."""
    random = Random(1)
    for _ in range(500):
        asked, answered = corpus.exercise(random)
        digits = {piece for piece in answered.split() if piece.isdigit()}
        assert all(piece in asked for piece in digits)
        assert answered and asked and answered != asked
