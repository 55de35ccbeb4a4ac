"""Runs one server so that nothing of it outlives it.

    python -m adire_assets.serving.fleet.guard PARENT_PID MARK STOP_SECONDS COMMAND ...

The guard is the reaper of everything below the command (Triton's Python stubs become its children
when Triton dies), forwards SIGTERM and SIGINT, and when the command has ended kills what is left
and removes the shared memory under /dev/shm/MARK*. Before it starts, it does the same to what an
earlier, killed guard of this mark left. The server is killed with the guard; started through
`main`, the guard stops when its parent (strictly: the thread that started it) ends, and the
command's environment is the JSON in ADIRE_SERVER_ENVIRONMENT: it may name another Python's home,
with which the guard itself could not start.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import psutil

from adire_assets.core.project import Project

ENVIRONMENT = "ADIRE_SERVER_ENVIRONMENT"  # of the guard: the server's own, as JSON
MARK = "ADIRE_SLOT"  # in the environment of a server and of what it starts: whose it is
TURNS = "ADIRE_DEVICE_LOCK"  # there too: the file by which engines take turns
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SHARED_MEMORY = Path("/dev/shm")
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def scratch(project: Project) -> Path:
    """Where servers of a moment keep their files."""
    return project.home / "fleet" / "scratch"


def turns(project: Project) -> dict[str, str]:
    """What tells the engines of all slots to use the device in turns, each with all cores."""
    return {TURNS: str(project.home / "fleet" / "turns")}


def mark(folder: Path) -> str:
    """What tells the processes and the shared memory of one slot from those of others."""
    return f"adire_{sha256(str(folder.resolve()).encode()).hexdigest()[:16]}_"


def run(command: Sequence[str], *, mark: str, env: Mapping[str, str], stop_seconds: int) -> int:
    """The command's exit status: 0 when it was asked to stop, else never 0.

    `stop_seconds` after SIGTERM the command is killed.
    """
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    remove_remains(mark)
    stopping = False
    server: subprocess.Popen | None = None

    def stop(number: int, frame: object) -> None:
        nonlocal stopping
        stopping = True
        if server is not None:
            server.terminate()
            signal.alarm(stop_seconds)

    def give_up(number: int, frame: object) -> None:
        if server is not None:
            server.kill()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGALRM, give_up)
    server = subprocess.Popen(
        command,
        env={**env, MARK: mark},
        preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
    )
    if stopping:
        server.terminate()
    ended = code = 0
    while ended != server.pid:
        # Also reaps what the server's death has handed to this process.
        ended, code = os.waitpid(-1, 0)
    server.returncode = status = os.waitstatus_to_exitcode(code)
    signal.alarm(0)
    kill(psutil.Process().children(recursive=True))
    remove_remains(mark)
    return 0 if stopping else (status or 1)


def remove_remains(mark: str) -> None:
    """Kill the servers of this mark and remove their shared memory."""
    kill(with_variable(MARK, mark))
    for path in SHARED_MEMORY.glob(f"{mark}*"):
        path.unlink(missing_ok=True)


def is_running(mark: str) -> bool:
    """Whether a server of this mark runs."""
    return bool(with_variable(MARK, mark))


def with_variable(name: str, value: str) -> list[psutil.Process]:
    """The processes that were started with this value of an environment variable."""
    return [process for process in psutil.process_iter() if variable(process, name) == value]


def variable(process: psutil.Process, name: str) -> str | None:
    try:
        return process.environ().get(name)
    except (psutil.Error, OSError):
        return None


def kill(processes: list[psutil.Process]) -> None:
    """Kill them, and wait until they are gone."""
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def main() -> None:
    parent, mark, seconds, *command = sys.argv[1:]
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit("the parent of this guard ended before it began")
    environment = json.loads(os.environ[ENVIRONMENT])
    sys.exit(run(command, mark=mark, env=environment, stop_seconds=int(seconds)))


if __name__ == "__main__":
    main()
