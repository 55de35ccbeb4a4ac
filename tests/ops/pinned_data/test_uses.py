"""`adire uses`: what rests on an image or on a record of the data."""

import shutil

import pytest

from adire_assets.core.project import Project
from adire_assets.core.store import Store
from tests.ops.pinned_data.conftest import Adire
from tests.support.pinned_data import IMAGE, RECORD, build, make_live, pin, release_on


def test_an_image_leads_to_what_is_live_of_every_model_that_has_it(
    project: Project, adire: Adire
) -> None:
    first, silk = build(project, "indigo"), build(project, "silk")
    one, other = release_on(project, first), release_on(project, silk)
    (project.root / IMAGE).unlink()
    pin(project)
    second = build(project, "indigo")
    two = release_on(project, second)
    make_live(project, one, {"blue": 1})
    make_live(project, two, {"blue": 1, "green": 2})
    make_live(project, other, {"blue": 1})
    found = adire("uses", IMAGE)[1]
    assert [line for line in found if "dataset" in line] == [
        f"dataset {silk.key[:12]} of silk: 1 in its validation split",
        f"dataset {first.key[:12]} of indigo: 1 in its validation split",
    ]
    assert "  there it is data/silk/7.png" in found
    assert [line.strip() for line in found if "release" in line] == [
        "release silk@1: live on local",
        "release indigo@1: held on local for the way back",
    ]
    assert second.key[:12] not in "\n".join(found)
    for data in Store(project).artifacts("silk", "training_data"):
        shutil.rmtree(data.path)
    assert "  there it is (unknown)/7" in adire("uses", IMAGE)[1]


def test_a_record_is_found_wherever_it_has_come_to_stand(project: Project, adire: Adire) -> None:
    first = build(project, "letters")
    before = adire("uses", RECORD)[1]
    assert before[0].startswith(f"dataset {first.key[:12]} of letters: 1 in its ")
    file = project.root / "data" / "letters" / "letters.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    pin(project)
    second = build(project, "letters")
    # By what the name means in the newest data.
    after = adire("uses", "data/letters/letters.jsonl:2")[1]
    assert after[0].startswith(f"dataset {second.key[:12]} of letters: 1 in its ")
    assert f"  there it is {RECORD}" in after
    whole = adire("uses", "data/letters/letters.jsonl")[1]
    assert len(whole) == 2 and "training split" in whole[0]


@pytest.mark.parametrize("what", ["data/indigo/none.png", f"{IMAGE}:3", "data/indigo"])
def test_what_no_dataset_has_is_said(project: Project, adire: Adire, what: str) -> None:
    build(project, "indigo")
    status, _, said = adire("uses", what)
    assert status == 1 and f"{what}: no dataset in " in said


def test_a_path_outside_is_refused(adire: Adire) -> None:
    status, _, said = adire("uses", "../x.png")
    assert status == 1 and "FILE" in said
