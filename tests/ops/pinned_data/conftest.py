"""A project with data of three models, and its command line."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from adire_assets.cli import main
from adire_assets.core.project import Project
from tests.support.fleets import make_fleet
from tests.support.instruction_data import alpaca
from tests.support.instruction_data import write as write_records
from tests.support.picture_folders import picture, save
from tests.support.pinned_data import DATA, IMAGE, pin

ROOT = Path(__file__).parents[3]
Adire = Callable[..., tuple[int, list[str], str]]


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
    (folder.parent / "fleet.yaml").write_text(make_fleet().model_dump_json(exclude_none=True))
    for number in range(20):
        save(project.root / "data" / "indigo" / "old cloth", f"p{number}.png", picture(number))
        if number < 12:
            save(project.root / "data" / "silk", f"{number}.png", picture(number))
    (project.root / IMAGE).with_suffix(".txt").write_text("a cloth with a caption of its own")
    write_records(project.root / "data/letters/letters.jsonl", [alpaca(n) for n in range(40)])
    from dvc.repo import Repo

    with Repo.init(str(project.root), no_scm=True):
        pin(project)
        yield project


@pytest.fixture
def adire(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Adire:
    """(exit status, lines of stdout, stderr) of `adire`."""
    monkeypatch.chdir(project.root)

    def run(*words: str) -> tuple[int, list[str], str]:
        monkeypatch.setattr(sys, "argv", ["adire", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.main()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out.splitlines(), told.err

    return run
