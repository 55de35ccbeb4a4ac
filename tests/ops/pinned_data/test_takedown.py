"""`adire takedown`: what was taken down is trained on no more, under whatever name."""

from collections.abc import Iterable

import pytest
from PIL import Image

from adire_assets.config import takedowns
from adire_assets.config.takedowns import Takedown
from adire_assets.core.data_files import TAKEN_DOWN
from adire_assets.core.errors import UserError
from adire_assets.core.files import read_json_lines
from adire_assets.core.project import Project
from adire_assets.core.splits import SPLITS
from adire_assets.core.store import Artifact
from adire_assets.gates import contents, promotion
from adire_assets.line import train
from adire_assets.line.sources import source_key
from adire_assets.serving import record
from tests.ops.pinned_data.conftest import Adire
from tests.support.pinned_data import IMAGE, RECORD, build, foreign, make_live, pin, release_on

WHY = ["--reason", "its weaver asked", "--by", "ada"]


def sources(dataset: Artifact) -> set[str]:
    rows = (row for split in SPLITS for row in read_json_lines(dataset.path / f"{split}.jsonl"))
    return {row.get("source") or row["sha256"] for row in rows}


def rejected(dataset: Artifact) -> list[str]:
    found = dataset.json("summary.json")["rejected"]
    return [f"{one['file']}: {one['reason']}" for one in found]


def test_an_image_is_trained_on_no_more(project: Project, adire: Adire) -> None:
    # The same picture in other bytes: left out as such, it does not come in for what is excluded.
    copy = project.root / "data" / "silk" / "another name.png"
    with Image.open(project.root / IMAGE) as image:
        image.save(copy, compress_level=1)
    pin(project)
    first, silk = build(project, "indigo"), build(project, "silk")
    one, other = release_on(project, first), release_on(project, silk)
    make_live(project, one, {"blue": 1})
    before = source_key(project, "indigo", "training_data")
    status, said, _ = adire("takedown", IMAGE, *WHY)
    assert status == 0
    assert "release silk@1 is quarantined" in said
    assert "release indigo@1 is quarantined, and live on local" in said
    # The sensors see it, as a change that somebody has to commit.
    assert source_key(project, "indigo", "training_data") != before
    without, silk_without = build(project, "indigo"), build(project, "silk")
    gone = sources(first) - sources(without)
    assert len(gone) == 1 and gone == sources(silk) - sources(silk_without)
    assert rejected(without) == [f"old cloth/p7.png: {TAKEN_DOWN}"]
    assert f"7.png: {TAKEN_DOWN}" in rejected(silk_without)
    assert any(line.startswith("another name.png: ") for line in rejected(silk_without))
    for held in (one, other):
        with pytest.raises(UserError, match=r"rests on .*old cloth/p7.png.*its weaver asked"):
            record.refuse_quarantined(project, held.model, held.number)


def test_no_release_that_rests_on_it_goes_live(project: Project, adire: Adire) -> None:
    """Whatever was not quarantined: a release that was under way, an entry made by hand."""
    held = release_on(project, build(project, "indigo"))
    adire("takedown", IMAGE, *WHY)
    with pytest.raises(UserError, match=r"rests on data/indigo/old cloth/p7.png, which configs/"):
        promotion.require_passable(project, held, print)
    (project.root / takedowns.FILE).unlink()
    contents.refuse_taken_down(project, held)


def test_the_reason_is_the_last_that_was_given(project: Project, adire: Adire) -> None:
    held = release_on(project, build(project, "indigo"))
    record.quarantine(project, "indigo", held.number, "it draws rings")
    for _ in range(2):
        adire("takedown", IMAGE, *WHY)
    said = record.quarantine_reason(project, "indigo", held.number)
    assert said and said.startswith(f"rests on {IMAGE}, which was taken down: its weaver asked")


def test_several_records_are_not_taken_down_at_once(project: Project, adire: Adire) -> None:
    build(project, "letters")
    status, _, said = adire("takedown", RECORD.partition(":")[0], *WHY)
    assert status == 1 and "holds 40 records" in said
    assert not (project.root / takedowns.FILE).exists()


def test_what_no_dataset_has_yet_can_be_taken_down(project: Project, adire: Adire) -> None:
    status, said, _ = adire("takedown", IMAGE, *WHY)
    assert status == 0 and f"{IMAGE}: in no dataset" in said
    assert f"old cloth/p7.png: {TAKEN_DOWN}" in rejected(build(project, "indigo"))


def test_what_others_are_trained_on_stays_as_it_is(project: Project, adire: Adire) -> None:
    letters = build(project, "letters")
    build(project, "indigo")
    adire("takedown", IMAGE, *WHY)
    assert build(project, "letters").content_hash == letters.content_hash


def test_a_record_is_trained_on_no_more(project: Project, adire: Adire) -> None:
    first = build(project, "letters")
    adire("takedown", RECORD, *WHY)
    file = project.root / "data" / "letters" / "letters.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([lines[2], *lines[:2], *lines[3:]]))  # it stands in another line now
    pin(project)
    second = build(project, "letters")
    assert len(sources(second)) == len(sources(first)) - 1
    assert "letters.jsonl:1" not in sources(second)
    assert f"letters.jsonl: {TAKEN_DOWN}" in rejected(second)


