"""A change of the data from files to a published version, and back."""

from pathlib import Path

import pytest

from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.ops import data_draft, data_publish
from tests.support.git_project import git, is_clean
from tests.support.picture_folders import picture, save


def quiet(message: str, *_: object, **__: object) -> None:
    pass


def place(project: Project, model: str = "indigo", by: str = "ada") -> data_draft.Place:
    return data_draft.place(project, model, by)


def upload(found: data_draft.Place, tmp_path: Path, *numbers: int) -> data_draft.Draft:
    for number in numbers:
        file = save(tmp_path / "up", f"new{number}.png", picture(number))
        data_draft.add(found, file.name, file)
    return data_draft.check(found, quiet)


def test_published_images_are_a_commit_and_the_data_in_line(
    project: Project, tmp_path: Path
) -> None:
    found = place(project)
    draft = upload(found, tmp_path, 100, 101, 3)
    assert [one["file"] for one in draft.items] == ["new100.png", "new101.png"]
    assert draft.refused == [["new3.png", "the same image as p3.png"]]
    data_draft.set_text(found, "new100.png", "a  cloth,\n with rings")
    data_draft.set_text(found, "p1.png", "a very dark cloth")
    data_draft.remove(found, "p0.png")
    before = git(project, "rev-parse", "HEAD")
    said = data_publish.publish(project, "indigo", "ada", "two more cloths", quiet)
    assert said.startswith("indigo: published on main as ")
    assert is_clean(project)
    assert git(project, "log", "-1", "--format=%an|%cn|%s|%P") == f"ada|{git(project, 'log', '-1', '--format=%cn')}|two more cloths|{before}"
    assert git(project, "diff", "--name-only", "HEAD~1") == "data.dvc"
    data = project.root / "data" / "indigo"
    assert (data / "new101.png").read_bytes() == (tmp_path / "up" / "new101.png").read_bytes()
    assert not (data / "p0.png").exists()
    assert (data / "metadata.csv").read_text() == (
        'file_name,text,author\np1.png,a very dark cloth,\nnew100.png,"a cloth, with rings",\n'
    )
    assert data_draft.read(found).is_empty and not found.folder.exists()
    # It is what `dvc add` writes.
    text = (project.root / "data.dvc").read_text()
    from dvc.repo import Repo

    with Repo(str(project.root)) as repo:
        repo.add([str(project.root / "data")])
    assert (project.root / "data.dvc").read_text() == text
