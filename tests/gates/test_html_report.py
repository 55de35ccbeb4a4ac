"""The report as one page, and the blind sheet with what becomes of its ratings."""

import re
from dataclasses import replace
from typing import Any

import pytest

from adire_assets.core.errors import UserError
from adire_assets.core.sample import Answer, Picture
from adire_assets.gates.blind import Rating, Shuffle, rating_outcomes
from adire_assets.gates.report.document import (
    BatchSpeed,
    Distribution,
    GateView,
    Pair,
    ReportView,
    ab_sheet,
    html,
    number,
    shuffle_of,
)
from tests.support.pages import Nesting, rated, sheet_data

EVIL = "<script>alert('\"x\"')</script> & <img src=x onerror=y>"
SECRET = b"s" * 32


RULE = ("release 4 must win 12 of 16 prompts", "by its pairs")


def sheet_of(view: ReportView) -> str:
    return ab_sheet(view, shuffle_of(view, SECRET), RULE)


def outcomes(ratings: dict[str, Any], secret: bytes = SECRET) -> dict[str, str]:
    return {**rating_outcomes(Rating(**ratings), secret)}


def tally(ratings: dict[str, Any], secret: bytes = SECRET) -> tuple[int, int, int]:
    """How often the challenger won, lost, and neither."""
    found = [*outcomes(ratings, secret).values()]
    return found.count("won"), found.count("lost"), found.count("tie")


BASE, CHAMPION, CHALLENGER, REAL = (
    Picture("image/webp", name, 16, 16) for name in (b"base", b"champion", b"challenger", b"real")
)
FLOOR = GateView("clip_s", 1.6, 1.5, ">=", 0.1, True, "CLIP-S", "clip_s is at or above 1.5")
WORSE = GateView(
    "style", -0.04, -0.02, ">", -0.02, False, "", "style may be worse", True, -0.01, 0.05, "failed"
)
UNSURE = replace(WORSE, name="diversity", outcome="undecided", explanation="too small to decide")


def answers_to(prompt: str) -> dict[tuple[str, int], dict[Any, Answer]]:
    answers = {
        "base": Answer(lambda: BASE, {"clip_s": 1.2}),
        "champion": Answer(lambda: CHAMPION, {"clip_s": 1.31}),
        "challenger": Answer(lambda: CHALLENGER, {"clip_s": 1.42}),
        "real": Answer(lambda: REAL, note="the same caption"),
    }
    return {(prompt, 7): answers}


def manifest(text: str) -> dict[str, Any]:
    recipe = {"config": {"key": text}, "inputs": {"judge": text}, "environment": {text: text}}
    hashes = dict.fromkeys(("created", "key", "content_hash", "dvc_hash", "source"), text)
    code = {"commit": text, "dirty": True}
    return {**hashes, "recipe": recipe, "code": code, "hardware": {"cpu": text}}


EMPTY = ReportView(
    "cloth", "image", "adapter 12", "no verdict yet", {}, {}, {}, {},
    *(manifest("known") for _ in range(3)),
)  # fmt: skip


def full_view(text: str = "tied circles") -> ReportView:
    speed = tuple(BatchSpeed(size, size / 2, 2 / size, 3 / size) for size in (1, 2, 4))
    return ReportView(
        model="cloth",
        answer="image",
        name="release 4",
        sentence=f"refused: style is worse, {text}",
        report={"adapter_problems": [text], "judge": text, "images": 50, "prompts": 25},
        timings={"cold_load_seconds": 0.5, "seconds_per_image_mean": 2.0, "device": text},
        champion_timings={"seconds_per_image_mean": 1.5},
        verdict={"passed": False},
        evaluation=manifest(text),
        adapter=manifest(text),
        base_model=manifest(text),
        release=4,
        champion_release=3,
        gates=(FLOOR, replace(FLOOR, name="nothing", value=None, margin=None), WORSE, UNSURE),
        ranked_by="clip_s",
        names={"clip_s": "CLIP-S"},
        worst=answers_to(text),
        best=answers_to(f"best {text}"),
        distributions=(
            Distribution(
                text, {"base": (1.0, 1.2), "challenger": (1.5, 1.5)}, (text, "b"), marks={text: 2.0}
            ),
            Distribution("constant", {"challenger": (3.0,)}),
        ),
        speed={"challenger": speed, "champion": speed[:2]},
        pairs=tuple(Pair(f"{n:03d}-seed0", text, 0, CHALLENGER, CHAMPION) for n in range(24)),
    )


def pages() -> dict[str, str]:
    return {
        "full": html(full_view()),
        "evil": html(full_view(EVIL)),
        "empty": html(EMPTY),
        "first release": html(replace(full_view(), gates=(FLOOR,), champion_release=None)),
        "sheet": sheet_of(full_view(EVIL)),
    }


def test_pages_are_well_formed() -> None:
    for name, page in pages().items():
        seen = Nesting(page)
        assert not seen.wrong and not seen.open, name
        assert len(seen.ids) == len(set(seen.ids)), name
        assert {"html", "head", "title", "body", "main", "h1"} <= set(seen.tags), name


