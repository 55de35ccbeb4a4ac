"""`adire uses`: what rests on an image or on a record of the data."""

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from adire_assets.cli import main
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Store, write_json
from adire_assets.line import dataset, sources
from adire_assets.serving import record, release
from adire_assets.serving.state import DeploymentRecord
from tests.support.instruction_data import alpaca
from tests.support.instruction_data import write as write_records
from tests.support.picture_folders import picture, save

ROOT = Path(__file__).parents[2]
IMAGES = {"resolution": 32, "instance_prompt": "cloth\u2028in blue", "minimum_images": 8}
DATA = {  # model -> (whose configuration it has, its data)
    "indigo": ("indigo", {"path": "data/indigo", "held_out_fraction": 0.3, **IMAGES}),
    "silk": ("indigo", {"path": "data/silk", "held_out_fraction": 0.3, **IMAGES}),
    "letters": ("adire_letters", {"path": "data/letters", "minimum_examples": 8}),
}
Uses = Callable[[str], tuple[int, list[str], str]]
IMAGE, RECORD = "data/indigo/old cloth/p7.png", "data/letters/letters.jsonl:3"


@pytest.fixture
def project(project: Project) -> Iterator[Project]:
    """Three models whose data DVC keeps; the images of silk are some of indigo's."""
    folder = project.root / "configs" / "models"
    shutil.copytree(ROOT / "configs", folder.parent, dirs_exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for model, (like, data) in DATA.items():
        config = yaml.safe_load((ROOT / "configs" / "models" / f"{like}.yaml").read_text("utf-8"))
        (folder / f"{model}.yaml").write_text(yaml.safe_dump({**config, "data": data}))
    for number in range(20):
        save(project.root / "data" / "indigo" / "old cloth", f"p{number}.png", picture(number))
        if number < 12:
            save(project.root / "data" / "silk", f"{number}.png", picture(number))
    write_records(project.root / "data/letters/letters.jsonl", [alpaca(n) for n in range(40)])
    from dvc.repo import Repo

    with Repo.init(str(project.root), no_scm=True):
        pin(project)
        yield project


def pin(project: Project) -> None:
    from dvc.repo import Repo

    with Repo(str(project.root)) as repo:
        repo.add([str(project.root / "data")])


def build(project: Project, model: str) -> Artifact:
    return dataset.build(project, sources.training_data(project, model).artifact).artifact


def release_on(project: Project, data: Artifact) -> release.ReleaseRecord:
    """The next release of the model, whose adapter is trained on this dataset."""

    def write(folder: Path) -> None:
        write_json(folder / "adapter.json", data.key)

    inputs = {"dataset": data.content_hash}
    adapter = Store(project).build(Recipe("lora_weights", data.model, inputs=inputs), write)
    names = ("repository", "adapter", "base_model", "evaluation", "verdict")
    parts = dict.fromkeys(names, adapter.artifact.reference())
    number = len(release.records(project, data.model)) + 1
    made = release.ReleaseRecord(data.model, number, **parts, mlflow_run_id=None, provenance={})
    return release.write_record(project, made)


def make_live(project: Project, one: release.ReleaseRecord, slots: dict[str, int]) -> None:
    def live(state: DeploymentRecord) -> DeploymentRecord:
        return replace(state, slots=slots).with_live_release(one.number, "deploy", None)

    record.change(project, "local", one.model, live)


@pytest.fixture
def adire(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Uses:
    """(exit status, lines of stdout, stderr) of `adire uses`."""
    monkeypatch.chdir(project.root)

    def run(what: str) -> tuple[int, list[str], str]:
        monkeypatch.setattr(sys, "argv", ["adire", "uses", what])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.main()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out.splitlines(), told.err

    return run


def test_an_image_leads_to_what_is_live_of_every_model_that_has_it(
    project: Project, adire: Uses
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
    found = adire(IMAGE)[1]
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
    assert "  there it is (unknown)/7" in adire(IMAGE)[1]


def test_a_record_is_found_wherever_it_has_come_to_stand(project: Project, adire: Uses) -> None:
    first = build(project, "letters")
    before = adire(RECORD)[1]
    assert before[0].startswith(f"dataset {first.key[:12]} of letters: 1 in its ")
    file = project.root / "data" / "letters" / "letters.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    pin(project)
    second = build(project, "letters")
    # By what the name means in the newest data.
    after = adire("data/letters/letters.jsonl:2")[1]
    assert after[0].startswith(f"dataset {second.key[:12]} of letters: 1 in its ")
    assert f"  there it is {RECORD}" in after
    whole = adire("data/letters/letters.jsonl")[1]
    assert len(whole) == 2 and "training split" in whole[0]


@pytest.mark.parametrize("what", ["data/indigo/none.png", f"{IMAGE}:3", "data/indigo"])
def test_what_no_dataset_has_is_said(project: Project, adire: Uses, what: str) -> None:
    build(project, "indigo")
    status, _, said = adire(what)
    assert status == 1 and f"{what}: no dataset in " in said


def test_a_path_outside_is_refused(adire: Uses) -> None:
    status, _, said = adire("../x.png")
    assert status == 1 and "FILE" in said
