"""What messages about data advise is carried out here, command by command, in real git and DVC."""

import os
import shutil
import unicodedata

import pytest
from PIL import Image

from adire_assets.core.errors import UserError
from adire_assets.core.file_names import LEFTOVERS, is_content
from adire_assets.core.project import Project
from adire_assets.families.diffusion.data.images import Rejected, load
from adire_assets.tracking.dvc.files import object_file
from adire_assets.tracking.dvc.session import require_dvc
from adire_assets.tracking.dvc.versions import subtree, verify_working_tree
from tests.support.advised import advised, change, clone, commit, damage, shell
from tests.support.dvc_project import (
    REPOSITORY,
    contents,
    indigo,
    later_version,
    lose,
    run_export,
    run_pull,
    verify,
    write,
)

IGNORED = "/data\n/my data\n/weights\n/.adire\n"
LEFT = ["indigo/.DS_Store", "indigo/metadata.csv~", "indigo/Thumbs.db", "indigo/sub/desktop.ini",
        "indigo/sub/.#a.png", "indigo/#metadata.csv#", "__MACOSX/indigo/._a.png"]  # fmt: skip


def refused(call, *arguments) -> str:
    with pytest.raises(UserError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def repository(project: Project) -> Project:
    """The project in git, with DVC's cache filled and everything committed."""
    write(project.root, {".gitignore": IGNORED, ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n"})
    shell(project.root, "git init -q -b main")
    for name in ("data/indigo/a.png", "weights/model.bin"):
        (project.root / name).unlink()
    run_pull(project, "data.dvc", "weights.dvc")
    commit(project)
    return project


# --- .dvc files ---


@pytest.mark.parametrize(("side", "content"), [("--ours", "mine"), ("--theirs", "theirs")])
def test_a_merge_that_git_could_not_finish_is_ended_by_what_is_advised(repository, side, content):
    shell(repository.root, "git switch -qc other")
    change(repository, "theirs")
    shell(repository.root, "git switch -q main && dvc checkout")
    change(repository, "mine")
    shell(repository.root, "! git merge -q other")
    message = refused(indigo, repository)
    ours, theirs, pull, delete, add = advised(message)
    assert message.startswith("data.dvc:2 has the marks of a merge")
    assert (ours, theirs) == ("git checkout --ours data.dvc", "--theirs")
    shell(repository.root, ours.replace("--ours", side))
    shell(repository.root, pull)
    verify(repository)
    assert contents(repository)["data/indigo/a.png"] == content
    shell(repository.root, "git checkout -q --merge data.dvc")
    shell(repository.root, f"{delete} && {add}")
    verify(repository)


@pytest.mark.parametrize(
    "content",
    [b"outs: [", b"\xff\xfeouts", b"<<<<<<< HEAD\nouts: []\n=======\nouts: []\n>>>>>>> x\n"],
)
def test_a_file_that_dvc_cannot_read_either_is_deleted_first(repository, content):
    (repository.root / "data.dvc").write_bytes(content)
    *_, delete, add = advised(refused(indigo, repository))
    with pytest.raises(AssertionError):
        shell(repository.root, add)
    shell(repository.root, f"{delete} && {add}")
    verify(repository)


def test_a_dvc_file_that_is_not_there_is_made_from_the_folder(repository):
    (repository.root / "data.dvc").unlink()
    shutil.move(repository.root / "data", repository.root / "kept")
    message = refused(indigo, repository)
    assert "put the files into data, then `dvc add data`" in message
    shutil.move(repository.root / "kept", repository.root / "data")
    assert "put the files" not in refused(indigo, repository)
    shell(repository.root, *advised(message))
    verify(repository)


def test_names_with_blanks_and_quotes_are_advised_as_a_shell_takes_them(repository):
    folder = "my data/d'aso oke"
    write(repository.root, {f"{folder}/a.png": "x", f"{folder}/b.png": "y"})
    shell(repository.root, "dvc add 'my data'")
    commit(repository)
    tree = subtree(repository, "my data.dvc", folder)
    write(repository.root, {f"{folder}/a.png": "changed"})
    message = refused(verify_working_tree, repository, "my data.dvc", folder, tree)
    add, back = advised(message)
    shell(repository.root, back)
    verify_working_tree(repository, "my data.dvc", folder, tree)
    write(repository.root, {f"{folder}/a.png": "changed"})
    shell(repository.root, add)
    verify_working_tree(
        repository, "my data.dvc", folder, subtree(repository, "my data.dvc", folder)
    )


# --- the working tree ---


def test_going_back_fetches_first_what_dvc_has_not_here(repository):
    pinned = contents(repository)
    shutil.rmtree(repository.root / ".dvc" / "cache")
    write(repository.root, {"data/indigo/a.png": "changed"})
    _, fetch, checkout = advised(refused(verify, repository))
    shell(repository.root, fetch)
    shell(repository.root, checkout)
    assert contents(repository) == pinned


def test_files_that_only_the_user_has_are_taken_in_or_dropped_as_advised(repository):
    pinned = contents(repository)
    write(repository.root, {"data/indigo/a.png": "mine", "data/indigo/new.png": "too"})
    add, drop = advised(refused(run_pull, repository))
    shell(repository.root, drop)
    assert contents(repository) == pinned
    write(repository.root, {"data/indigo/new.png": "too"})
    shell(repository.root, add)
    verify(repository)


def test_leftovers_of_desktops_and_editors_count_nowhere(repository):
    before = indigo(repository)
    write(repository.root, {f"data/{name}": "left" for name in LEFT})
    assert not any(is_content(name) for name in LEFT)
    verify(repository)
    shutil.copy(REPOSITORY / ".dvcignore", repository.root)
    shell(repository.root, "dvc add data")  # DVC sees the same
    assert indigo(repository) == before
    (repository.root / "data" / "indigo" / "a.png").unlink()
    assert run_pull(repository)["pulled"] == ["data.dvc"]
    assert (repository.root / "data" / "indigo" / "metadata.csv~").read_text() == "left"
    verify(repository)


def test_every_leftover_is_one_for_dvc_as_well(repository):
    shutil.copy(REPOSITORY / ".dvcignore", repository.root)
    names = [pattern.replace("*", "x") for pattern in LEFTOVERS if pattern != "icon\r"]
    names = [{"@eadir": "@eaDir", "__macosx": "__MACOSX"}.get(name, name) for name in names]
    names = [name.upper() if "recycle" in name else name for name in names]
    assert not any(is_content(name) for name in names)
    write(repository.root, {f"data/indigo/{name}": "left" for name in names})
    before = indigo(repository)
    shell(repository.root, "dvc add data")
    assert indigo(repository).dvc_hash == before.dvc_hash


def test_a_leftover_that_was_pinned_may_change_or_go(repository):
    before = indigo(repository)
    write(repository.root, {"data/indigo/.DS_Store": "1", "data/indigo/notes.md": "x"})
    shell(repository.root, "dvc add data")
    pinned = indigo(repository)
    assert pinned.dvc_hash != before.dvc_hash
    assert pinned.files.keys() - before.files.keys() == {"notes.md"}
    write(repository.root, {"data/indigo/.DS_Store": "2"})
    verify(repository)
    (repository.root / "data" / "indigo" / ".DS_Store").unlink()
    verify(repository)
    (repository.root / "data" / "indigo" / "a.png").unlink()
    run_pull(repository)
    verify(repository)


def test_names_are_compared_as_they_read(repository):
    folder = repository.root / "data" / "indigo"
    decomposed = unicodedata.normalize("NFD", "àdìrẹ-é.png")
    (folder / decomposed).write_text("x")
    shell(repository.root, "dvc add data")
    pinned = indigo(repository)
    (folder / decomposed).rename(folder / unicodedata.normalize("NFC", decomposed))
    verify(repository)
    assert unicodedata.normalize("NFC", decomposed) in pinned.files


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_the_yaml", ["NFC", "NFD"])
def test_a_folder_is_found_by_how_its_name_reads(repository, on_disk, in_the_yaml):
    name = "data/aṣọ-òkè"
    write(repository.root, {f"{unicodedata.normalize(on_disk, name)}/a.png": "x"})
    shell(repository.root, "dvc add data")
    folder = unicodedata.normalize(in_the_yaml, name)
    tree = subtree(repository, "data.dvc", folder)
    assert list(tree.files) == ["a.png"]
    verify_working_tree(repository, "data.dvc", folder, tree)
    write(repository.root, {f"{unicodedata.normalize(on_disk, name)}/a.png": "y"})
    assert "1 changed (a.png)" in refused(verify_working_tree, repository, "data.dvc", folder, tree)


# --- what is pulled ---


def test_a_clone_with_windows_line_ends_gets_the_pinned_bytes(repository, tmp_path):
    write(repository.root, {"data/indigo/metadata.csv": "file_name,text\na.png,x\n"})
    shell(repository.root, "dvc add data && dvc push --remote embedded")
    commit(repository)
    changed = clone(repository, tmp_path / "changed", "-c core.autocrlf=true")
    message = refused(run_pull, changed)
    assert (
        "1 files are damaged in the DVC remote embedded, such as indigo/metadata.csv: git"
        in message
    )
    assert not (changed.root / "data").exists()
    for command in advised(message):
        shell(changed.root, command)
    verify(changed)
    attributes = (REPOSITORY / ".gitattributes").read_text().replace("embedded-remote", "embedded")
    write(repository.root, {".gitattributes": attributes})
    commit(repository)
    # Text that came with these line ends keeps them.
    write(repository.root, {"data/indigo/metadata.csv": "file_name,text\r\na.png,x\r\n"})
    shell(repository.root, "dvc add data && dvc push --remote embedded")
    commit(repository)
    untouched = clone(repository, tmp_path / "untouched", "-c core.autocrlf=true")
    shell(untouched.root, ["git config core.autocrlf true", "adire pull"][0])
    run_pull(untouched)
    verify(untouched)
    shell(untouched.root, 'test -z "$(git status --porcelain)"')


def test_damage_in_the_cache_is_told_and_pulled_again(repository):
    md5 = indigo(repository).files["b.png"]
    damage(object_file(repository.root / ".dvc" / "cache", md5), "SECOND")
    write(repository.root, {"data/indigo/b.png": "SECOND"})
    message = refused(verify, repository)
    assert "1 changed (b.png); the copy in DVC's cache is damaged as well" in message
    [command] = advised(message)
    shell(repository.root, command)
    verify(repository)
    assert contents(repository)["data/indigo/b.png"] == "second"


def test_damage_in_a_remote_is_mended_by_one_who_has_the_file(repository, tmp_path):
    md5 = indigo(repository).files["b.png"]
    remote = repository.root / ".dvc" / "embedded"
    damage(object_file(remote, md5), "SECOND")
    commit(repository)
    other = clone(repository, tmp_path / "other")
    message = refused(run_pull, other)
    assert f"such as indigo/b.png (the content of object {md5} is not what" in message
    assert not (other.root / "data").exists()
    for command in advised(message):
        shell(repository.root, command)
    commit(repository)
    shell(other.root, "git pull -q")
    run_pull(other)
    verify(other)


def test_another_remote_stands_in_for_a_damaged_one(repository, tmp_path):
    shutil.copytree(repository.root / ".dvc" / "embedded", tmp_path / "team")
    shell(repository.root, f"dvc remote add --default team {tmp_path / 'team'}")
    damage(object_file(tmp_path / "team", indigo(repository).files["b.png"]), "SECOND")
    shutil.rmtree(repository.root / ".dvc" / "cache")
    shutil.rmtree(repository.root / "data")
    run_pull(repository)
    verify(repository)


def test_a_file_that_dvc_wrongly_takes_for_the_pinned_one_is_told(repository):
    path = repository.root / "data" / "indigo" / "a.png"
    state = path.stat()
    with path.open("r+b") as file:  # as a failing disk does: same size, same time
        file.write(b"FIRST")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    delete, pull = advised(refused(run_pull, repository))
    shell(repository.root, delete)
    shell(repository.root, pull)
    verify(repository)


def test_whoever_has_what_is_missing_pushes_it_as_advised(repository, tmp_path):
    """One file is gone, then its list too; DVC pushes nothing for a list that is there."""
    listed = object_file(repository.root / ".dvc" / "embedded", indigo(repository).dvc_hash)
    for lost in ((), (listed,)):
        lose(repository, "b.png")
        for path in lost:
            path.unlink()
        commit(repository)
        other = clone(repository, tmp_path / f"other{len(lost)}")
        message = refused(run_pull, other)
        assert "whoever made data.dvc runs" in message
        for command in advised(message):
            shell(repository.root, command)
        commit(repository)
        shell(other.root, "git pull -q")
        run_pull(other)
        verify(other)


@pytest.mark.parametrize("default", [True, False])
def test_whoever_has_an_earlier_version_pushes_it_as_advised(repository, tmp_path, default):
    version = indigo(repository)
    if default:
        shell(repository.root, "dvc remote default embedded")
    lose(repository, "b.png")
    keeper = shutil.copytree(repository.root, tmp_path / "keeper")
    later_version(repository)
    shutil.rmtree(repository.root / ".dvc" / "cache")
    message = refused(run_export, repository, version, tmp_path / "out")
    for command in advised(message):
        shell(keeper, command)
    shutil.copytree(
        keeper / ".dvc" / "embedded", repository.root / ".dvc" / "embedded", dirs_exist_ok=True
    )
    assert run_export(repository, version, tmp_path / "again")["b.png"] == "second"


@pytest.mark.parametrize("where", ["in git", "below git", "without git"])
def test_a_project_without_dvc_gets_one_as_advised(project, tmp_path, where):
    shutil.move(project.root / ".dvc", tmp_path / "gone")
    if where != "without git":
        shell(project.root if where == "in git" else project.root.parent, "git init -q")
    init, remote = advised(refused(require_dvc, project))
    shell(project.root, init)
    place = tmp_path / "gone" / "embedded"
    shell(project.root, remote.replace("<name>", "team").replace("<url>", str(place)))
    shutil.rmtree(project.root / "data")
    run_pull(project)
    verify(project)


def test_links_into_the_cache_become_files_as_advised(repository):
    folder = repository.root / "data" / "indigo"
    Image.new("RGB", (8, 8)).save(folder / "real.png")
    shell(repository.root, "dvc config cache.type symlink && dvc add data && dvc checkout --relink")
    assert (folder / "real.png").is_symlink()
    with pytest.raises(Rejected, match="a link that leads out of the folder") as error:
        load(folder / "real.png", folder, 100)
    for command in advised(str(error.value)):
        shell(repository.root, command)
    assert load(folder / "real.png", folder, 100).image.size == (8, 8)
