"""Records become a dataset: its layout, duplicates, the split and what is told of it."""

import json
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from random import Random

import pytest

from adire_assets.core.data_files import TAKEN_DOWN
from adire_assets.core.errors import UserError
from adire_assets.families.causal_lm.config import DataConfig
from adire_assets.families.causal_lm.data.dataset import build, build_dataset
from adire_assets.families.causal_lm.data.duplicates import near_duplicates, shingles
from adire_assets.families.causal_lm.identity import identity
from tests.support.instruction_data import (
    LETTERS,
    SPLITS,
    alpaca,
    answer,
    built,
    by_source,
    config,
    fill,
    refused,
    rows,
    words,
    write,
)


def tree(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.iterdir()}


def placed(output: Path) -> dict[str, str]:
    """{answer: split}"""
    return {row["messages"][-1]["content"]: name for name in SPLITS for row in rows(output, name)}


def letters() -> list[dict]:
    return [json.loads(line) for line in LETTERS.read_text(encoding="utf-8").splitlines()]


def edited(text: str) -> str:
    """`text` with another last word."""
    return " ".join([*text.split()[:-1], "other"])


def test_output_is_the_layout_that_training_and_evaluation_read(tmp_path):
    source = tmp_path / "in"
    write(source / "letters.jsonl", letters())
    (source / "README.md").write_text("Letters.")
    summary = built(source, tmp_path / "out", license="Apache-2.0")
    assert sorted(tree(tmp_path / "out")) == [
        *("held_out.jsonl", "summary.json", "train.jsonl", "validation.jsonl")
    ]
    assert len(rows(tmp_path / "out")) == 30
    found = by_source(tmp_path / "out")["letters.jsonl:3"]
    given = letters()[2]
    assert found == {
        "messages": [
            {"role": "user", "content": f"{given['instruction']}\n{given['input']}"},
            {"role": "assistant", "content": given["output"]},
        ],
        "slots": given["slots"],
        "language": "yo",
        "source": "letters.jsonl:3",
    }
    told = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert told["files"] == {"letters.jsonl": "alpaca"}
    assert told["examples"] == told["train"] + told["validation"] + told["held_out"] == 30
    assert [told[name] for name in SPLITS] == [len(rows(tmp_path / "out", name)) for name in SPLITS]
    assert told["license"] == "Apache-2.0"
    assert told["unused"] == ["README.md"]
    assert told["slots"] == sum(len(record["slots"]) for record in letters())
    assert told["rejected"] == told["same_question"] == told["personal_data"] == []
    assert summary.languages == told["languages"]


def test_statistics_are_told_by_language(tmp_path):
    records = letters()
    for record in records[:15]:
        del record["language"]
    write(tmp_path / "in" / "a.jsonl", records)
    languages = built(tmp_path / "in", tmp_path / "out").languages
    assert [*languages] == ["en", "yo", "zh"]
    for language, told in languages.items():
        mine = [row for row in rows(tmp_path / "out") if row["language"] == language]
        lengths = [len(row["messages"][-1]["content"]) for row in mine]
        assert told["examples"] == told["train"] + told["validation"] + told["held_out"] == 10
        assert told["said"] == 5
        assert told["answer_characters_mean"] == round(sum(lengths) / 10, 1)


def test_the_letters_of_the_workshop_are_all_taken(tmp_path):
    """No number of an order, price or day is taken for personal data; hardly two are alike."""
    made = pytest.importorskip("adire_assets.embedded.letters.letters").letters(480, 0)
    write(tmp_path / "in" / "a.jsonl", made)
    summary = build_dataset(tmp_path / "in", tmp_path / "out", DataConfig(path="data/letters"))
    assert summary.examples + len(summary.rejected) == 480
    assert len(summary.rejected) <= 0.02 * 480
    assert {row["language"] for row in rows(tmp_path / "out")} == {"en", "zh", "yo"}


