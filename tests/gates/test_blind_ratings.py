"""Blind ratings: a sheet is handed out, answers are counted, and only more than chance approves."""

import json
import random
import stat
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adire_assets.core.errors import UserError
from adire_assets.families.diffusion.gates import GateConfig
from adire_assets.gates import approval_commands, approvals, ratings
from adire_assets.gates.blind import Rating
from tests.support.approvals import hold
from tests.support.house import House
from tests.support.light import MODEL

PROMPTS = [f"prompt {number}" for number in range(16)]
SEEDS = (0, 1)


def sheet(house: House, nonce: str = "n1", champion: int = 1, prompts: int = 16) -> None:
    """As if a sheet of release 2 had been made: its pairs are called like "3-0"."""
    pairs = {f"{p}-{seed}": [PROMPTS[p], seed] for p in range(prompts) for seed in SEEDS}
    approvals.note_sheet(house.project, house.releases[2], champion, nonce, pairs)


def file(
    folder: Path, choices: dict[str, str], rater: str = "chike", nonce: str = "n1", **changes: Any
) -> Path:
    """A rating of such a sheet; "left" is the challenger."""
    path = folder / f"{rater.strip()}-{nonce}.json"
    about = {"model": MODEL, "challenger": 2, "champion": 1, "nonce": nonce, "rater": rater}
    path.write_text(json.dumps({**about, "choices": choices, **changes}))
    return path


def chosen(wins: int, prompts: int = 16) -> dict[str, str]:
    """All pairs of the first `wins` prompts for the challenger, those of the others against it."""
    return {
        f"{prompt}-{seed}": "left" if prompt < wins else "right"
        for prompt in range(prompts)
        for seed in SEEDS
    }