def test_pages_ask_nothing_of_the_network() -> None:
    for name, page in pages().items():
        assert "://" not in page, name
        assert not re.findall(r"url\(|@import|<link|<iframe|<base", page), name
        for source in re.findall(r'\b(?:src|href)="([^"]*)"', page):
            assert source.startswith(("data:image/webp;base64,", "#")), name
        assert "default-src 'none'" in page


def test_text_is_escaped_and_no_script_of_a_prompt_runs() -> None:
    page = html(full_view(EVIL))
    assert "script" not in Nesting(page).tags
    assert "<img src=x" not in page and "onerror=y&gt;" in page
    sheet = sheet_of(full_view(EVIL))
    assert Nesting(sheet).tags.count("script") == 2
    assert "<img src=x" not in sheet
    data = sheet_data(sheet)
    assert data["pairs"][0]["prompt"] == EVIL


def test_gates_stand_with_value_bound_margin_and_result_in_words() -> None:
    page = html(full_view())
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    texts = [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in rows]
    [clip] = [text for text in texts if text.startswith("CLIP-S")]
    assert clip == "CLIP-S clip_s is at or above 1.5 1.6 at least 1.5 +0.1 ✓ Passed"
    [style] = [text for text in texts if text.startswith("Style")]
    assert style == "Style style may be worse −0.01 −0.04 −0.02 0.05 −0.02 ✕ Failed"
    [diversity] = [text for text in texts if text.startswith("Diversity")]
    assert diversity.endswith("? Undecided")
    [nothing] = [text for text in texts if text.startswith("Nothing")]
    assert "none" in nothing and "no value" in nothing
    assert page.count('class="bar"') == 3
    unbound = GateView("exposure", 0.9, None, ">=", None, True, "", "")
    page = html(replace(full_view(), gates=(unbound,)))
    assert "no bound" in page and "at least none" not in page


def test_a_weaker_policy_and_what_was_not_committed_stand_above_the_gates() -> None:
    changes = (
        {"key": "gates.clip_s_minimum", "before": 1.52, "now": 0.5},
        {"key": "evaluation.x", "before": EVIL, "now": "b"},
    )
    files = ("configs/models/cloth.yaml (changed)",)
    verdict = {"passed": True, "weakened": changes, "weaker_than": "release 3"}
    page = html(replace(full_view(), verdict=verdict | {"uncommitted": files}))
    assert "asks less than that of release 3" in page and EVIL not in page
    row = page[page.index("gates.clip_s_minimum") :]
    assert row.index(">1.52<") < row.index(">0.5<") < row.index("evaluation.x")
    assert "configs/models/cloth.yaml (changed)" in page
    assert not Nesting(page).wrong
    plain = html(full_view())
    assert "asks less" not in plain and "not committed" not in plain


def test_what_it_costs_and_where_it_comes_from_is_told() -> None:
    page = html(full_view("d00d"))
    told = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "50 images of 25 prompts, each with seeds of its own. The judge is d00d; its" in told
    assert "Loading, cold 0.5 s Seconds per image 2 s champion 1.5 s Device d00d" in told
    assert "Git commit d00d Working tree with local changes that the commit lacks Trained" in told
    assert "Base model d00d" in told and "Judge d00d Judge's content d00d" in told.replace(
        "&#39;", "'"
    )
    assert told.count("Hyperparameters key d00d") == 1


def test_the_bar_shows_on_which_side_of_the_bound_the_value_is() -> None:
    def places(gate: GateView) -> tuple[float, float, float]:
        page = html(replace(full_view(), gates=(gate,)))
        bound = re.search(r'class="bound" x1="([\d.]+)%', page)
        value = re.search(r'class="value \w+" cx="([\d.]+)%', page)
        allowed = re.search(r'class="allowed" x="([\d.]+)%', page)
        assert bound and value and allowed
        return float(bound[1]), float(value[1]), float(allowed[1])

    bound, value, allowed = places(FLOOR)
    assert value > bound == allowed
    bound, value, _ = places(replace(FLOOR, value=1.2, passed=False))
    assert value < bound
    bound, value, allowed = places(replace(FLOOR, comparison="<="))
    assert value > bound > allowed == 0


def test_a_small_number_is_not_shown_as_nothing() -> None:
    shown = {0.0: "0", 0.00012: "1.2e−04", 0.0009: "0.001", 1234.5678: "1,235", -0.5: "−0.5"}
    assert {value: number(value) for value in shown} == shown


def test_every_picture_of_the_view_is_shown_with_its_scores() -> None:
    page = html(full_view())
    for shown in (BASE, CHAMPION, CHALLENGER, REAL):
        assert page.count(shown.uri) == 2  # worst and best
    assert page.count("Seed 7") == 2
    for told in ("CLIP-S 1.2<", "CLIP-S 1.31<", "CLIP-S 1.42<", "the same caption"):
        assert page.count(told) == 2
    assert page.index("Where it is weakest") < page.index("Where it is strongest")


