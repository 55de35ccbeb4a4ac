"""Alpaca, messages and ShareGPT become examples; every mistake is told with file, line and key."""

import json
import os
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.support.instruction_data import (
    alpaca,
    built,
    by_source,
    fill,
    refused,
    rows,
    words,
    write,
)

ASKED, ANSWERED = "How is indigo washed?", "In cold water, by hand, and dried in the shade."
CHAT = [("user", ASKED), ("assistant", ANSWERED)]
SOUND = {
    "alpaca": {"instruction": ASKED, "input": "", "output": ANSWERED},
    "messages": {"messages": [{"role": role, "content": text} for role, text in CHAT]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": ANSWERED}]
    },
}


def messages(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["role"], one["content"]) for one in row["messages"]]


def one_of(tmp_path: Path, record: Any, **changes: Any) -> dict[str, Any]:
    """The example that a record becomes, among others."""
    source = fill(tmp_path / "in")
    write(source / "b.jsonl", [record])
    built(source, tmp_path / "out", **changes)
    return by_source(tmp_path / "out")["b.jsonl:1"]


def problem(tmp_path: Path, record: Any, **changes: Any) -> str:
    """The only mistake of a folder, which is in its only record."""
    write(tmp_path / "in" / "b.jsonl", [record])
    head, *told = refused(tmp_path / "in", tmp_path / "out", **changes).split("\n")
    assert head.endswith("have a mistake:"), (head, told)
    [line] = told
    return line


@pytest.mark.parametrize("form", SOUND)
def test_a_record_of_each_format_becomes_the_same_conversation(tmp_path, form: str):
    assert messages(one_of(tmp_path, SOUND[form])) == CHAT


@pytest.mark.parametrize("form", SOUND)
def test_the_format_can_be_said(tmp_path, form: str):
    write(tmp_path / "in" / "b.jsonl", [{"text": "x"}])
    told = refused(tmp_path / "in", tmp_path / "out", format=form)
    assert f"b.jsonl:1: text: unknown key; {form} has" in told


def test_alpaca_puts_what_is_given_below_what_is_asked(tmp_path):
    record = {
        "instruction": "Translate.",
        "input": "aró",
        "output": "indigo",
        "system": "Be short.",
    }
    assert messages(one_of(tmp_path, record)) == [
        ("system", "Be short."),
        ("user", "Translate.\naró"),
        ("assistant", "indigo"),
    ]


@pytest.mark.parametrize("absent", [{}, {"input": None}, {"input": ""}])
def test_alpaca_may_have_no_input(tmp_path, absent):
    record = {"instruction": ASKED, "output": ANSWERED, **absent}
    assert messages(one_of(tmp_path, record)) == CHAT


def test_a_long_conversation_is_kept_whole(tmp_path):
    turns = [("system", "Be kind."), *CHAT, ("human", "Why?"), ("gpt", "It would fade.")]
    names = {"user": "human", "assistant": "gpt"}
    record = {
        "id": 7,
        "conversations": [{"from": names.get(role, role), "value": text} for role, text in turns],
    }
    assert [role for role, _ in messages(one_of(tmp_path, record))] == [
        *("system", "user", "assistant", "user", "assistant")
    ]


def test_the_system_prompt_stands_before_conversations_that_have_none(tmp_path):
    source = write(
        tmp_path / "in" / "b.jsonl",
        [SOUND["alpaca"], {**alpaca(1), "system": "Own."}, *(alpaca(n) for n in range(2, 40))],
    ).parent
    built(source, tmp_path / "out", system_prompt="You are a workshop.")
    found = by_source(tmp_path / "out")
    assert messages(found["b.jsonl:1"])[0] == ("system", "You are a workshop.")
    assert messages(found["b.jsonl:2"])[0] == ("system", "Own.")
    assert all(len(row["messages"]) == 3 for row in found.values())


def test_slots_are_facts_that_stand_in_the_answer(tmp_path):
    record = {
        "instruction": "Confirm.",
        "output": "Order 6306: 34 pieces for 125,500 naira, 总价137500奈拉.",
        "slots": {
            "order": 6306,
            "price": "125,500 naira",
            "价格": "137500奈拉",
            "currency": "奈拉",
        },
        "language": "en-NG",
    }
    row = one_of(tmp_path, record)
    assert row["slots"] == {**record["slots"], "order": "6306"}
    assert row["language"] == "en-NG"


def test_a_list_of_slots_is_numbered(tmp_path):
    record = {"instruction": "Confirm.", "output": "34 pieces, 9 June", "slots": ["34", "9 June"]}
    assert one_of(tmp_path, record)["slots"] == {"1": "34", "2": "9 June"}


