"""`adire uses`: what rests on an image or on a record of the data."""

import shutil

import pytest
import yaml
from PIL import Image

from adire_assets.core.project import Project
from adire_assets.core.store import Store, write_json
from tests.ops.pinned_data.conftest import Adire
from tests.support.instruction_data import alpaca
from tests.support.instruction_data import write as write_records
from tests.support.pinned_data import IMAGE, RECORD, build, foreign, make_live, pin, release_on


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
    assert "  as data/silk/7.png" in found
    assert [line.strip() for line in found if "release" in line] == [
        "release silk@1: live on local",
        "release indigo@1: loaded as standby on local",
    ]
    assert second.key[:12] not in "\n".join(found)
    for data in Store(project).artifacts("silk", "training_data"):
        shutil.rmtree(data.path)
    assert "  as data/silk/7" in adire("uses", IMAGE)[1]


def test_a_record_is_found_wherever_it_has_come_to_stand(project: Project, adire: Adire) -> None:
    first = build(project, "letters")
    before = adire("uses", RECORD)[1]
    assert before[0].startswith(f"{RECORD}: {alpaca(2)['instruction'][:40]}")
    assert before[1].startswith(f"dataset {first.key[:12]} of letters: 1 in its ")
    file = project.root / "data" / "letters" / "letters.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    pin(project)
    second = build(project, "letters")
    # By what the name means now.
    after = adire("uses", "data/letters/letters.jsonl:2")[1]
    assert after[1].startswith(f"dataset {second.key[:12]} of letters: 1 in its ")
    assert f"  as {RECORD}" in after
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
    assert [line for line in found if line.startswith("  as ")] == ["  as data/silk/3.png"]
    assert found[0].startswith(f"dataset {silk.key[:12]} of silk")
    (project.root / IMAGE).write_bytes(b"of no dataset")
    assert adire("uses", IMAGE)[1] == [f"{IMAGE}: in no dataset"]


def test_what_was_deleted_is_said(project: Project, adire: Adire) -> None:
    store, first = Store(project), build(project, "indigo")
    (project.root / "data" / "indigo" / "old cloth" / "p3.png").unlink()
    pin(project)
    build(project, "indigo")
    list(store.delete_unheld(lambda: [first]))
    assert "indigo: 1 deleted dataset could not be searched" in adire("uses", IMAGE)[1]


@pytest.mark.parametrize("what", ["data/indigo/none.png", f"{IMAGE}:3", "data/indigo"])
def test_what_is_nowhere_is_said(project: Project, adire: Adire, what: str) -> None:
    build(project, "indigo")
    status, _, said = adire("uses", what)
    assert status == 1 and f"{what}: neither the data nor a dataset in " in said


def test_a_path_outside_is_refused(adire: Adire) -> None:
    status, _, said = adire("uses", "../x.png")
    assert status == 1 and "FILE" in said


@pytest.mark.parametrize("how", ["deleted", "faulty"])
def test_a_line_without_a_sound_record_is_what_the_newest_dataset_has_there(
    project: Project, adire: Adire, how: str
) -> None:
    first = build(project, "letters")
    last = "data/letters/letters.jsonl:40"
    file = project.root / "data" / "letters" / "letters.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:-1], *(['{"instruction": 3}\n'] if how == "faulty" else [])]))
    found = adire("uses", last)[1]
    assert found[0].startswith(f"{last}: {alpaca(39)['instruction'][:40]}")
    assert found[1].startswith(f"dataset {first.key[:12]} of letters: 1 in its ")


def test_a_record_that_is_another_one_in_the_newest_dataset_is_warned_of(
    project: Project, adire: Adire
) -> None:
    first = build(project, "letters")
    file = project.root / "data" / "letters" / "letters.jsonl"
    write_records(file, [alpaca(number) for number in range(50, 90)])
    found = adire("uses", RECORD)[1]
    assert found[0].startswith(f"{RECORD}: {alpaca(52)['instruction'][:40]}")
    assert found[1].startswith(f"warning: in dataset {first.key[:12]} of letters, the newest")
    assert alpaca(2)["instruction"][:40] in found[1]
    assert found[2] == f"{RECORD}: in no dataset"


def test_a_picture_is_found_in_other_bytes_too(project: Project, adire: Adire) -> None:
    silk = build(project, "silk")
    with Image.open(project.root / "data" / "silk" / "3.png") as image:
        image.convert("RGB").save(project.root / "data" / "indigo" / "new.bmp")
    found = adire("uses", "data/indigo/new.bmp")[1]
    assert found[0].startswith(f"dataset {silk.key[:12]} of silk: 1 in its ")
    assert "  as data/silk/3.png" in found


def test_a_rejected_copy_leads_to_the_picture_that_was_taken(
    project: Project, adire: Adire
) -> None:
    copy = project.root / "data" / "silk" / "copy.png"
    with Image.open(project.root / "data" / "silk" / "3.png") as image:
        image.save(copy, compress_level=1)
    pin(project)
    silk = build(project, "silk")
    copy.unlink()
    found = adire("uses", "data/silk/copy.png")[1]
    assert found[0].startswith(f"dataset {silk.key[:12]} of silk: 1 in its ")
    assert "  as data/silk/3.png" in found


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("data/indigo/metadata.csv", b"file_name,text\n", "metadata.csv is not an image in"),
        ("data/letters/cloth.png", b"\x89PNG\r\n\x1a\n\0", "cloth.png has no records: "),
    ],
)
@pytest.mark.parametrize("command", ["uses", "takedown"])
def test_a_file_of_another_kind_is_refused(
    project: Project, adire: Adire, command: str, file: str, content: bytes, said: str
) -> None:
    (project.root / file).write_bytes(content)
    reason = ["--reason", "a mistake"] if command == "takedown" else []
    status, _, told = adire(command, file, *reason)
    assert status == 1 and said in told and len(told.splitlines()) == 1


def test_a_dataset_that_cannot_be_read_is_told(project: Project, adire: Adire) -> None:
    silk, indigo = build(project, "silk"), build(project, "indigo")
    foreign(indigo)
    found = adire("uses", IMAGE)[1]
    assert f"dataset {silk.key[:12]} of silk: 1 in its validation split" in found
    [told] = [line for line in found if indigo.key[:12] in line]
    assert "cannot be read here: there is no family 'sculpture'" in told


def test_a_dataset_of_an_earlier_version_is_read(project: Project, adire: Adire) -> None:
    indigo = build(project, "indigo")
    manifest = indigo.manifest
    manifest["recipe"]["modules"] = {"adire_assets.data.dataset": "0" * 64}
    del manifest["job"]
    summary = indigo.json("summary.json")
    del summary["unused"]
    write_json(indigo.path / "manifest.json", manifest)
    write_json(indigo.path / "summary.json", summary)
    assert adire("uses", IMAGE)[1][0].startswith(f"dataset {indigo.key[:12]} of indigo: 1 in its ")
