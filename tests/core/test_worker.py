"""The child process of a step ends when its parent does, whatever it is busy with."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from adire_assets.core import job_folder
from adire_assets.core.child_environment import child_environment
from adire_assets.core.errors import UserError
from adire_assets.core.placement import run_step
from adire_assets.core.project import Project
from tests.support.stand_ins import ended, forked

ROOT = Path(__file__).parents[2]
WAITS = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"
LEAVES = WAITS.replace("run(", "Popen(")
SECONDS = 10  # less than `jobs.wait` is busy


def carry_out(folder: Path, launcher: tuple[str, ...] = ()) -> None:
    run_step(
        Project(folder, folder / "home"),
        "tests.support.jobs:wait",
        {"file": str(folder / "begun")},
        threads=1,
        launcher=launcher,
        progress=lambda message: None,
    )


def gone(processes: list[psutil.Process]) -> bool:
    """Whether they end; those that do not are ended."""
    left = psutil.wait_procs(processes, timeout=SECONDS)[1]
    for process in left:
        process.kill()
    return not left


@pytest.mark.parametrize(
    "launcher", [(), (sys.executable, "-c", WAITS)], ids=["alone", "behind a launcher"]
)
def test_a_child_dies_with_its_parent(tmp_path: Path, launcher: tuple[str, ...]) -> None:
    parent = forked(lambda: carry_out(tmp_path, launcher))
    begun, late = tmp_path / "begun", time.monotonic() + 60
    while not begun.exists():
        assert time.monotonic() < late, "the child never began"
        time.sleep(0.05)
    family = psutil.Process(parent).children(recursive=True)
    assert int(begun.read_text()) == family[-1].pid and len(family) == len(launcher[2:]) + 1
    os.kill(parent, signal.SIGKILL)
    assert ended(parent) == -signal.SIGKILL
    assert gone(family)


def test_a_child_whose_parent_has_ended_already_does_nothing(tmp_path: Path) -> None:
    job = tmp_path / "job"
    job.mkdir()
    job_folder.write_job(job, "tests.support.jobs:wait", {"file": tmp_path / "begun"}, threads=1)

    def start() -> None:
        child = subprocess.Popen(job_folder.command(job), cwd=ROOT, env=child_environment())
        (tmp_path / "pid").write_text(str(child.pid))

    assert ended(forked(start)) == 0
    try:
        child = [psutil.Process(int((tmp_path / "pid").read_text()))]
    except psutil.NoSuchProcess:
        child = []
    assert gone(child)
    assert not (tmp_path / "begun").exists()


def test_a_child_whose_launcher_has_ended_already_does_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        carry_out(tmp_path, (sys.executable, "-c", LEAVES))
    assert not (tmp_path / "begun").exists()


def test_a_child_computes_with_its_threads_and_imports_no_library_of_its_own(
    tmp_path: Path,
) -> None:
    project = Project(tmp_path, tmp_path / "home")
    said = run_step(project, "tests.support.jobs:facts", {}, threads=3, progress=print)
    assert said == {"torch": False, "numpy": False, "threads": "3"}
