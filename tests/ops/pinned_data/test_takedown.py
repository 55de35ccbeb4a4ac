"""`adire takedown`: what was taken down is trained on no more, under whatever name."""

import pytest
from PIL import Image

from adire_assets.config import takedowns
from adire_assets.core.errors import UserError
from adire_assets.core.files import read_json_lines
from adire_assets.core.project import Project
from adire_assets.core.splits import SPLITS
from adire_assets.core.store import Artifact
from adire_assets.line.sources import source_key
from adire_assets.serving import record
from tests.ops.pinned_data.conftest import Adire
from tests.support.pinned_data import IMAGE, RECORD, build, make_live, pin, release_on

WHY = ["--reason", "its weaver asked", "--by", "ada"]


def sources(dataset: Artifact) -> set[str]:
    rows = (row for split in SPLITS for row in read_json_lines(dataset.path / f"{split}.jsonl"))
    return {row.get("source") or row["sha256"] for row in rows}


def rejected(dataset: Artifact) -> list[str]:
    found = dataset.json("summary.json")["rejected"]
    return [f"{one['file']}: {one['reason']}" for one in found]


def test_an_image_is_trained_on_no_more(project: Project, adire: Adire) -> None:
    first, silk = build(project, "indigo"), build(project, "silk")
    one, other = release_on(project, first), release_on(project, silk)
    make_live(project, one, {"blue": 1})
    before = source_key(project, "indigo", "training_data")
    status, said, _ = adire("takedown", IMAGE, *WHY)
    assert status == 0
    assert said[:3] == [
        "release silk@1: quarantined",
        "release indigo@1: quarantined; live on local",
        "indigo: a release that rests on it still answers; the next release replaces it, or "
        "leave it now: `adire rollback indigo --reason ...`",
    ]
    # The sensors see it, as a change that somebody has to commit.
    assert source_key(project, "indigo", "training_data") != before
    for held in (one, other):
        with pytest.raises(UserError, match=r"rests on .*old cloth/p7.png.*its weaver asked"):
            record.refuse_quarantined(project, held.model, held.number)
    # What was left out as the same picture in other bytes does not come in for it.
    copy = project.root / "data" / "silk" / "another name.png"
    with Image.open(project.root / IMAGE) as image:
        image.save(copy, compress_level=1)
    pin(project)
    without, silk_without = build(project, "indigo"), build(project, "silk")
    gone = sources(first) - sources(without)
    assert len(gone) == 1 and gone == sources(silk) - sources(silk_without)
    assert rejected(without) == ["old cloth/p7.png: taken down: its weaver asked"]
    assert any("another name.png: " in line for line in rejected(silk_without))
    assert not any(copy.name in str(p) for p in silk_without.path.rglob("*"))


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
    assert [line for line in rejected(second) if "taken down: its weaver asked" in line]


def test_the_file_keeps_what_people_wrote(project: Project, adire: Adire) -> None:
    build(project, "indigo")
    adire("takedown", IMAGE, *WHY)
    path = project.root / takedowns.FILE
    path.write_text(path.read_text().replace("- content", "# by letter\n- content", 1))
    adire("takedown", "data/indigo/old cloth/p3.png", *WHY)
    text = path.read_text()
    assert text.startswith("# Images and records") and "# by letter" in text
    assert len(takedowns.taken_down(project)) == 2
    adire("takedown", IMAGE, *WHY)
    assert path.read_text() == text


def test_mistakes_change_nothing(project: Project, adire: Adire) -> None:
    build(project, "indigo")
    status, _, said = adire("takedown", "data/indigo/none.png", *WHY)
    assert status == 1 and "no dataset in " in said
    assert not (project.root / takedowns.FILE).exists()
    (project.root / takedowns.FILE).write_text("takedowns:\n- content: abc\n")
    status, _, said = adire("takedown", IMAGE, *WHY)
    assert status == 1 and "takedowns.yaml:2" in said
    with pytest.raises(UserError, match=r"takedowns.yaml:2"):
        build(project, "indigo")
