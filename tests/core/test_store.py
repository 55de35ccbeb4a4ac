"""The store: complete or absent, made once, never changed."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from adire_assets.core import lineage
from adire_assets.core.errors import UserError
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import NOT_CONTENT, Store, read_json, write_json
from adire_assets.ops.backup import backup
from tests.support.garbage import discard

RECIPE = Recipe("thing", "cloth", config={"x": 1})


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, tmp_path / "home")


def write(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "a.txt").write_text("a")


def test_same_recipe_is_made_once(project: Project) -> None:
    store = Store(project)
    first = store.build(RECIPE, write)
    second = store.build(RECIPE, lambda folder: pytest.fail("made again"))
    assert (first.reused, second.reused) == (False, True)
    assert first.artifact == second.artifact == store.open(first.artifact.reference())
    assert (first.artifact.path / "sub" / "a.txt").read_text() == "a"


def test_manifest_tells_recipe_files_and_code(project: Project) -> None:
    artifact = Store(project).build(RECIPE, lambda folder: write(folder) or {"dvc_hash": "d"})
    manifest = artifact.artifact.manifest
    assert manifest["recipe"]["config"] == {"x": 1}
    assert list(manifest["files"]) == ["sub/a.txt"]
    assert manifest["dvc_hash"] == "d"
    assert "build" in manifest["code"] or "commit" in manifest["code"]


def test_timings_do_not_count_for_the_content(project: Project) -> None:
    def with_timings(seconds: str):
        def make(folder: Path) -> None:
            write(folder)
            (folder / "timings.json").write_text(seconds)

        return make

    store = Store(project)
    one = store.build(RECIPE, with_timings("1")).artifact
    two = store.build(Recipe("thing", "silk", config={"x": 1}), with_timings("2")).artifact
    assert one.content_hash == two.content_hash


def test_a_failure_leaves_nothing(project: Project) -> None:
    def fail(folder: Path) -> None:
        write(folder)
        raise RuntimeError("no")

    store = Store(project)
    with pytest.raises(RuntimeError):
        store.build(RECIPE, fail)
    assert store.find(RECIPE) is None
    assert not [path for path in store.root.rglob("*") if path.is_file()]


def test_a_changed_file_is_noticed(project: Project) -> None:
    store = Store(project)
    artifact = store.build(RECIPE, write).artifact
    store.verify(artifact)
    path = artifact.path / "sub" / "a.txt"
    path.chmod(0o644)
    path.write_text("b")
    with pytest.raises(UserError, match=r"changed after it was made \(sub/a.txt\)"):
        store.verify(artifact)


@pytest.mark.parametrize("left", [".DS_Store", "sub/Thumbs.db", "sub/a.txt~", "recipe/.x.swp"])
def test_what_a_desktop_leaves_in_an_artifact_is_no_change(project: Project, left: str) -> None:
    (project.root / "configs").mkdir()
    shutil.copy(Path(__file__).parents[2] / "configs" / "fleet.yaml", project.root / "configs")
    store = Store(project)
    artifact = store.build(RECIPE, write).artifact
    (artifact.path / left).write_text("left")
    store.verify(artifact)
    backup(project, project.root / "copy", lambda _: None)
    kept = project.root / "copy" / "home" / "store" / artifact.name
    assert (kept / "sub" / "a.txt").read_text() == "a"
    assert not (kept / left).exists()


def test_what_was_recorded_counts_whatever_its_name(project: Project) -> None:
    """As in a store that an earlier version filled."""
    store = Store(project)
    artifact = store.build(RECIPE, write).artifact
    (artifact.path / ".hidden").write_text("x")
    content, files = lineage.folder_digest(artifact.path, NOT_CONTENT, [".hidden"])
    assert ".hidden" in files
    write_json(artifact.path / "manifest.json", {**artifact.manifest, "files": files})
    known = replace(artifact, content_hash=content)
    store.verify(known)
    (artifact.path / ".hidden").write_text("y")
    with pytest.raises(UserError, match=r"was changed after it was made .*hidden"):
        store.verify(known)


def test_a_file_among_unfinished_artifacts_is_none(project: Project) -> None:
    store = Store(project)
    (store.root / ".tmp").mkdir(parents=True)
    (store.root / ".tmp" / ".DS_Store").write_text("left")
    assert list(store.unfinished()) == []


def test_a_reference_to_what_is_gone_says_what_to_materialize(project: Project) -> None:
    store = Store(project)
    reference = store.build(RECIPE, write).artifact.reference()
    with pytest.raises(UserError, match="materialize silk/thing"):
        store.open({**reference, "model": "silk"})
    with pytest.raises(UserError, match="not the content"):
        store.open({**reference, "content_hash": "0" * 64})


def _count_and_write(root: Path, log: Path, pause: float) -> None:
    def make(folder: Path) -> None:
        with log.open("a") as file:
            file.write("made\n")
        write(folder)
        time.sleep(pause)

    Store(Project(root, root / "home")).build(RECIPE, make)


def test_two_processes_make_one_artifact(project: Project, tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=_count_and_write, args=(tmp_path, log, 0.2)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert log.read_text() == "made\n"


def test_a_killed_maker_blocks_nobody(project: Project, tmp_path: Path) -> None:
    log = tmp_path / "log"
    worker = multiprocessing.get_context("fork").Process(
        target=_count_and_write, args=(tmp_path, log, 60)
    )
    worker.start()
    while not log.exists():
        time.sleep(0.01)
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join()
    built = Store(project).build(RECIPE, write)
    assert not built.reused
    assert read_json(built.artifact.path / "manifest.json")["files"].keys() == {"sub/a.txt"}


def test_a_lock_tells_whether_its_holder_lives(project: Project) -> None:
    assert not project.locks.is_held("run-1")
    with project.locks.acquire("run-1"):
        assert project.locks.is_held("run-1")
    assert not project.locks.is_held("run-1")


def test_of_what_is_discarded_the_manifest_and_the_recipe_are_recalled(project: Project) -> None:
    store = Store(project)
    recipe = Recipe(
        "thing", "cloth", modules=("adire_assets.families.diffusion.data.dataset",), config={"x": 1}
    )
    artifact = store.build(recipe, write).artifact
    manifest = artifact.manifest
    assert store.holds(store.recall(artifact.reference()))
    discard(store, artifact)
    discard(store, store.build(recipe, write).artifact)  # made again in between
    kept = store.recall(artifact.reference())
    assert not store.holds(kept)
    assert (kept.key, kept.manifest["files"]) == (artifact.key, manifest["files"])
    assert kept.json("recipe/config.json") == {"x": 1}
    with pytest.raises(UserError, match="no longer in the store"):
        store.open(artifact.reference())
    with pytest.raises(UserError, match="known neither"):
        store.recall({**artifact.reference(), "content_hash": "0" * 64})


def test_all_that_a_step_runs_with_is_kept_with_what_it_made(project: Project) -> None:
    recipe = Recipe("thing", "cloth", modules=("adire_assets.families.diffusion.data.dataset",))
    artifact = Store(project).build(recipe, write).artifact
    names = {path.stem for path in (artifact.path / "recipe" / "sources").iterdir()}
    assert {
        "adire_assets",
        "adire_assets.families.diffusion.data",
        "adire_assets.families.diffusion.data.dataset",
    } <= names
    assert {
        "adire_assets.core.worker",
        "adire_assets.config.model",
    } <= names
    assert "adire_assets.families.diffusion.training.lora" not in names


CHANGED_MEANWHILE = """
from pathlib import Path
from adire_assets.core import lineage
from adire_assets.core.project import Project
from adire_assets.core.errors import UserError
from adire_assets.core.lineage import Recipe
from adire_assets.core.store import Store

recipe = Recipe("thing", "cloth", modules=("adire_assets.families.diffusion.data.dataset",))
recipe.key
path = lineage.sources(recipe.modules)["adire_assets.families.diffusion.data.images"]
before = path.read_text()
for text in (before + "REACHED = 1", before + "# a comment"):
    path.write_text(text)
    try:
        Store(Project(Path(), Path("home").resolve())).build(recipe, lambda folder: None)
        print("made")
    except UserError as error:
        print(error)
"""


def test_code_that_changed_after_it_was_read_is_not_recorded_as_the_code_that_ran(
    tmp_path: Path,
) -> None:
    package = Path(__file__).parents[2] / "adire_assets"
    shutil.copytree(package, tmp_path / "adire_assets")
    done = subprocess.run(
        [sys.executable, "-c", CHANGED_MEANWHILE],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "the code of cloth/thing was changed after this process had read it; start it again",
        "made",
    ]