def test_every_value_is_a_dot_and_every_batch_size_a_point() -> None:
    page = html(full_view())
    assert page.count('class="dot base"') == 2 and page.count('class="dot challenger"') == 3
    assert page.count('class="point challenger p50"') == 6  # three sizes in two charts
    assert page.count('class="point champion p95"') == 2
    one = {"challenger": (BatchSpeed(1, 1.0, 1.0, 1.1),)}
    single = html(replace(full_view(), speed=one))
    assert 'class="curves"' not in single and "Speed by batch size" in single


def test_answers_of_text_are_shown_as_text_and_run_nothing() -> None:
    champion, challenger = Answer(lambda: f"then {EVIL}"), Answer(lambda: EVIL, {"perplexity": 3.5})
    shown = {"champion": champion, "challenger": challenger}
    pairs = tuple(Pair(f"{n}", EVIL, n, EVIL, f"then {EVIL}") for n in range(24))
    view = replace(full_view(), answer="text", worst={("a b", 7): shown}, pairs=pairs)
    page = html(view)
    assert page.count('<p class="answer">then &lt;script&gt;') == 1
    assert "Perplexity 3.5<" in page and "<h2>Texts</h2>" in page and "Seconds per text" in page
    sheet = sheet_of(view)
    assert "Which is the better text for this?" in sheet
    for one in (page, sheet):
        seen = Nesting(one)
        assert not seen.wrong and "<img src=x" not in one
    assert Nesting(page).tags.count("script") == 0 and Nesting(sheet).tags.count("script") == 2
    assert tally(rated(sheet, EVIL)) == (24, 0, 0)


# --- the blind sheet -----------------------------------------------------------------------------


def test_the_ratings_of_a_sheet_tell_how_often_the_challenger_won() -> None:
    sheet = sheet_of(full_view())
    assert tally(rated(sheet, CHALLENGER.uri)) == (24, 0, 0)
    assert tally(rated(sheet, CHAMPION.uri)) == (0, 24, 0)
    assert tally(rated(sheet, None)) == (0, 0, 24)
    mixed = rated(sheet, CHALLENGER.uri)
    mixed["choices"] |= {"000-seed0": "tie"}
    assert tally(mixed) == (23, 0, 1)


def test_the_sheet_says_beforehand_what_it_takes() -> None:
    page = sheet_of(full_view())
    assert "<summary>Release 4 must win 12 of 16 prompts</summary><p>By its pairs.</p>" in page


def test_sides_and_order_are_shuffled_anew_and_are_not_in_the_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = (sheet_data(sheet_of(full_view())) for _ in range(2))
    lefts = [pair["left"] == {"picture": CHALLENGER.uri} for pair in first["pairs"]]
    assert {True, False} == set(lefts)
    assert first["nonce"] != second["nonce"]
    assert [pair["name"] for pair in first["pairs"]] != [pair["name"] for pair in second["pairs"]]
    # Who has the page but not the secret gets other sides from the same nonce.
    other = Shuffle(b"x" * 32, first["nonce"])
    assert lefts != [other.challenger_is_left(pair["name"]) for pair in first["pairs"]]
    assert set(first["pairs"][0]) == {"name", "prompt", "left", "right"}
    monkeypatch.setattr("secrets.token_hex", lambda count: "salt")
    assert sheet_of(full_view()) == sheet_of(full_view())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"nonce": "0" * 24 + ".24." + "0" * 32}, "do not belong to a blind sheet"),
        ({"model": "denim"}, "do not belong to a blind sheet .* release 4 of denim"),
        ({"challenger": 5}, "do not belong to a blind sheet"),
        ({"champion": 1}, "do not belong to a blind sheet"),
        ({"choices": {"more-seed0": "left"}}, "do not belong to a blind sheet"),
    ],
)
def test_ratings_of_anything_else_are_refused(change: dict[str, Any], sentence: str) -> None:
    ratings = rated(sheet_of(full_view()), CHALLENGER.uri)
    choices = ratings["choices"] | change.get("choices", {})
    with pytest.raises(UserError, match=sentence) as refusal:
        outcomes({**ratings, **change, "choices": choices})
    assert "\n" not in str(refusal.value)


def test_a_half_rated_sheet_another_secret_and_another_release_are_refused() -> None:
    ratings = rated(sheet_of(full_view()), CHALLENGER.uri)
    half = {**ratings, "choices": dict(list(ratings["choices"].items())[:10])}
    with pytest.raises(UserError, match="10 of 24 pairs are rated"):
        outcomes(half)
    with pytest.raises(UserError, match="do not belong"):
        outcomes(ratings, b"another")
    swapped = {
        "of-another-sheet" if n == "000-seed0" else n: c for n, c in ratings["choices"].items()
    }
    with pytest.raises(UserError, match="do not belong"):
        outcomes({**ratings, "choices": swapped})


def test_a_sheet_needs_two_releases() -> None:
    with pytest.raises(UserError, match="no release number"):
        shuffle_of(replace(full_view(), release=None), SECRET)
    with pytest.raises(UserError, match="nothing to rate it against"):
        shuffle_of(replace(full_view(), champion_release=None), SECRET)