def test_equal_records_give_equal_bytes_in_every_process(tmp_path):
    fill(tmp_path / "in", 60)
    near = ({**alpaca(n), "output": edited(answer(n))} for n in range(30) for _ in range(2))
    write(tmp_path / "in" / "b.jsonl", near)
    arguments = {"source": str(tmp_path / "in"), "config": config().model_dump(mode="json")}
    build(**arguments, output=str(tmp_path / "one"))
    call = f"build(**{arguments!r}, output={str(tmp_path / 'two')!r})"
    subprocess.run(
        [sys.executable, "-c", f"from {build.__module__} import build; {call}"],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        check=True,
    )
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_only_the_files_named_are_taken(tmp_path):
    source = fill(tmp_path / "in", 20)
    write(source / "b.jsonl", [alpaca(99), "{"])
    write(source / ".hidden.jsonl", ["{"])
    write(source / "c.jsonl~", ["{"])
    assert build_dataset(source, tmp_path / "out", config(), ["a.jsonl"]).examples == 20
    assert "b.jsonl:2" in refused(source, tmp_path / "other")


def test_a_folder_without_data_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("instruction,output\na,b\n")
    told = refused(tmp_path / "in", tmp_path / "out")
    assert "has no instruction data: put .json, .jsonl, .ndjson files there" in told


def test_an_output_that_is_in_use_is_left_alone(tmp_path):
    fill(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(UserError, match="is not empty"):
        built(tmp_path / "in", tmp_path / "out")
    assert tree(tmp_path / "out") == {"mine": b"x"}


# --- duplicates ---


def test_of_equal_records_the_first_stays_whatever_their_format(tmp_path):
    source, record = fill(tmp_path / "in"), alpaca(7)
    asked, answered = record["instruction"], record["output"]
    write(source / "b.jsonl", [{"conversations": [
        {"from": "human", "value": asked}, {"from": "gpt", "value": answered}
    ]}])  # fmt: skip
    write(source / "c.json", [json.dumps([{"messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": asked},
        {"role": "assistant", "content": answered},
    ]}])])  # fmt: skip
    summary = built(source, tmp_path / "out")
    assert summary.files == {"a.jsonl": "alpaca", "b.jsonl": "sharegpt", "c.json": "messages"}
    assert [(one.file, one.line, one.reason) for one in summary.rejected] == [
        (file, 1, "the same question and answer as a.jsonl:8") for file in ("b.jsonl", "c.json")
    ]
    assert summary.examples == 40


def test_of_near_duplicates_one_stays_and_the_others_are_told(tmp_path):
    near = {**alpaca(3), "output": edited(alpaca(3)["output"])}
    shouted = {**alpaca(4), "output": alpaca(4)["output"].upper() + " "}
    write(fill(tmp_path / "in") / "b.jsonl", [near, shouted])
    summary = built(tmp_path / "in", tmp_path / "out")
    pairs = {}
    for one in summary.rejected:
        similarity, other = one.reason.split(" of the ")
        pairs[frozenset({f"{one.file}:{one.line}", other.split()[1]})] = similarity
    texts = (f"{one['instruction']}\n{one['output']}" for one in (alpaca(3), near))
    one, other = map(shingles, texts)
    assert pairs == {
        frozenset({"a.jsonl:4", "b.jsonl:1"}): (
            f"a near duplicate ({len(one & other) / len(one | other):.3f})"
        ),
        frozenset({"a.jsonl:5", "b.jsonl:2"}): "a near duplicate (1.000)",
    }
    assert built(tmp_path / "in", tmp_path / "all", near_duplicate_similarity=1).examples == 41


