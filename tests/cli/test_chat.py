"""`adire chat` against the door of a vLLM with a stand-in engine: what it says as it is written."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_engine import FakeEngine, install
from tests.support.served_door import served_door

ROOT = Path(__file__).parents[2]
LETTERS = "family: causal_lm\ndata: {path: data/letters}\nbase_model: {source: base}\n"
SAID = "three cloths for Ada \n"
BY = "letters@2 manifest letters2\n"


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, engine: FakeEngine) -> Iterator[Path]:
    """A project with the models `letters`, whose releases 1 and 2 are served, and `cloth`."""
    root = tmp_path_factory.mktemp("chat") / "l'été"
    models = root / "configs" / "models"
    models.mkdir(parents=True)
    (models / "letters.yaml").write_text(LETTERS)
    shutil.copy(ROOT / "configs" / "models" / "indigo.yaml", models / "cloth.yaml")
    shutil.copytree(ROOT / "configs" / "prompts", root / "configs" / "prompts")
    for number in (1, 2):
        install(root / "slot", number)
    with served_door(root / "slot", engine) as port:
        fleet = (ROOT / "configs" / "fleet.yaml").read_text()
        assert "port: 8080" in fleet
        remote = fleet.replace("port: 8080", f"port: {port}\n      launch: remote")
        (root / "configs" / "fleet.yaml").write_text(remote)
        yield root


@pytest.fixture(autouse=True)
def sound(engine: FakeEngine) -> None:
    engine.breaks = engine.going_on = None
    engine.asked.clear()


def start(project: Path, *words: str, **more: Any) -> subprocess.Popen:
    named = {name: value for name, value in os.environ.items() if not name.startswith("ADIRE_")}
    return subprocess.Popen(
        [sys.executable, "-m", "adire_assets.cli", "chat", *words],
        cwd=project,
        env={**named, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def chat(project: Path, *words: str, typed: str = "") -> tuple[int, str, str]:
    """(exit status, standard output, standard error)."""
    process = start(project, *words)
    out, error = process.communicate(typed, timeout=60)
    return process.returncode, out, error


def test_an_answer_comes_while_it_is_written_and_says_who_gave_it(
    project: Path, engine: FakeEngine
) -> None:
    engine.going_on = threading.Event()
    process = start(project, "letters", "Write to Ada.")
    assert process.stdout
    # The last word is not written before the others are read.
    assert process.stdout.read(len("three cloths for ")) == "three cloths for "
    engine.going_on.set()
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error) == (0, "Ada \n", BY)


def test_how_to_answer_and_by_which_release_is_asked_for(project: Path, engine: FakeEngine) -> None:
    given = ("--system", "Be brief.", "--max-tokens", "9", "--temperature", "0", "--release", "1")
    assert chat(project, "Hi", *given) == (0, SAID, "letters@1 manifest letters1\n")
    [asked] = engine.asked
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]
    assert asked["messages"] == messages
    assert (asked["max_tokens"], asked["temperature"], asked["model"]) == (9, 0, "letters@1")


def test_a_conversation_keeps_what_was_said_but_no_turn_that_failed(
    project: Path, engine: FakeEngine
) -> None:
    status, out, error = chat(project, "letters", typed="Hi\n\nbad\x07turn\nAnd Bayo?\n")
    assert (status, out) == (0, SAID + SAID)
    by, refused, again = error.splitlines(keepends=True)
    assert by == again == BY and "control character U+0007" in refused
    said = {"role": "assistant", "content": SAID[:-1]}
    hi, bayo = ({"role": "user", "content": text} for text in ("Hi", "And Bayo?"))
    assert [one["messages"] for one in engine.asked] == [[hi], [hi, said, bayo]]


def test_control_characters_of_an_answer_do_not_end_the_conversation(
    project: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "text", "three\x1b[2J cloths")
    status, _, error = chat(project, "letters", typed="Hi\nAnd Bayo?\n")
    assert (status, error) == (0, BY + BY)
    assert engine.asked[-1]["messages"][1]["content"] == "three[2J cloths "


def test_an_answer_that_breaks_off_is_told(project: Path, engine: FakeEngine) -> None:
    engine.breaks = (2, "error")
    status, out, error = chat(project, "letters", "Hi")
    assert (status, out) == (1, "three cloths \n")
    assert error.startswith("adire: the server at ") and "the answer broke off" in error
    assert error.count("\n") == 1
    engine.breaks = (2, "raise")
    assert chat(project, "letters", typed="Hi\n")[:2] == (1, "three cloths \n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("cloth", "Hi"), "models of the family diffusion do not chat"),
        (("silk", "Hi"), "there is no model 'silk'"),
        (("letters", "Hi", "--max-tokens", "0"), "--max-tokens is 0, allowed is 1 to 100000"),
        (("letters", "Hi", "--release", "7"), "model 'letters' is not served here"),
        (("letters", "Hi", "--max-tokens", "99"), "max_tokens is 99, allowed is 1 to 32"),
        (("letters", "Hi", "--target", "moon"), "there is no target moon"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_sentence(
    project: Path, words: tuple[str, ...], told: str
) -> None:
    status, out, error = chat(project, *words)
    assert (status, out, error.count("\n")) == (1, "", 1) and told in error


def test_without_a_model_the_one_that_can_chat_is_asked(project: Path) -> None:
    letters = project / "configs" / "models" / "letters.yaml"
    letters.write_text(f"enabled: false\n{LETTERS}")
    try:
        status, _, error = chat(project, "Hi")
        assert status == 1 and "models that can chat: letters\n" in error
        record = project / ".adire" / "releases" / "letters"
        record.mkdir(parents=True)
        (record / "2.json").write_text("{}")
        assert chat(project, "Hi")[:2] == (0, SAID)
        shutil.rmtree(record)
    finally:
        letters.write_text(LETTERS)
