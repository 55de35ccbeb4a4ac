"""Whoever publishes may be killed at any moment: nothing is half published."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from adire_assets.core.project import Project
from adire_assets.ops import data_commit, data_draft, data_publish
from tests.ops.data.test_publish import place, quiet, to_branches, upload
from tests.support import git_project
from tests.support.git_project import git, is_clean

# What a process does that others can see.
SEEN = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "subprocess.Popen", "shutil.copyfile")
MOST = 60


def killed_at(number: int, work: Callable[[], object], begun: Callable[[], bool]) -> bool:
    """Let another process do `work`, killed at its `number`-th visible act after `begun`; whether
    it was killed before it had finished."""

    def run() -> None:
        count = 0

        def look(event: str, _: object) -> None:
            nonlocal count
            if event in SEEN and begun():
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(look)
        work()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


def publish(project: Project) -> None:
    data_publish.publish(project, "indigo", "ada", "one more, one less", quiet)


@pytest.fixture(params=["direct", "branch"])
def begun(project: Project, tmp_path: Path, request: pytest.FixtureRequest) -> Project:
    """Killed at the first act of the last step."""
    if request.param == "branch":
        to_branches(project)
    upload(place(project), tmp_path, 100)
    data_draft.set_text(place(project), "new100.png", "a new cloth")
    data_draft.remove(place(project), "p0.png")
    journal = project.home / data_commit.JOURNAL
    assert killed_at(1, lambda: publish(project), journal.is_file)
    return project


def test_the_last_step_is_completed_wherever_it_was_cut(begun: Project, tmp_path: Path) -> None:
    before = git(begun, "rev-parse", "HEAD")
    moves = not git(begun, "diff", "HEAD", "--", "configs") and "branch" not in (
        (begun.root / "configs" / "fleet.yaml").read_text()
    )
    for number in range(1, MOST):
        project = git_project.copy(begun, tmp_path / f"{number}")
        cut = killed_at(number, partial(data_commit.recover, project), lambda: True)
        [*_] = data_commit.recover(project)
        assert data_commit.recover(project) == []
        assert is_clean(project), number
        published = git(project, "log", "--all", "-1", "--format=%s") == "one more, one less"
        assert published == (not place(project).folder.exists())
        moved = git(project, "rev-parse", "HEAD") != before
        there = (project.root / "data" / "indigo" / "new100.png").exists()
        gone = not (project.root / "data" / "indigo" / "p0.png").exists()
        assert moved == there == gone == (published and moves), number
        if not cut:
            assert number > 3
            return
    raise AssertionError("it never finished")


@pytest.mark.parametrize("number", [2, 7, 12])
def test_before_it_nothing_has_happened(project: Project, tmp_path: Path, number: int) -> None:
    upload(place(project), tmp_path, 100)
    journal = project.home / data_commit.JOURNAL
    assert killed_at(number, lambda: publish(project), lambda: not journal.is_file())
    assert not journal.is_file() and data_commit.recover(project) == []
    assert git(project, "rev-list", "--count", "--all") == "1" and is_clean(project)
    assert not data_draft.read(place(project)).is_empty
    publish(project)
    assert is_clean(project)


def test_where_the_checkout_has_moved_on_it_is_taken_back(project: Project, tmp_path: Path) -> None:
    upload(place(project), tmp_path, 100)
    data_draft.remove(place(project), "p0.png")
    data = project.root / "data" / "indigo"
    there = {path.name: path.read_bytes() for path in data.iterdir()}
    moved = lambda: (data / "new100.png").exists() and not (data / "p0.png").exists()  # noqa: E731
    assert killed_at(1, lambda: publish(project), moved)
    git(project, "commit", "--quiet", "--allow-empty", "--message", "mine")
    [said] = data_commit.recover(project)
    assert "was taken back" in said
    assert {path.name: path.read_bytes() for path in data.iterdir()} == there
    assert is_clean(project) and not data_draft.read(place(project)).is_empty