@pytest.mark.parametrize("value", ["30", "6306", "30 pieces"])
def test_a_part_of_a_longer_number_repeats_nothing(tmp_path, value: str):
    record = {"instruction": "x y", "output": "Order 16306 of 130 pieces, 30.5 metres, A30"}
    told = problem(tmp_path, {**record, "slots": {"number": value}})
    assert told == f"b.jsonl:1: slots.number: {value} does not stand in the answer"


def test_texts_are_composed_and_lines_end_in_one_way(tmp_path):
    decomposed = "a\u0300ṣe\u0323\r\nkejì\r"
    record = {"instruction": decomposed, "output": decomposed, "slots": ["a\u0300ṣe\u0323"]}
    row = one_of(tmp_path, record)
    assert messages(row)[1] == ("assistant", "àṣẹ\nkejì\n")
    assert row["slots"] == {"1": "àṣẹ"}


def test_ignored_keys_are_left_out(tmp_path):
    record = {**SOUND["sharegpt"], "model": "x"}
    record["conversations"] = [{**turn, "weight": 1} for turn in record["conversations"]]
    row = one_of(tmp_path, record, ignored_keys=["model", "weight"])
    assert messages(row) == CHAT


@pytest.mark.parametrize(
    "layout", ["compact", "indented", "windows", "after blank lines", "without a list"]
)
def test_a_list_tells_the_line_where_a_record_begins(tmp_path, layout: str):
    records = [alpaca(number) for number in range(30)]
    text = json.dumps(records, indent=None if layout == "compact" else 2)
    if layout == "windows":
        text = text.replace("\n", "\r\n")
    if layout == "after blank lines":
        text = f"\n\n {text}\n"
    if layout == "without a list":
        text = "\n".join(json.dumps(record, indent=1) for record in records)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").write_bytes(text.encode())
    built(tmp_path / "in", tmp_path / "out")
    lines = [number for number, line in enumerate(text.split("\n"), 1) if line.strip() == "{"]
    expected = [1] * 30 if layout == "compact" else lines
    found = [int(row["source"].rpartition(":")[2]) for row in rows(tmp_path / "out")]
    assert sorted(found) == expected


def test_a_json_file_may_hold_a_record_a_line(tmp_path):
    fill(tmp_path / "in", 20).joinpath("a.jsonl").rename(tmp_path / "in" / "a.json")
    assert built(tmp_path / "in", tmp_path / "out").examples == 20


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_taken_and_told(tmp_path, encoding: str):
    path = fill(tmp_path / "in", 20) / "a.jsonl"
    path.write_bytes(path.read_text().encode(encoding))
    assert built(tmp_path / "in", tmp_path / "out").marked == ["a.jsonl"]