def test_a_copy_in_other_bytes_leads_to_the_releases_on_the_original(
    project: Project, adire: Adire
) -> None:
    copy = project.root / "data" / "indigo" / "copy.png"
    with Image.open(project.root / IMAGE) as image:
        image.save(copy, compress_level=1)
    pin(project)
    first, silk = build(project, "indigo"), build(project, "silk")
    held = [release_on(project, first), release_on(project, silk)]
    _, said, _ = adire("takedown", "data/indigo/copy.png", *WHY)
    assert "release indigo@1 is quarantined" in said and "release silk@1 is quarantined" in said
    for one in held:
        with pytest.raises(UserError, match="rests on data/"):
            contents.refuse_taken_down(project, one)
    copy.unlink()
    pin(project)
    assert len(sources(build(project, "silk"))) == len(sources(silk)) - 1


def test_what_stands_by_answers_no_more(project: Project, adire: Adire) -> None:
    one = release_on(project, build(project, "indigo"))
    (project.root / IMAGE).unlink()
    pin(project)
    two = release_on(project, build(project, "indigo"))
    make_live(project, one, {"blue": 1})
    make_live(project, two, {"blue": 1, "green": 2})
    _, said, _ = adire("takedown", IMAGE, *WHY)
    state = record.read(project, "local", "indigo")
    assert state.live == 2 and 1 not in state.slots.values()
    assert "release indigo@1 is quarantined" in said
    # No fleet runs here: that is told, and stops nothing.
    assert any("the gateway" in line and "it will route as recorded" in line for line in said)
    assert any("of local is not as recorded" in line for line in said)


def test_a_release_that_is_recorded_meanwhile_is_quarantined(
    project: Project, adire: Adire, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, add = build(project, "indigo"), takedowns.add

    def slowly(project: Project, entries: Iterable[Takedown]) -> list[Takedown]:
        release_on(project, data)
        return add(project, entries)

    monkeypatch.setattr(takedowns, "add", slowly)
    assert "release indigo@1 is quarantined" in adire("takedown", IMAGE, *WHY)[1]


def test_an_adapter_is_not_trained_on_a_dataset_that_still_has_it(
    project: Project, adire: Adire
) -> None:
    data = build(project, "indigo")
    adire("takedown", IMAGE, *WHY)
    nothing = {"base_weights": None, "config": None, "run_worker": None, "tracked": None}
    with pytest.raises(UserError, match=f"contains {IMAGE}, .*adire materialize indigo --select"):
        train.lora_weights(project, data, **nothing)


def test_one_dataset_that_cannot_be_read_concerns_its_own_releases_only(
    project: Project, adire: Adire
) -> None:
    silk, indigo = build(project, "silk"), build(project, "indigo")
    held, other = release_on(project, silk), release_on(project, indigo)
    foreign(silk)
    status, said, _ = adire("takedown", IMAGE, *WHY)
    assert status == 0 and "release indigo@1 is quarantined" in said
    with pytest.raises(UserError, match=r"nobody can tell whether release 1 of silk rests on"):
        contents.refuse_taken_down(project, held)
    with pytest.raises(UserError, match="release 1 of indigo rests on"):
        contents.refuse_taken_down(project, other)


def test_the_file_keeps_what_people_wrote(project: Project, adire: Adire) -> None:
    build(project, "indigo")
    adire("takedown", IMAGE, *WHY)
    path = project.root / takedowns.FILE
    path.write_text(path.read_text().replace("- sha256", "# by letter\n- sha256", 1))
    adire("takedown", "data/indigo/old cloth/p3.png", *WHY)
    text = path.read_text()
    assert text.startswith("# Images and records") and "# by letter" in text
    assert len(takedowns.taken_down(project)) == 2
    adire("takedown", IMAGE, *WHY)
    assert path.read_text() == text


@pytest.mark.parametrize(
    "text",
    ["# none any more\n", "# none any more\ntakedowns:\n", "# none any more\ntakedowns: []\n"],
)
def test_a_file_without_entries_excludes_nothing(project: Project, adire: Adire, text: str) -> None:
    path = project.root / takedowns.FILE
    path.write_text(text)
    assert takedowns.taken_down(project) == {}
    _, said, _ = adire("takedown", IMAGE, *WHY)
    assert any("takedowns.yaml: entry added" in line for line in said)
    assert path.read_text().startswith("# none any more\n")
    assert len(takedowns.taken_down(project)) == 1
    _, said, _ = adire("takedown", IMAGE, *WHY)
    assert not any("entry added" in line for line in said)


def test_a_date_needs_no_quotes(project: Project) -> None:
    entry = "  file: x.png\n  reason: asked\n  by: ada\n  at: 2026-11-30"
    path = project.root / takedowns.FILE
    for end in ("", " 12:00:00"):
        path.write_text(f"takedowns:\n- sha256: {'a' * 64}\n{entry}{end}\n")
        assert takedowns.taken_down(project)["a" * 64].at.startswith("2026-11-30")


@pytest.mark.parametrize("text", ["# caf\u00e9\n", "takedowns: []  # caf\u00e9\n"])
def test_a_file_in_another_encoding_is_refused(project: Project, adire: Adire, text: str) -> None:
    (project.root / takedowns.FILE).write_bytes(text.encode("latin-1"))
    status, _, said = adire("takedown", IMAGE, *WHY)
    assert status == 1 and "takedowns.yaml: not UTF-8 text" in said
    assert len(said.splitlines()) == 1


def test_mistakes_change_nothing(project: Project, adire: Adire) -> None:
    build(project, "indigo")
    status, _, said = adire("takedown", "data/indigo/none.png", *WHY)
    assert status == 1 and "neither the data nor a dataset" in said
    assert not (project.root / takedowns.FILE).exists()
    (project.root / takedowns.FILE).write_text("takedowns:\n- sha256: abc\n")
    status, _, said = adire("takedown", IMAGE, *WHY)
    assert status == 1 and "takedowns.yaml:2" in said
    with pytest.raises(UserError, match=r"takedowns.yaml:2"):
        build(project, "indigo")
