"""A change of the data from files to a published version, and back."""

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest

from adire_assets.config.fleet import StudioConfig
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.ops import data_draft, data_publish
from tests.support.fleets import make_fleet, write_fleet
from tests.support.git_project import commit, git, is_clean
from tests.support.instruction_data import alpaca
from tests.support.instruction_data import write as write_records
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
    assert git(project, "log", "-1", "--format=%an|%s|%P") == f"ada|two more cloths|{before}"
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


def to_branches(project: Project) -> None:
    fleet = make_fleet()
    studio = StudioConfig(port=fleet.studio.port, publish="branch")
    write_fleet(project, fleet.model_copy(update={"studio": studio}))
    commit(project, "changes of the data wait for somebody")


def test_to_a_branch_the_checkout_stays_as_it_is(project: Project, tmp_path: Path) -> None:
    to_branches(project)
    head, data = git(project, "rev-parse", "HEAD"), project.root / "data" / "indigo"
    for number in (100, 101):
        upload(place(project, by="Ada L."), tmp_path, number)
        said = data_publish.publish(project, "indigo", "Ada L.", f"cloth {number}", quiet)
        assert "merge it to use it" in said and "data/ada-l-" in said
    assert git(project, "rev-parse", "HEAD") == head and is_clean(project)
    assert not (data / "new100.png").exists()
    first, second = git(project, "branch", "--list", "--format=%(refname:short)", "data/*").split()
    assert second == f"{first}-2"
    git(project, "merge", "--quiet", "--ff-only", second)
    assert git(project, "diff", "--name-only", f"{head}..HEAD") == "data.dvc"
    from dvc.repo import Repo

    with Repo(str(project.root)) as repo:
        repo.checkout()
    assert (data / "new101.png").is_file() and is_clean(project)


def test_records_come_beside_the_others(project: Project, tmp_path: Path) -> None:
    found = place(project, "letters", "obi")
    bad = {"instruction": "call +234 803 123 4567", "output": "ada@example.com"}
    records = [alpaca(50), bad, alpaca(3), {"instruction": 5}, alpaca(51), alpaca(52)]
    data_draft.add(found, "new.jsonl", write_records(tmp_path / "new.jsonl", records))
    draft = data_draft.check(found, quiet)
    told = dict(map(tuple, draft.refused))
    assert set(told) == {"new.jsonl:2", "new.jsonl:3", "new.jsonl:4"}
    assert told["new.jsonl:3"] == "the same question and answer as letters.jsonl:4"
    assert [one["line"] for one in draft.items] == [1, 5, 6]
    data_draft.drop(found, "new.jsonl", 5)
    assert [one["text"][:9] for one in data_draft.check(found, quiet).items] == [
        alpaca(number)["instruction"][:9] for number in (50, 52)
    ]
    data_publish.publish(project, "letters", "obi", "two letters", quiet)
    written = (project.root / "data" / "letters" / "new.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == [alpaca(50), alpaca(52)]
    assert is_clean(project)


def test_an_earlier_version_comes_back_for_this_model_alone(
    project: Project, tmp_path: Path
) -> None:
    [first] = data_publish.versions(project, "indigo")
    upload(place(project), tmp_path, 100)
    data_draft.remove(place(project), "p0.png")
    data_publish.publish(project, "indigo", "ada", "one more", quiet)
    letters = place(project, "letters", "obi")
    data_draft.add(letters, "new.jsonl", write_records(tmp_path / "new.jsonl", [alpaca(60)]))
    data_draft.check(letters, quiet)
    data_publish.publish(project, "letters", "obi", "a letter", quiet)
    second, same = data_publish.versions(project, "indigo")
    assert (second.by, second.reason, second.files, second.current) == ("ada", "one more", 21, True)
    assert same.commit == first.commit and not same.current
    with pytest.raises(UserError, match=r"has the data of .* already"):
        data_publish.go_back(project, "indigo", second.commit[:12], "obi", "again", quiet)
    data_publish.go_back(project, "indigo", first.commit[:12], "obi", "too pale", quiet)
    data = project.root / "data"
    assert (data / "indigo" / "p0.png").is_file() and (data / "letters" / "new.jsonl").is_file()
    assert not (data / "indigo" / "new100.png").exists() and is_clean(project)
    assert [one.reason for one in data_publish.versions(project, "indigo")] == [
        "too pale",
        "one more",
        "as it is",
    ]
    with pytest.raises(UserError, match=r"has no version 'main'"):
        data_publish.go_back(project, "indigo", "main", "obi", "too pale", quiet)


def other_file(project: Project) -> None:
    (project.root / "data" / "indigo" / "p5.png").write_bytes(b"mine")


def staged(project: Project) -> None:
    text = (project.root / "data.dvc").read_text()
    (project.root / "data.dvc").write_text(f"{text}# mine\n")
    git(project, "add", "data.dvc")
    (project.root / "data.dvc").write_text(text)


def detached(project: Project) -> None:
    git(project, "checkout", "--quiet", "--detach")


def branch_named_data(project: Project) -> None:
    to_branches(project)
    git(project, "branch", "data")


@pytest.mark.parametrize(
    "spoil, said",
    [
        (other_file, "data/indigo differs from data.dvc: 1 changed"),
        (staged, "data.dvc has changes that are not committed"),
        (detached, "has a commit checked out, and no branch"),
        (branch_named_data, "there is a branch named data"),
    ],
)
def test_a_checkout_that_is_not_as_its_commit_says_is_refused(
    project: Project, tmp_path: Path, spoil: Callable[[Project], None], said: str
) -> None:
    upload(place(project), tmp_path, 100)
    spoil(project)
    before = git(project, "for-each-ref"), git(project, "status", "--porcelain")
    with pytest.raises(UserError, match=said):
        data_publish.publish(project, "indigo", "ada", "one more", quiet)
    assert (git(project, "for-each-ref"), git(project, "status", "--porcelain")) == before
    assert not data_draft.read(place(project)).is_empty


def test_of_two_who_publish_at_once_one_waits(project: Project, tmp_path: Path) -> None:
    for number, by in ((100, "ada"), (101, "obi")):
        upload(place(project, by=by), tmp_path / by, number)
    fork = multiprocessing.get_context("fork")
    both = [
        fork.Process(target=data_publish.publish, args=(project, "indigo", by, f"by {by}", quiet))
        for by in ("ada", "obi")
    ]
    for one in both:
        one.start()
    for one in both:
        one.join(120)
    assert [one.exitcode for one in both] == [0, 0]
    assert {"new100.png", "new101.png"} <= {
        path.name for path in (project.root / "data" / "indigo").iterdir()
    }
    assert git(project, "rev-list", "--count", "HEAD") == "3" and is_clean(project)


def test_a_draft_is_looked_at_again_where_the_data_has_changed(
    project: Project, tmp_path: Path
) -> None:
    upload(place(project, by="obi"), tmp_path, 100)
    upload(place(project), tmp_path, 100, 101)
    data_publish.publish(project, "indigo", "obi", "mine first", quiet)
    with pytest.raises(UserError, match=r"not published.*\n.*the same image as new100.png"):
        data_publish.publish(project, "indigo", "ada", "mine too", quiet)
    data_publish.publish(project, "indigo", "ada", "the rest", quiet)
    assert is_clean(project)
