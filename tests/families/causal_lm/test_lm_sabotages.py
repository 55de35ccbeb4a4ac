"""Each sabotage of a training changes what it says, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from adire_assets.families.causal_lm.sabotages import KEPT, sabotages
from adire_assets.families.causal_lm.training.settings import TrainingConfig
from tests.support import language

TRAINING = TrainingConfig(learning_rate=1e-3, max_train_steps=100)


def read(dataset: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (dataset / "train.jsonl").read_text("utf-8").splitlines()]


def spoilt(folder: Path, name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    dataset = language.write_dataset(folder / "dataset", train=24)
    before = read(dataset)
    change = sabotages(TRAINING)[name].dataset
    assert change
    change(dataset, 7)
    return before, read(dataset)


def answer(record: dict[str, Any]) -> str:
    return record["messages"][-1]["content"]


def test_settings_that_spoil_are_those_of_the_training() -> None:
    found = sabotages(TRAINING)
    assert found["rate"].settings == {"learning_rate": pytest.approx(3e-2)}
    assert found["half"].settings["max_train_steps"] == 50
    for one in found.values():
        TrainingConfig.model_validate({**TRAINING.model_dump(), **one.settings})


def test_shuffled_answers_are_all_anothers(tmp_path: Path) -> None:
    before, after = spoilt(tmp_path, "shuffled")
    own = {one["messages"][0]["content"]: answer(one) for one in before}
    assert sorted(map(answer, after)) == sorted(map(answer, before))
    assert all(own[one["messages"][0]["content"]] != answer(one) for one in after)


def test_swapped_slots_are_facts_of_other_questions(tmp_path: Path) -> None:
    before, after = spoilt(tmp_path, "slots")
    for old, new in zip(before, after, strict=True):
        assert old["messages"][0] == new["messages"][0]
        assert old["slots"]["name"] not in answer(new)


def test_another_template_and_ten_examples(tmp_path: Path) -> None:
    before, after = spoilt(tmp_path / "template", "template")
    assert all("### Response:" in one["messages"][0]["content"] for one in after)
    assert list(map(answer, after)) == list(map(answer, before))
    before, after = spoilt(tmp_path / "memorised", "memorised")
    assert len(after) == KEPT and all(one in before for one in after)
