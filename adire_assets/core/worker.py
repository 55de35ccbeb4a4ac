"""The child process in which a step uses the accelerator or DVC.

    python -m adire_assets.core.worker [--exec COMMAND ...] | JOB_FOLDER

JOB_FOLDER is one of `core.job_folder`. The function is called as
`name(**arguments, progress=progress)`; what it returns (JSON) is written to result.json, the text
of a `UserError` to error.txt. `progress(message, shown, **numbers)` prints a line (under Dagster
Pipes into the Dagster log), and hands numbers and the folder `shown` to the recorder, which is
called as `function(project, run_id, numbers, shown, step)`.

The child asks the kernel to be killed when its parent dies, so a crash, an out-of-memory kill or an
interrupt of the parent leaves nothing behind that holds the device. `--exec` sets that up for a
command that is not ours, such as `accelerate launch`.
"""

import ctypes
import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from adire_assets.core import lineage
from adire_assets.core.child_environment import PARENT
from adire_assets.core.disk import refusal
from adire_assets.core.errors import UserError
from adire_assets.core.files import read_json, write_bytes, write_json
from adire_assets.core.job_folder import ERROR, FACTS, is_portable, located
from adire_assets.core.project import Project

PR_SET_PDEATHSIG = 1
REFUSED = 3  # the exit status that goes with it


class Progress(Protocol):
    """Tells the user how far a long step is, with metrics of that moment and a folder of files."""

    def __call__(self, message: str, shown: Path | None = None, **numbers: float) -> None: ...


class RunWorker(Protocol):
    """Runs "module:function" with JSON arguments in a child process and returns its result."""

    def __call__(
        self,
        function: str,
        *,
        launcher: tuple[str, ...] = (),
        recorder: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> dict[str, Any]: ...


def print_progress(message: str, shown: Path | None = None, **numbers: float) -> None:
    """The progress of a function that is called outside a worker."""
    print(message, flush=True)


def die_with_parent() -> None:
    """Have Linux kill this process when its parent dies; exit when it is dead already."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = str(os.getppid())
    if os.environ.get(PARENT, parent) != parent:
        sys.exit("the process that started this one has ended, so nothing is done")


@contextmanager
def importing() -> Iterator[None]:
    """For imports of heavy libraries: the garbage collector ignores the objects that they create.

    These stay anyway, and searching them would take a fifth of the time that an import takes.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


def run_job(folder: Path, log: Callable[[str], None] | None = None) -> bool:
    """Carry out the job in `folder`; False when the user must mend something first."""
    job = read_json(folder / "job.json")
    # A launcher may have started several of this process; they share the machine's cores. Numeric
    # libraries look here when they are imported, and MKL must not take fewer threads on its own.
    threads = max(job["threads"] // int(os.environ.get("LOCAL_WORLD_SIZE", 1)), 1)
    os.environ |= {"OMP_NUM_THREADS": str(threads), "MKL_DYNAMIC": "FALSE"}

    def progress(message: str, shown: Path | None = None, **numbers: float) -> None:
        (log or print_progress)(message)
        if recorder := job["recorder"]:
            step = int(numbers.pop("step", 0))
            record = _named(recorder["function"])
            record(Project.find(), recorder["run_id"], numbers, shown, step)

    try:
        with importing():
            function = _named(job["function"])
        result = function(**_arguments(job["arguments"]), progress=progress)
        if _is_first():
            write_json(folder / FACTS, {**vars(lineage.facts()), "version": None})
            write_json(folder / "result.json", result)
    except Exception as error:
        sentence = str(error) if isinstance(error, UserError) else refusal(error, folder)
        if sentence is None:
            raise
        _refuse(folder, sentence)
        return False
    return True


def _arguments(written: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a job, with its paths, as strings, in the home and the project of here."""
    if not any(map(is_portable, written.values())):
        return dict(written)
    project = Project.find()
    places = {"home": project.home, "project": project.root}
    return {n: str(located(v, places)) if is_portable(v) else v for n, v in written.items()}


def _named(function: str) -> Callable[..., Any]:
    """The function that "package.module:name" names."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def _refuse(folder: Path, sentence: str) -> None:
    """Leave the sentence to the parent; each of several processes does."""
    try:
        write_bytes(folder / ERROR, sentence.encode())
    except UserError:  # the disk is full to the last byte: the child's last words are told as well
        print(sentence, flush=True)


def _is_first() -> bool:
    """Whether this is the first, or the only one, of the processes that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


def main() -> None:
    die_with_parent()
    if sys.argv[1] == "--exec":
        os.environ[PARENT] = str(os.getpid())  # of what the command starts
        os.execv(sys.argv[2], sys.argv[2:])
    folder = Path(sys.argv[1])
    if "DAGSTER_PIPES_CONTEXT" in os.environ and _is_first():
        from dagster_pipes import open_dagster_pipes

        with open_dagster_pipes() as pipes:
            done = run_job(folder, pipes.log.info)
    else:
        done = run_job(folder)
    if not done and "RANK" in os.environ:
        # One of several may refuse alone while the others wait for it. All of them die with their
        # launcher, which for an exit status would tell of a crash; error.txt says enough.
        os.kill(os.getppid(), signal.SIGKILL)
    sys.exit(0 if done else REFUSED)


if __name__ == "__main__":
    main()
