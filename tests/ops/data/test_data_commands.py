"""`adire data`, from files to a version and back."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from adire_assets.cli import main
from adire_assets.core.project import Project
from tests.support.git_project import is_clean
from tests.support.picture_folders import picture, save

Adire = Callable[..., tuple[int, list[str], str]]


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


def test_the_way_at_the_command_line(project: Project, adire: Adire, tmp_path: Path) -> None:
    good = save(tmp_path, "good.png", picture(100))
    same, other = save(tmp_path, "same.png", picture(2)), tmp_path / "x.svg"
    other.write_text("<svg/>")
    status, said, _ = adire("data", "add", "indigo", str(good), str(same), str(other))
    assert status == 0
    assert "refused: same.png: the same image as p2.png" in said and "new: good.png" in said
    assert sum("x.svg: is not taken" in line for line in said) == 1
    status, _, wrong = adire("data", "publish", "indigo", "--reason", " ")
    assert status == 1 and "a blank text says nothing" in wrong
    status, said, _ = adire("data", "publish", "indigo", "--reason", "one more")
    assert status == 0 and said[-1].startswith("indigo: published on main as ")
    _, versions, _ = adire("data", "versions", "indigo")
    assert len(versions) == 2 and ": one more" in versions[0] and "(now)" in versions[0]
    first = versions[1].split()[0]
    status, _, _ = adire("data", "back", "indigo", first, "--reason", "too pale")
    assert status == 0 and is_clean(project)
    assert not (project.root / "data" / "indigo" / "good.png").exists()
    status, _, wrong = adire("data", "back", "indigo", first, "--reason", "too pale")
    assert status == 1 and f"indigo has the data of {first} already" in wrong
    status, _, wrong = adire("data", "publish", "indigo", "--reason", "again")
    assert status == 1 and "there is no change of indigo by" in wrong