def test_near_duplicates_are_never_in_two_splits(tmp_path):
    """Of each record a second one with another word in its question, which moves it elsewhere."""
    records = [alpaca(number) for number in range(60)]
    near = [{**one, "instruction": edited(one["instruction"])} for one in records]
    write(tmp_path / "in" / "a.jsonl", [*records, *near])
    summary = built(tmp_path / "in", tmp_path / "out")
    assert (summary.examples, len(summary.rejected)) == (60, 60)
    assert sum("held-out" in one.reason for one in summary.rejected) > 15
    kept = [
        (name, shingles("\n".join(one["content"] for one in row["messages"])))
        for name in SPLITS
        for row in rows(tmp_path / "out", name)
    ]
    for (split, one), (other_split, other) in combinations(kept, 2):
        assert split == other_split or len(one & other) / len(one | other) < 0.9
    # Those that gates judge by stay; what is like them goes from the other splits.
    built(write(tmp_path / "few" / "a.jsonl", records).parent, tmp_path / "before")
    before, after = placed(tmp_path / "before"), placed(tmp_path / "out")
    assert all(after[text] == "held_out" for text, name in before.items() if name == "held_out")


@pytest.mark.parametrize("similarity", [0.6, 0.9])
def test_near_duplicates_are_those_of_counting_every_pair(similarity: float):
    """Each of five texts turns into another word by word; all the steps, in any order."""
    ends = [(words(seed, 60).split(), words(seed + 10, 60).split()) for seed in range(5)]
    texts = [" ".join((*one[:step], *other[step:])) for one, other in ends for step in range(61)]
    Random(0).shuffle(texts)
    kept: list[int] = []
    expected, several = [], 0
    sets = [shingles(text) for text in texts]
    for number, mine in enumerate(sets):
        found = [(len(mine & sets[one]) / len(mine | sets[one]), -one) for one in kept]
        best = max(found, default=(0.0, 0))
        several += sum(one >= similarity for one, _ in found) > 1
        if best[0] >= similarity:
            expected.append((number, -best[1], best[0]))
        else:
            kept.append(number)
    assert len(expected) > 10
    assert several > 3
    near = near_duplicates(texts, similarity)
    assert [(one.index, one.of, one.similarity) for one in near] == expected


@pytest.mark.parametrize("texts", [[], ["a"], ["a", "b", "A "], ["", ""]])
def test_short_texts_are_compared_whole(texts: list[str]):
    found = [(one.index, one.of) for one in near_duplicates(texts, 0.9)]
    assert found == ([(len(texts) - 1, 0)] if len(texts) > 1 else [])


# --- the split ---


@pytest.mark.parametrize("seed", range(3))
def test_adding_records_moves_no_other(tmp_path, seed: int):
    fill(tmp_path / "in", 60, 1000 * seed)
    built(tmp_path / "in", tmp_path / "before")
    write(tmp_path / "in" / "0.jsonl", (alpaca(1000 * seed + 100 + n) for n in range(30)))
    built(tmp_path / "in", tmp_path / "after")
    before, after = placed(tmp_path / "before"), placed(tmp_path / "after")
    assert set(before.values()) == set(SPLITS)
    assert {text: after[text] for text in before} == before
    assert len(after) == 90


def test_where_a_record_falls_depends_on_its_question_alone(tmp_path):
    fill(tmp_path / "in", 40)
    built(tmp_path / "in", tmp_path / "before")
    records = [
        {"id": n, "messages": [
            {"role": "user", "content": f" {alpaca(n)['instruction'].upper()}\n"},
            {"role": "assistant", "content": words(n + 50_000)},
        ]}
        for n in range(40)
    ]  # fmt: skip
    write(tmp_path / "other" / "z.jsonl", reversed(records))
    built(tmp_path / "other", tmp_path / "after", system_prompt="Be kind.")
    before, after = placed(tmp_path / "before"), placed(tmp_path / "after")
    for number in range(40):
        assert before[answer(number)] == after[words(number + 50_000)]


