"""A sheet that is answered pair by pair: what is kept of it, when it counts, and what is told."""

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.store import write_json
from adire_assets.families.diffusion.gates import GateConfig
from adire_assets.gates import approval_commands, approvals, promotion, ratings, sheets
from adire_assets.gates.agreement import krippendorff_alpha
from adire_assets.gates.report import pages
from adire_assets.gates.sheets import Sheet
from adire_assets.serving import record, release
from tests.support.compared import bring_live, compared_releases, evaluated
from tests.support.pages import sheet_data


@pytest.fixture(scope="module")
def two_releases(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return compared_releases(tmp_path_factory.mktemp("sheets"))


@pytest.fixture
def project(two_releases: Project) -> Project:
    """Release 1 is live, and nobody has rated release 2."""
    for folder in ("approvals", "sheets", "quarantine"):
        shutil.rmtree(two_releases.home / folder, ignore_errors=True)
    bring_live(two_releases, 1)
    return two_releases


def begun(project: Project, rater: str = "ada", number: int = 2) -> Sheet:
    return sheets.start(project, release.read_record(project, "cloth", number), rater)


def filled(project: Project, rater: str, wins: int = 50, ties: int = 0) -> Sheet:
    """The sheet of a rater who prefers the challenger in the pairs of the first `wins` prompts, and
    sees no difference in those of the `ties` prompts after them."""
    sheet = begun(project, rater)
    for pair in sheet.order:
        prompt = int(sheet.asked[pair][0].split()[-1])
        left = sheet.shuffle.challenger_is_left(pair) == (prompt < wins)
        tie = wins <= prompt < wins + ties
        sheet = sheets.answer(project, sheet, "tie" if tie else "left" if left else "right")
    return sheet


def handed_in(project: Project, rater: str, wins: int = 50, ties: int = 0) -> Sheet:
    return sheets.hand_in(project, filled(project, rater, wins, ties))


def counted(project: Project, *paths: Path) -> dict:
    wanted = release.read_record(project, "cloth", 2)
    return ratings.count_ratings(project, wanted, 1, paths, GateConfig())


def test_each_answer_is_kept_at_once_and_the_sheet_goes_on_where_it_stopped(
    project: Project,
) -> None:
    first = begun(project, "Ada Obi")
    second = sheets.answer(project, sheets.answer(project, first, "left"), "tie")
    again = sheets.find(project, second.wanted, "ada  OBI")
    assert again == second and again.choices == ("left", "tie") and again.order == first.order
    assert begun(project, "ada obi") == second
    back = sheets.take_back(project, again)
    assert sheets.find(project, back.wanted, "Ada Obi") == back and back.choices == ("left",)
    assert sheets.find(project, back.wanted, "bisi") is None


def test_two_windows_of_a_rater_answer_no_pair_twice(project: Project) -> None:
    one = other = begun(project)
    one = sheets.answer(project, one, "left")
    for late in (sheets.answer, sheets.take_back):
        with pytest.raises(UserError, match=r"another window|no answer to take back"):
            late(project, other, *(["right"] if late is sheets.answer else []))
    found = sheets.find(project, one.wanted, "ada")
    assert found and found.choices == ("left",)


def test_one_sheet_is_drawn_when_two_windows_begin_together(project: Project) -> None:
    threads = [threading.Thread(target=begun, args=[project]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.action for one in approvals.history(project, "cloth", 2)] == ["sheet"]


def test_raters_see_the_pairs_in_orders_and_on_sides_of_their_own(project: Project) -> None:
    ada, bisi = begun(project, "ada"), begun(project, "bisi")
    assert sorted(ada.order) == sorted(bisi.order) and ada.order != bisi.order
    view = {pair.name: pair for pair in pages.blind_view(project, "cloth@2").pairs}
    for sheet in (ada, bisi):
        lefts = set()
        while len(sheet.choices) < 16:
            pair = view[sheet.order[len(sheet.choices)]]
            prompt, left, right = sheets.sides(project, sheet)
            assert prompt == pair.prompt
            assert {left.uri, right.uri} == {pair.challenger.uri, pair.champion.uri}
            lefts.add(left.uri == pair.challenger.uri)
            chosen = "left" if left.uri == pair.challenger.uri else "right"
            sheet = sheets.answer(project, sheet, chosen)
        assert lefts == {True, False}


def test_a_sheet_counts_like_a_file_of_ratings(project: Project, tmp_path: Path) -> None:
    page, _ = pages.blind_sheet(project, "cloth@2", None)
    data, answered = sheet_data(page.read_text()), filled(project, "ada", wins=20, ties=2)
    by_pair = dict(zip(answered.order, answered.choices, strict=True))
    about = {name: data[name] for name in ("model", "challenger", "champion")}
    nonce = answered.shuffle.nonce
    file = tmp_path / "ratings.json"
    write_json(file, {**about, "nonce": nonce, "rater": "by file", "choices": by_pair})
    sheets.hand_in(project, answered)
    by_page = counted(project)
    assert (by_page["wins"], by_page["losses"], by_page["ties"]) == (20, 3, 2)
    by_file = counted(project, file)
    by_page["raters"].append("by file")
    assert by_file == {**by_page, "sheets": by_file["sheets"]}


def test_only_a_complete_sheet_is_handed_in_and_then_it_stays(project: Project) -> None:
    sheet = sheets.answer(project, begun(project), "left")
    with pytest.raises(UserError, match="1 of 40 pairs are rated; rate the others first"):
        sheets.hand_in(project, sheet)
    with pytest.raises(UserError, match="no rating against release 1 was handed in"):
        counted(project)
    bisi = handed_in(project, "bisi")
    assert sheets.hand_in(project, bisi).handed_in  # pressed twice
    for change in (sheets.take_back, lambda *one: sheets.answer(*one, "left")):
        with pytest.raises(UserError, match=r"handed in|pairs with left, right, tie"):
            change(project, bisi)
    actions = [one.action for one in approvals.history(project, "cloth", 2)]
    assert actions == ["sheet", "sheet", "rated"]


def test_counting_again_without_another_sheet_is_no_look(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "require_passable", lambda *_: None)
    monkeypatch.setattr(approval_commands, "reconcile_approval", lambda *_: None)
    name = "cloth@2"

    def count() -> str:
        return approval_commands.approve(project, name, "rated", "obi", [], print, count=True)

    handed_in(project, "ada", wins=12)
    with pytest.raises(UserError, match="not approved: 12 of 25 decided prompts won"):
        count()
    with pytest.raises(UserError, match="no rating against release 1 was handed in since"):
        count()
    handed_in(project, "bisi")
    handed_in(project, "chike")
    assert "approved by obi" in count()
    history = approvals.history(project, "cloth", 2)
    looks = [one.rating["look"] for one in history if one.action in ratings.LOOKS and one.rating]
    assert looks == [1, 2]


def test_progress_tells_how_much_is_answered_and_not_who_is_ahead(project: Project) -> None:
    wanted = release.read_record(project, "cloth", 2)
    sheet = begun(project, "Ada")
    for choice in ("left", "tie", "right"):
        sheet = sheets.answer(project, sheet, choice)
    handed_in(project, "bisi", wins=10, ties=5)
    handed_in(project, "chike", wins=10, ties=5)
    found = sheets.progress(project, wanted)
    told = [(one.rater, one.answers, one.pairs, one.handed_in) for one in found.raters]
    assert told == [("Ada", 3, 40, False), ("bisi", 40, 40, True), ("chike", 40, 40, True)]
    assert (found.minimum, found.uncounted) == (10, True)
    assert found.decided <= found.under_way <= found.decided + 2
    assert (found.agreement.alpha, found.agreement.raters, found.agreement.pairs) == (1.0, 2, 40)


def test_the_first_release_is_rated_against_the_base(project: Project) -> None:
    bring_live(project, None)
    wanted = release.read_record(project, "cloth", 2)
    assert sheets.rateable(project, "cloth") == [2, 1]
    sheet = handed_in(project, "ada")
    assert sheets.against(project, "cloth") == "the base"
    found = ratings.count_ratings(project, wanted, None, [], GateConfig())
    assert (sheet.champion, found["wins"], found["champion"]) == (0, 25, 0)
    page, _ = pages.blind_sheet(project, "cloth@2", None)
    assert "release 2 and the base, blind" in page.read_text()


def test_a_sheet_is_about_what_is_live(project: Project) -> None:
    sheet = sheets.answer(project, begun(project), "left")
    bring_live(project, None)
    assert sheets.find(project, sheet.wanted, "ada") is None
    with pytest.raises(UserError, match="what is live has changed"):
        sheets.hand_in(project, sheet)
    assert begun(project).choices == ()
    bring_live(project, 1)
    assert sheets.find(project, sheet.wanted, "ada") == sheet


def test_who_handed_a_file_in_gets_no_second_sheet(project: Project, tmp_path: Path) -> None:
    page, _ = pages.blind_sheet(project, "cloth@2", None)
    data = sheet_data(page.read_text())
    about = {name: data[name] for name in ("model", "challenger", "champion", "nonce")}
    choices = {pair["name"]: "left" for pair in data["pairs"]}
    write_json(tmp_path / "a.json", {**about, "rater": "Ada", "choices": choices})
    with pytest.raises(UserError, match="not approved"):
        counted(project, tmp_path / "a.json")
    with pytest.raises(UserError, match="ada has handed in a rating of release 2 of cloth"):
        begun(project)


def test_a_release_that_was_evaluated_again_is_rated_anew(tmp_path: Path) -> None:
    project = compared_releases(tmp_path)
    old = handed_in(project, "ada")
    report, _ = evaluated(project, 0.7)
    name = "releases/cloth/2"
    new = {"evaluation": report.reference()}
    project.records.change(name, lambda kept: {**kept, **new})
    with pytest.raises(UserError, match="release 2 of cloth was evaluated again; open the page"):
        sheets.start(project, old.wanted, "bisi")
    other = begun(project, "ada")
    assert (other.choices, other.wanted.evaluation) == ((), report.reference())
    stale = replace(old.wanted, evaluation={**report.reference(), "content_hash": "0" * 64})
    with pytest.raises(UserError, match="was evaluated again"):
        sheets.sides(project, replace(begun(project, "bisi"), wanted=stale))


def test_a_sheet_whose_secret_is_lost_is_drawn_again(project: Project) -> None:
    sheet = sheets.answer(project, begun(project), "left")
    (project.home / "rating_secret").unlink()
    assert sheets.find(project, sheet.wanted, "ada") is None
    assert handed_in(project, "ada").handed_in


def test_what_goes_live_while_a_sheet_is_drawn_makes_it_no_sheet(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = pages.draw_sheet

    def drawn_late(*arguments: object) -> object:
        bring_live(project, None)
        return draw(*arguments)

    monkeypatch.setattr(pages, "draw_sheet", drawn_late)
    with pytest.raises(UserError, match="what is live has changed meanwhile; start again"):
        begun(project)
    assert project.records.list("sheets/cloth/2") == []


def test_the_pictures_are_made_once_for_all_who_rate_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = compared_releases(tmp_path)
    raters = [begun(project, name) for name in ("ada", "bisi", "chike")]
    made, view = [], pages.blind_view
    monkeypatch.setattr(pages, "blind_view", lambda *one: made.append(one) or view(*one))
    threads = [threading.Thread(target=sheets.sides, args=[project, one]) for one in raters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_what_is_live_or_quarantined_is_not_rated(project: Project) -> None:
    assert sheets.rateable(project, "cloth") == [2]
    record.quarantine(project, "cloth", 2, "too pale")
    assert sheets.rateable(project, "cloth") == []


# Krippendorff (2011), section C: four observers, twelve units, missing answers.
OBSERVED = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
    (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
)


def test_agreement_is_that_of_the_paper() -> None:
    units = [[one for one in unit if one is not None] for unit in zip(*OBSERVED, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_agreement_of_opposites_is_below_chance_and_of_one_answer_undefined() -> None:
    assert krippendorff_alpha([(1, 0), (0, 1), (1, 0)]) == pytest.approx(-2 / 3)
    assert krippendorff_alpha([(1, 1), (0, 0)]) == 1
    for nothing in ([(1, 1), (1, 1)], [(1,), (0,)], []):
        assert krippendorff_alpha(nothing) is None
