"""A worker function in a child process outside Dagster: for commands of the terminal."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adire_assets.core import lineage, worker
from adire_assets.core.child_environment import child_environment
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project


@contextmanager
def scratch_folder(project: Project, name: str) -> Iterator[Path]:
    """An empty folder that one process has at a time, and that a killed one leaves to the next."""
    folder = project.home / "work" / name
    with project.locks.acquire(name):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def run_child(
    project: Project,
    folder: Path,
    function: str,
    arguments: Mapping[str, Any],
    *,
    threads: int,
    launcher: Sequence[str] = (),
    sources: Path | None = None,
    recorder: Mapping[str, str] | None = None,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """The result of "module:function", carried out by a child with its files in the new `folder`.

    `launcher` goes without the interpreter. `sources`: where the child finds adire_assets, when
    that is not here. UserError with the child's own sentence when it refuses; an interrupt here
    ends it and all that it started.
    """
    folder.mkdir(parents=True)
    worker.write_job(folder, function, dict(arguments), threads, recorder)
    here = sources or Path(__file__).parents[2]
    child = subprocess.Popen(
        worker.command(folder, launcher=(sys.executable, *launcher) if launcher else ()),
        cwd=here,  # `python -m` looks there before PYTHONPATH
        env=child_environment(
            ADIRE_PROJECT=str(project.root),
            ADIRE_HOME=str(project.home),
            ADIRE_THREADS=str(threads),
            OMP_NUM_THREADS=str(threads),
            GOMP_SPINCOUNT=lineage.SPIN_COUNT,
            PYTHONPATH=str(here),
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    last = ""
    try:
        assert child.stdout
        for line in child.stdout:
            last = line.strip() or last
            progress(f"  {line.rstrip()}")
        status = child.wait()
    except BaseException:
        # A launcher between us and the worker is asked by nobody else: all of them at once.
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise
    if status and not (folder / worker.ERROR).is_file():
        raise UserError(f"the child that ran {function} ended unexpectedly: {last}")
    return worker.result_of(folder)