def test_records_with_the_same_question_fall_into_one_split_and_are_told(tmp_path):
    records = [
        {**alpaca(n), "output": words(100 * n + k + 20_000)} for n in range(30) for k in (1, 2, 3)
    ]
    records[0]["instruction"] = f"  {records[0]['instruction'].upper()} "
    write(tmp_path / "in" / "a.jsonl", records)
    summary = built(tmp_path / "in", tmp_path / "out")
    assert (summary.examples, summary.rejected) == (90, [])
    expected = [sorted(f"a.jsonl:{3 * n + k}" for k in (1, 2, 3)) for n in range(30)]
    assert sorted(summary.same_question) == sorted(expected)
    split = {row["source"]: name for name in SPLITS for row in rows(tmp_path / "out", name)}
    assert all(len({split[source] for source in group}) == 1 for group in expected)


# --- too few ---


def test_too_few_records_say_how_many_are_needed_and_what_was_left_out(tmp_path):
    write(fill(tmp_path / "in", 6) / "b.jsonl", (alpaca(n) for n in range(6)))
    head, *left_out = refused(tmp_path / "in", tmp_path / "out").split("\n")
    assert head.endswith("8 examples are needed (data.minimum_examples), 6 are usable; add records")
    assert left_out == [
        *(
            f"left out: b.jsonl:{n}: the same question and answer as a.jsonl:{n}"
            for n in range(1, 6)
        ),
        "... 6 left out in all",
    ]


@pytest.mark.parametrize("changes", [{"held_out_fraction": 0.05}, {"held_out_fraction": 0.5}])
def test_advised_fractions_make_a_dataset(tmp_path, changes: dict[str, float]):
    fill(tmp_path / "in", 12)
    told = refused(tmp_path / "in", tmp_path / "out", **changes, validation_fraction=0.3)
    fractions = dict(word.split(" to ") for word in told.split("data.")[1:])
    advised = {key: float(value.split()[0]) for key, value in fractions.items()}
    summary = built(
        tmp_path / "in", tmp_path / "out", **{**changes, "validation_fraction": 0.3, **advised}
    )
    assert min(summary.held_out, summary.train) >= 4


def test_records_that_all_ask_the_same_cannot_be_split(tmp_path):
    write(tmp_path / "in" / "a.jsonl", ({**alpaca(1), "output": words(n)} for n in range(40)))
    assert "add records with other questions" in refused(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"held_out_fraction": 0.5, "validation_fraction": 0.4}, "are 0.9 together, at most 0.8"),
        ({"phone_regions": ["NG", "XX"]}, "XX is no region"),
        ({"allow_personal_data": ["email", "email"]}, "has the same entry twice: email"),
        ({"allow_personal_data": ["names"]}, "'email', 'phone', 'card', 'iban' or 'secret'"),
        ({"format": "csv"}, "'auto', 'alpaca', 'messages' or 'sharegpt'"),
        ({"near_duplicate_similarity": 1.5}, "less than or equal to 1"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(changes, told: str):
    with pytest.raises(ValueError, match=told):
        config(**changes)


def test_near_duplicates_of_what_was_taken_down_stay_left_out(tmp_path):
    records = [alpaca(number) for number in range(60)]
    near = [{**one, "instruction": edited(one["instruction"])} for one in records]
    write(tmp_path / "in" / "a.jsonl", [*records, *near])
    before = built(tmp_path / "in", tmp_path / "all")
    [first, *_] = [one.reason.split()[-1] for one in before.rejected if "held-out" in one.reason]
    row = by_source(tmp_path / "all")[first]
    gone = identity((one["role"], one["content"]) for one in row["messages"])
    after = build_dataset(tmp_path / "in", tmp_path / "out", config(), taken_down=[gone])
    kept = by_source(tmp_path / "out").keys()
    assert by_source(tmp_path / "all").keys() == {first, *kept} and first not in kept
    reasons = {f"{one.file}:{one.line}": one.reason for one in after.rejected}
    assert reasons[first] == TAKEN_DOWN and len(reasons) == len(before.rejected) + 1