def turn(role: Any, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def turns(*said: tuple[Any, Any]) -> dict[str, Any]:
    return {"messages": [turn(*one) for one in said]}


WRONG: list[tuple[Any, str]] = [
    ("{", "not valid JSON: expecting property name enclosed in double quotes (column 2)"),
    ('{"instruction": "a"', "not valid JSON: expecting ',' delimiter (column 20)"),
    ('{"output": "a\tb"}', "not valid JSON: invalid control character at (column 14)"),
    ('{"output": NaN}', "not valid JSON: NaN is no number of JSON"),
    ('{"output": "a", "output": "b"}', "not valid JSON: output stands there twice; keep one"),
    ("[" * 100_000, "not valid JSON: it is nested too deeply; what follows is not read"),
    ('{"output": ' * 100_000, "not valid JSON: it is nested too deeply"),
    ('{"output": ' + "1" * 5000 + "}", "not valid JSON: Exceeds the limit"),
    ('{"\\ud800": 1, "\\ud800": 2}', "not valid JSON: \\ud800 stands there twice; keep one"),
    ("12", "a record is an object, found a number"),
    ('"text"', "a record is an object, found 'text'"),
    ("null", "a record is an object, found null"),
    ({"prompt": "a"}, "no record has the keys of a known format: alpaca has instruction and"),
    ({"data": [SOUND["alpaca"]]}, "no record has the keys of a known format"),
    ({**SOUND["alpaca"], "outptu": "b"}, "outptu: unknown key; did you mean output? alpaca has"),
    ({**SOUND["messages"], "tools": []}, "tools: unknown key; messages has messages, slots,"),
    ({**SOUND["alpaca"], "\ud800": 1}, "\\ud800: unknown key; alpaca has"),
    ({"instruction": "a"}, "output: is missing; text is expected"),
    ({"output": "a"}, "instruction: is missing; text is expected"),
    ({"instruction": "a", "output": None}, "output: is missing; text is expected"),
    ({"instruction": ["a"], "output": "b"}, "instruction: text is expected, found a list"),
    ({"instruction": "a", "output": 3}, "output: text is expected, found a number"),
    ({"instruction": "a", "input": True, "output": "b"}, "input: text is expected, found true or"),
    ({"instruction": "a", "output": ""}, "output: is empty"),
    ({"instruction": " \n", "output": "b"}, "instruction: is empty"),
    ({"instruction": "a", "output": "\u200b\u3000\t"}, "output: is empty"),
    ({"instruction": "a\0", "output": "b"}, "instruction: holds a control character, U+0000"),
    ({"instruction": "a", "output": "b\x1b[0m"}, "output: holds a control character, U+001B"),
    ({"instruction": "a", "output": "b\x85"}, "output: holds a control character, U+0085"),
    ({"instruction": "a", "output": "b\ud83d"}, "output: holds half a surrogate pair, U+D83D"),
    ({**SOUND["alpaca"], "language": "English"}, "language: a BCP 47 tag such as en, zh or yo is"),
    ({**SOUND["alpaca"], "language": 1}, "language: a BCP 47 tag such as en, zh or yo is expected"),
    ({**SOUND["alpaca"], "slots": "cold"}, "slots: {name: value} or a list of values is expected"),
    ({**SOUND["alpaca"], "slots": {"t": "warm"}}, "slots.t: warm does not stand in the answer"),
    ({**SOUND["alpaca"], "slots": {"t": ""}}, "slots.t: is empty"),
    ({**SOUND["alpaca"], "slots": [1.5]}, "slots.1: text is expected, found a number"),
    ({**SOUND["alpaca"], "slots": {"t": None}}, "slots.t: is missing; text is expected"),
    ({"messages": {}}, "messages: a list of turns is expected, found an object"),
    ({"conversations": []}, "conversations: a list of turns is expected, found a list"),
    ({"conversations": ["hi"]}, "conversations[0]: an object with from and value is expected"),
    (turns(("user", "a"), ("bot", "b")), "messages[1].role: one of system, user, assistant is"),
    (turns(("user", "a"), (None, "b")), "messages[1].role: is missing; one of system, user,"),
    (turns(("user", "a"), ("user", "b"), ("assistant", "c")), "messages[1].role: user is out of"),
    (turns(("assistant", "a")), "messages[0].role: assistant is out of order; a conversation"),
    (turns(("user", "a"), ("system", "b")), "messages[1].role: system is out of order"),
    (turns(("system", "a"), ("assistant", "b")), "messages[1].role: assistant is out of order"),
    (turns(("user", "a")), "messages[0]: the last turn is of the user; it must be the assistant"),
    (turns(*CHAT, ("user", "b")), "messages[2]: the last turn is of the user; it must be"),
    (turns(("user", "a"), ("assistant", [{"type": "text"}])), "messages[1].content: text is"),
    (
        {"messages": [{"role": "user", "content": "a", "tool_calls": []}, turn("assistant", "b")]},
        "messages[0].tool_calls: unknown key; messages has role, content",
    ),
    ({**SOUND["sharegpt"], "conversation": 1}, "conversation: unknown key; did you mean convers"),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "tool", "value": "b"}]},
     "conversations[1].from: one of system, user, assistant, human, gpt is expected, found 'tool'"),
    (
        {"system": "a", "conversations": [{"from": "system", "value": "b"}]},
        "conversations[0].from: system is out of order",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("record", "told"), WRONG)
def test_a_mistake_is_told_with_file_line_and_key(tmp_path, record, told: str):
    assert problem(tmp_path, record).startswith(f"b.jsonl:1: {told}")