@pytest.fixture(autouse=True)
def challenger_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is tested here the shuffle is no part."""

    def outcomes(rating: Rating, secret: bytes) -> dict[str, str]:
        names = {"left": "won", "right": "lost", "tie": "tie"}
        return {pair: names[choice] for pair, choice in rating.choices.items()}

    monkeypatch.setattr(ratings, "rating_outcomes", outcomes)


def counted(house: House, *paths: Path, **policy: Any) -> dict[str, Any]:
    asked = GateConfig(**policy)
    return ratings.count_ratings(house.project, house.releases[2], 1, paths, asked)


def actions(house: House) -> list[str]:
    return [entry.action for entry in approvals.history(house.project, MODEL, 2)]


def test_a_rating_that_wins_by_more_than_chance_is_kept_with_the_approval(
    house: House, tmp_path: Path
) -> None:
    sheet(house)
    result = counted(house, file(tmp_path, {**chosen(12), "15-0": "tie", "15-1": "tie"}))
    entry = approvals.approve(house.project, house.releases[2], "rated", rating=result)
    assert entry.by == "chike"
    told = "12 of 15 decided prompts won (0.80), 1 ties; 24 of 30 decided pairs, 1 rater"
    assert f": rated ({told}, 1 of 1 sheets)" in entry.told()
    assert actions(house) == ["sheet", "rated", "approved"]


@pytest.mark.parametrize(("wins", "enough"), [(8, False), (10, False), (11, False), (12, True)])
def test_a_coin_does_not_approve(house: House, tmp_path: Path, wins: int, enough: bool) -> None:
    sheet(house)
    path = file(tmp_path, chosen(wins))
    if enough:
        assert counted(house, path)["wins"] == wins
        return
    with pytest.raises(UserError, match=rf"{wins} of 16 decided prompts won .* takes 12 of 16"):
        counted(house, path)
    assert actions(house) == ["sheet", "rated", "rejected"]
    hold(house, 2)


def test_seeds_of_a_prompt_and_raters_of_a_pair_are_no_evidence_of_their_own(
    house: House, tmp_path: Path
) -> None:
    """Sixteen of sixteen pairs, by each of three raters, of four prompts."""
    sheet(house, prompts=4)
    paths = [file(tmp_path, chosen(4, 4), rater) for rater in ("ada", "bisi", "chike")]
    with pytest.raises(UserError, match=r"4 of 4 decided prompts won .* takes all of 5 prompts"):
        counted(house, *paths, human_minimum_pairs=4)


def test_the_ratings_before_decide_with_the_new_one(house: House, tmp_path: Path) -> None:
    sheet(house)
    with pytest.raises(UserError, match="3 of 16"):
        counted(house, file(tmp_path, chosen(3), "ada"))
    # Alone it would pass; together each is for a prompt what the other is against.
    with pytest.raises(UserError, match=r"3 of 3 decided prompts won .*13 ties.*2 raters.*look 2"):
        counted(house, file(tmp_path, chosen(16), "bisi"))
    assert counted(house, file(tmp_path, chosen(16), "dayo"))["look"] == 3
    assert actions(house) == ["sheet", *["rated", "rejected"] * 2, "rated"]


def test_a_rater_answers_a_pair_once_however_the_name_is_typed(
    house: House, tmp_path: Path
) -> None:
    sheet(house)
    sheet(house, "n2")
    with pytest.raises(UserError, match="5 of 16"):
        counted(house, file(tmp_path, chosen(5), "Ada Obi"))
    with pytest.raises(UserError, match="rating of this sheet was handed in at"):
        counted(house, file(tmp_path, chosen(16), " ada  OBI"))
    with pytest.raises(UserError, match=r"5 of 16 .* 1 rater, 2 of 2 sheets"):
        counted(house, file(tmp_path, chosen(16), "ADA OBI", "n2"))


def test_one_rater_may_answer_in_parts(house: House, tmp_path: Path) -> None:
    sheet(house)
    parts = [
        {pair: side for pair, side in chosen(16).items() if (int(pair[:-2]) < 4) is first}
        for first in (True, False)
    ]
    with pytest.raises(UserError, match=r"8 pairs are decided .* asks for 10") as caught:
        counted(house, file(tmp_path, parts[0]))
    assert "won" not in str(caught.value)  # it stays blind
    sheet(house, "n2")
    result = counted(house, file(tmp_path, parts[1], nonce="n2"))
    assert (result["wins"], result["look"], result["pairs"]["wins"]) == (16, 1, 32)


def test_files_that_are_handed_in_together_are_one_look_or_none(
    house: House, tmp_path: Path
) -> None:
    sheet(house)
    good, other = file(tmp_path, chosen(14), "ada"), file(tmp_path, chosen(13), "bisi")
    with pytest.raises(UserError, match="same rater's answers"):
        counted(house, good, file(tmp_path, chosen(16), "ADA"))
    assert actions(house) == ["sheet"]
    assert counted(house, good, other)["look"] == 1


def test_another_evaluation_of_the_adapter_does_not_begin_anew(
    house: House, tmp_path: Path
) -> None:
    sheet(house)
    with pytest.raises(UserError, match="2 of 16"):
        counted(house, file(tmp_path, chosen(2), "ada"))
    again = replace(
        house.releases[2], evaluation={**house.releases[2].evaluation, "content_hash": "e" * 64}
    )
    path = file(tmp_path, chosen(16), "bisi")
    with pytest.raises(UserError, match=r"2 raters.*look 2"):
        ratings.count_ratings(house.project, again, 1, [path], GateConfig())


def test_coins_that_are_thrown_again_and_again_seldom_approve() -> None:
    """Up to six raters who throw coins, one after another, looked at after each."""
    draw, policy, runs = random.Random(2), GateConfig(), 400
    bounds = {
        (prompts, look): ratings.wins_needed(prompts, policy, look)
        for prompts in range(17)
        for look in range(1, 7)
    }
    approved = 0
    for _ in range(runs):
        balance = [0] * 16
        for look in range(1, 7):
            balance = [one + draw.choice((-1, 1)) for one in balance]
            wins, losses = sum(one > 0 for one in balance), sum(one < 0 for one in balance)
            needed = bounds[wins + losses, look]
            if needed is not None and wins >= needed:
                approved += 1
                break
    assert approved / runs <= 0.06  # 0.05, and what 400 runs may miss it by


def test_a_sheet_says_what_it_takes_and_one_that_cannot_pass_is_refused(house: House) -> None:
    wanted = house.releases[2]
    pairs = {f"p{number}": PROMPTS[number % 16] for number in range(32)}
    told = ratings.rule(house.project, wanted, 1, pairs)
    assert told[0] == "release 2 must win 12 of 16 prompts"
    assert "of which there are 32; where ties leave fewer prompts decided, at least 5" in told[1]
    of_few_prompts = {f"p{number}": PROMPTS[number % 4] for number in range(32)}
    for few in (of_few_prompts, dict([*pairs.items()][:9])):
        with pytest.raises(UserError, match=r"cannot approve release 2 .* takes 5 prompts"):
            ratings.rule(house.project, wanted, 1, few)


def test_an_approval_against_the_ratings_says_so(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approval_commands, "reconcile_approval", lambda *_: None)
    sheet(house)
    path = file(tmp_path, chosen(6))
    with pytest.raises(UserError, match="not approved: 6 of 16"):
        approval_commands.approve(house.project, "light@2", "rated", None, [path], print)
    said = approval_commands.approve(house.project, "light@2", "a hunch", "ada", [], print)
    assert "a hunch (although its ratings were not enough: 6 of 16 decided prompts won" in said


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"challenger": 3}, "rates 3 of light, not release 2"),
        ({"model": "paper"}, "rates 2 of paper"),
        ({"champion": 3}, "against release 3, but release 1 is live"),
        ({"challenger": "2"}, "challenger: input should be a valid integer"),
        ({"choices": {"p1": "both"}}, r"choices\.p1: input should be 'left', 'right' or 'tie'"),
        ({"choices": {}}, "choices: "),
        ({"rater": " "}, "rater: string should match"),
        ({"secret": "x"}, "secret: extra inputs"),
        ({"nonce": "n9"}, "keeps no blind sheet with its nonce"),
    ],
)
def test_a_rating_of_something_else_is_refused(
    house: House, tmp_path: Path, changes: dict, sentence: str
) -> None:
    sheet(house)
    path = file(tmp_path, chosen(16))
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError, match=sentence):
        counted(house, path)
    assert actions(house) == ["sheet"]


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]"])
def test_a_file_that_is_no_rating_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ratings.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"ratings\.json") as caught:
        ratings.read_rating(path)
    assert "\n" not in str(caught.value)


def test_the_secret_is_made_once_and_is_for_its_owner_alone(house: House) -> None:
    secret = house.project.home / "rating_secret"
    secret.unlink(missing_ok=True)
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(approvals.rating_secret(house.project)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1 and len(found[0]) == 32
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
