"""`adire feedback`: an answer that was saved is rated, listed and reviewed at the terminal."""

import sys
from pathlib import Path

import numpy as np
import pytest

from adire_assets.cli import main
from adire_assets.families.diffusion.answers import save_png
from adire_assets.monitoring import feedback
from tests.support.feedback import token_of
from tests.support.shop import MODEL, Shop


def adire(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["adire", "feedback", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main.main()
        sys.exit(0)
    return ended.value.code, *capsys.readouterr()


def test_a_saved_answer_is_rated_listed_and_reviewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = Shop(tmp_path / "project")
    shop.release(1, shop.evaluation("1", 1.5))
    monkeypatch.setenv("ADIRE_PROJECT", str(shop.project.root))
    monkeypatch.setenv("ADIRE_HOME", str(shop.project.home))
    pixels = np.full((8, 8, 3), 7, np.uint8)
    token = token_of(shop.project, MODEL, contents=(b"first", pixels.tobytes()))
    facts = {"model": MODEL, "release": 1, "request": {"prompt": "rings", "seed": 7}}
    file, bare = tmp_path / "a.png", tmp_path / "b.png"
    save_png(pixels, file, {**facts, "feedback_token": token}, 1)
    save_png(pixels, bare, facts)

    def run(*words: object) -> tuple[int, str, str]:
        return adire(monkeypatch, capsys, *words)

    status, said, _ = run(
        "add", file, "--rating", 1, "--flag", "artefact", "--attach", "--by", "ada"
    )
    assert status == 0 and said.startswith("thank you")
    [one] = feedback.all_given(shop.project, MODEL)
    assert (one.user, one.part, one.attached) == ("ada", 1, f"{one.name}.png")
    assert "has no feedback_token" in run("add", bare, "--rating", 1)[2]
    assert "allowed is 1 to 5" in run("add", file, "--rating", 9)[2]
    _, said, _ = run("list", MODEL)
    assert "release 1: 1 by 1 user(s), mean 1.00, 1 artefact" in said and one.name in said
    note = ("--outcome", "correction", "--note", "indigo rings, open")
    assert run("review", MODEL, one.name, one.at, *note)[0] == 0
    assert run("list", MODEL, "--outcome", "correction")[1] == "indigo rings, open\n"
    assert one.name not in run("list", MODEL)[1]
    assert run("new-key")[1].startswith("answers are signed with key ")