def test_all_mistakes_of_all_files_are_told_at_once(tmp_path):
    source = fill(tmp_path / "in", 20)
    write(source / "b.jsonl", [alpaca(50), "{", "", {"instruction": "", "output": 1, "x": 2}])
    write(source / "sub" / "c.json", ["[", json.dumps(alpaca(51)) + ",", "{", "]"])
    (source / "d.jsonl").write_bytes(b'{"instruction": "a"\n"\xe1"}')
    (source / "e.jsonl").write_bytes('{"instruction": "a"}'.encode("utf-16-le"))
    write(source / "f.json", [])
    write(source / "g.json", ["[]"])
    write(source / "h.json", ["[", json.dumps(alpaca(52)), json.dumps(alpaca(53)), "]"])
    write(source / "i.json", ["[" + json.dumps(alpaca(54)) + "]", "more"])
    (source / "j.jsonl").symlink_to(tmp_path / "elsewhere")
    head, *told = refused(source, tmp_path / "out").split("\n")
    assert head == f"the records in {source} have 12 mistakes:"
    for line, start in zip(
        told,
        (
            "b.jsonl:2: not valid JSON",
            "b.jsonl:4: x: unknown key",
            "b.jsonl:4: instruction: is empty",
            "b.jsonl:4: output: text is expected",
            "d.jsonl: not UTF-8 text (line 2)",
            "e.jsonl: holds zero bytes, so it is not UTF-8 text (line 1)",
            "f.json:1: has no records",
            "g.json:1: has no records",
            "h.json:3: not valid JSON: a comma or ] is expected after the record of line 2",
            "i.json:2: not valid JSON: something follows the end of the list",
            "j.jsonl: a link that leads nowhere",
            "sub/c.json:4: not valid JSON",
        ),
        strict=True,
    ):
        assert line.startswith(start)


def test_only_the_first_hundred_mistakes_are_shown(tmp_path):
    write(tmp_path / "in" / "a.jsonl", ["{"] * 250)
    told = refused(tmp_path / "in", tmp_path / "out").split("\n")
    assert told[0].endswith("have 250 mistakes:")
    assert len(told) == 102
    assert told[-1] == "... and 150 more"


def test_a_name_that_is_not_utf8_is_told(tmp_path):
    source = fill(tmp_path / "in", 20)
    for name in (b"\xff.jsonl", b"\xfe.md"):
        (source / os.fsdecode(name)).write_text("{}")
    told = refused(source, tmp_path / "out")
    assert told.encode().endswith(b"in: \\udcfe.md, \\udcff.jsonl: not a name in UTF-8; rename it")


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    source = fill(tmp_path / "in", 20)
    (source / "b.jsonl").symlink_to(write(tmp_path / "outside.jsonl", [alpaca(99)]))
    assert "b.jsonl: a link that leads out of the folder" in refused(source, tmp_path / "out")


# --- fuzzed ---

VALUES = ["", " ", "x", "\0", "\ud800", 0, 1.5, True, None, [], {}, ["x"], {"role": "user"}, "user"]


def changed(random: Random, value: Any) -> Any:
    """`value` with one part replaced, removed or added."""
    if isinstance(value, dict) and value and random.random() < 0.8:
        key = random.choice([*value])
        kind = random.random()
        if kind < 0.2:
            return {other: one for other, one in value.items() if other != key}
        if kind < 0.4:
            return {**value, random.choice(["x", "\ud800", "slots", "role"]): random.choice(VALUES)}
        return {**value, key: changed(random, value[key])}
    if isinstance(value, list) and value and random.random() < 0.8:
        place = random.randrange(len(value))
        return [*value[:place], changed(random, value[place]), *value[place + 1 :]]
    return random.choice(VALUES)


@pytest.mark.parametrize("seed", range(6))
def test_fuzzed_records_are_taken_or_told_with_their_line(tmp_path, seed: int):
    """Each of 50 is alone among sound ones; whatever it is, the answer is a dataset or its line."""
    random = Random(seed)
    lines = [json.dumps(alpaca(number)) for number in range(20)]
    told_of = 0
    for number in range(50):
        record = changed(random, random.choice([*SOUND.values()]))
        line = json.dumps(record, ensure_ascii=random.random() < 0.5)
        if random.random() < 0.3:  # a byte or two of the line itself
            place = random.randrange(len(line))
            line = (
                line[:place] + random.choice(['"', "}", "\\", "\x01", "", "é"]) + line[place + 1 :]
            )
        content = "\n".join([*lines[:9], line, *lines[9:]])
        source = tmp_path / str(number)
        source.mkdir()
        (source / "a.jsonl").write_bytes(content.encode("utf-8", "surrogatepass"))
        try:
            form = random.choice(["auto", "alpaca"])
            summary = built(source, tmp_path / f"out{number}", format=form)
            assert summary.examples == 21, line
        except Exception as error:
            assert type(error).__name__ == "UserError", (line, error)
            told_of += 1
            for sentence in str(error).encode().decode().split("\n")[1:]:
                assert re.match(r"a\.jsonl(:10: |: not UTF-8 text \(line 10\))", sentence), sentence
            assert not (tmp_path / f"out{number}").exists()
    assert told_of > 30


def test_two_texts_of_the_tests_are_not_alike():
    assert len({words(seed) for seed in range(100)}) == 100
