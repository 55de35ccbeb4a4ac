"""`adire uses`: what rests on an image or on a record of the data."""

import shutil

import pytest
import yaml

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
    assert "  there it is data/silk/7" in adire("uses", IMAGE)[1]


def test_a_record_is_found_wherever_it_has_come_to_stand(project: Project, adire: Adire) -> None:
    first = build(project, "letters")
    before = adire("uses", RECORD)[1]
    assert before[0].startswith(f"dataset {first.key[:12]} of letters: 1 in its ")
    file = project.root / "data" / "letters" / "letters.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    pin(project)
    second = build(project, "letters")
    # By what the name means now.
    after = adire("uses", "data/letters/letters.jsonl:2")[1]
    assert after[0].startswith(f"dataset {second.key[:12]} of letters: 1 in its ")
    assert f"  there it is {RECORD}" in after
    whole = adire("uses", "data/letters/letters.jsonl")[1]
    assert len(whole) == 2 and "training split" in whole[0]


def test_a_record_is_the_same_whatever_the_config_tells_the_model(
    project: Project, adire: Adire
) -> None:
    first = build(project, "letters")
    path = project.model_file("letters")
    config = yaml.safe_load(path.read_text())
    config["data"]["system_prompt"] = "You write letters."
    path.write_text(yaml.safe_dump(config))
    second = build(project, "letters")
    assert first.content_hash != second.content_hash
    assert [line for line in adire("uses", RECORD)[1] if line.startswith("dataset")] == [
        f"dataset {one.key[:12]} of letters: 1 in its training split" for one in (second, first)
    ]


def test_a_file_counts_as_it_is_now(project: Project, adire: Adire) -> None:
    silk = build(project, "silk")
    shutil.copy(project.root / "data" / "silk" / "3.png", project.root / IMAGE)
    found = adire("uses", IMAGE)[1]
    assert [line for line in found if "there it is" in line] == ["  there it is data/silk/3.png"]
    assert found[0].startswith(f"dataset {silk.key[:12]} of silk")
    (project.root / IMAGE).write_bytes(b"of no dataset")
    assert adire("uses", IMAGE)[1] == [f"{IMAGE}: in no dataset"]


def test_what_was_deleted_is_said(project: Project, adire: Adire) -> None:
    store, first = Store(project), build(project, "indigo")
    (project.root / "data" / "indigo" / "old cloth" / "p3.png").unlink()
    pin(project)
    build(project, "indigo")
    list(store.delete_unheld(lambda: [first]))
    assert "indigo: 1 deleted datasets could not be searched" in adire("uses", IMAGE)[1]


@pytest.mark.parametrize("what", ["data/indigo/none.png", f"{IMAGE}:3", "data/indigo"])
def test_what_is_nowhere_is_said(project: Project, adire: Adire, what: str) -> None:
    build(project, "indigo")
    status, _, said = adire("uses", what)
    assert status == 1 and f"{what}: neither the data nor a dataset in " in said


def test_a_path_outside_is_refused(adire: Adire) -> None:
    status, _, said = adire("uses", "../x.png")
    assert status == 1 and "FILE" in said
