"""What others do while somebody publishes, or has sent, is neither lost nor overwritten."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.ops import data_commit, data_draft, data_publish
from adire_assets.tracking.dvc import files as dvc_files
from tests.ops.data.test_publish import place, quiet, upload
from tests.support.git_project import git, is_clean
from tests.support.instruction_data import alpaca
from tests.support.instruction_data import write as write_records
from tests.support.picture_folders import picture, save


def publish(project: Project, by: str = "ada", reason: str = "one more") -> str:
    return data_publish.publish(project, "indigo", by, reason, quiet)


def there(project: Project) -> dict[str, bytes]:
    files = (project.root / "data" / "indigo").iterdir()
    return {path.name: path.read_bytes() for path in files if path.is_file()}


def test_a_folder_called_like_a_file_is_refused(project: Project, tmp_path: Path) -> None:
    file = save(tmp_path, "x.png", picture(100))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(file, "p0.png/x.png")
        archive.write(file, "good/x.png")
    found = place(project)
    said = data_draft.add(found, "x.zip", tmp_path / "x.zip")
    why = "a folder in its name is called like a file; rename the folder"
    assert said == [f"p0.png/x.png: {why}", "1 file uploaded"]


def test_a_last_step_that_is_refused_leaves_all_as_it_was(project: Project, tmp_path: Path) -> None:
    found, head = place(project), git(project, "rev-parse", "HEAD")
    upload(found, tmp_path, 100)
    data_draft.remove(found, "p0.png")
    before, in_the_way = there(project), project.root / "data" / "indigo" / "new100.png"
    in_the_way.mkdir()
    with pytest.raises(UserError, match=r"new100\.png"):
        publish(project)
    in_the_way.rmdir()
    assert there(project) == before and git(project, "rev-parse", "HEAD") == head
    assert not (project.home / data_commit.JOURNAL).exists()
    publish(project)
    assert in_the_way.is_file() and is_clean(project)


def commits(project: Project) -> None:
    git(project, "commit", "--quiet", "--allow-empty", "--message", "mine")


def switches(project: Project) -> None:
    git(project, "checkout", "--quiet", "-b", "other")


def edits(project: Project) -> None:
    with (project.root / "data.dvc").open("a") as file:
        file.write("# mine\n")


@pytest.mark.parametrize(
    "meanwhile, after", [(commits, "make_commit"), (switches, "_bring"), (edits, "_bring")]
)
def test_a_checkout_that_moves_meanwhile_is_not_overwritten(
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    meanwhile: Callable[[Project], None],
    after: str,
) -> None:
    upload(place(project), tmp_path, 100)
    work, moved = getattr(data_commit, after), []

    def then(*arguments: object) -> object:
        done = work(*arguments)
        if not moved:
            meanwhile(project)
            moved.append((git(project, "status", "--porcelain"), git(project, "for-each-ref")))
        return done

    monkeypatch.setattr(data_commit, after, then)
    before = there(project)
    with pytest.raises(UserError, match="nothing is published; publish again"):
        publish(project)
    assert there(project) == before
    assert moved == [(git(project, "status", "--porcelain"), git(project, "for-each-ref"))]
    assert not (project.home / data_commit.JOURNAL).exists()
    assert not data_draft.read(place(project)).is_empty


def test_what_is_uploaded_after_a_kill_stays(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(place(project), tmp_path, 100)
    with monkeypatch.context() as patch:
        patch.setattr(data_commit, "_complete", _killed)
        with pytest.raises(KeyboardInterrupt):
            publish(project)
    data_draft.add(place(project), "late.png", save(tmp_path, "late.png", picture(101)))
    [said] = data_commit.recover(project)
    assert "was completed" in said and is_clean(project)
    assert data_draft.read(place(project)).unchecked == ["late.png"]


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_cache_that_was_emptied_after_a_kill_is_no_dead_end(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(place(project), tmp_path, 100)
    with monkeypatch.context() as patch:
        patch.setattr(data_commit, "_complete", _killed)
        with pytest.raises(KeyboardInterrupt):
            publish(project)
    md5 = dvc_files.md5_of(tmp_path / "up" / "new100.png")
    dvc_files.object_file(dvc_files.local_stores(project)[0], md5).unlink()
    [said] = data_commit.recover(project)
    assert "was taken back, since new100.png is not in DVC's cache any more" in said
    assert is_clean(project) and "published on main" in publish(project)


def test_a_step_that_others_have_built_on_is_published(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(place(project), tmp_path, 100)
    with monkeypatch.context() as patch:
        patch.setattr(data_commit, "_forget", _killed)
        with pytest.raises(KeyboardInterrupt):
            publish(project)
    commits(project)
    with pytest.raises(UserError, match=r"was published .*\nthere is no change of indigo by ada"):
        publish(project)
    assert is_clean(project) and (project.root / "data/indigo/new100.png").is_file()


def test_a_reason_with_control_characters_is_a_line(project: Project, tmp_path: Path) -> None:
    upload(place(project), tmp_path, 100)
    with pytest.raises(UserError, match="the reason has 1001 characters"):
        publish(project, reason="x" * 1001)
    publish(project, reason="a\x1e\x1f\0b\ud800\n c")
    git(project, "commit", "--quiet", "--allow-empty", "--message", "by hand \x1e \x1f")
    assert [one.reason for one in data_publish.versions(project, "indigo")] == ["a b c", "as it is"]


def test_two_may_remove_the_same_file_and_keep_it_again(project: Project, tmp_path: Path) -> None:
    for number, by in ((100, "ada"), (101, "obi")):
        found = place(project, by=by)
        upload(found, tmp_path / by, number)
        data_draft.remove(found, "p0.png")
    file = tmp_path / "again.png"
    file.write_bytes((project.root / "data" / "indigo" / "p1.png").read_bytes())
    eve = place(project, by="eve")
    data_draft.remove(eve, "p1.png")
    data_draft.add(eve, "again.png", file)
    assert [one["file"] for one in data_draft.check(eve, quiet).items] == ["again.png"]
    data_draft.remove(eve, "p1.png", gone=False)
    with pytest.raises(UserError, match=r"the same image as p1\.png"):
        publish(project, "eve")
    publish(project, "ada")
    publish(project, "obi")
    assert is_clean(project)


def test_a_check_that_fails_loses_no_record(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = place(project, "letters")
    records = write_records(tmp_path / "x.jsonl", [alpaca(number) for number in (50, 51, 52, 53)])
    data_draft.add(found, "x.jsonl", records)
    data_draft.check(found, quiet)
    data_draft.drop(found, "x.jsonl", 1)
    with monkeypatch.context() as patch:
        patch.setattr(data_draft, "_in_child", _killed)
        with pytest.raises(KeyboardInterrupt):
            data_draft.check(found, quiet)
    assert [one["line"] for one in data_draft.check(found, quiet).items] == [2, 3, 4]


def test_a_name_is_refused_once(project: Project, tmp_path: Path) -> None:
    found, file = place(project), save(tmp_path, "x.png", picture(100))
    for name in ("x.svg", "x.svg", "y.svg"):
        data_draft.add(found, name, file)
    assert [name for name, _ in data_draft.read(found).refused] == ["x.svg", "y.svg"]
