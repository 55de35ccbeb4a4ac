"""Runs one server so that nothing of it outlives it.

    python -m adire_assets.serving.fleet.guard PARENT_PID SHM_PREFIX COMMAND ...

The guard is the reaper of everything below the command (Triton's Python stubs become its children
when Triton dies), forwards SIGTERM and SIGINT, and when the command has ended kills what is left
and removes the shared memory under /dev/shm/SHM_PREFIX*. Before it starts, it does the same to
what an earlier, killed guard of this prefix left. The server is killed with the guard; started
through `main`, the guard stops when its parent (strictly: the thread that started it) ends, and the
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
from pathlib import Path

import psutil

ENVIRONMENT = "ADIRE_SERVER_ENVIRONMENT"  # of the guard: the server's own, as JSON
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SERVERS = ("tritonserver", "triton_python_backend_stub")
SHARED_MEMORY = Path("/dev/shm")
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def run(
    command: Sequence[str], *, shm_prefix: str, env: Mapping[str, str], stop_seconds: int = 40
) -> int:
    """The command's exit status: 0 when it was asked to stop, else never 0.

    `stop_seconds` after SIGTERM the command is killed.
    """
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    remove_remains(shm_prefix)
    stopping = False
    server: subprocess.Popen | None = None

    def stop(number: int, frame: object) -> None:
        nonlocal stopping
        stopping = True
        if server is not None:
            server.terminate()
            signal.alarm(stop_seconds)

    def kill(number: int, frame: object) -> None:
        if server is not None:
            server.kill()

    for number, handler in ((signal.SIGTERM, stop), (signal.SIGINT, stop), (signal.SIGALRM, kill)):
        signal.signal(number, handler)
    server = subprocess.Popen(
        command, env=dict(env), preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    )
    if stopping:
        server.terminate()
    status = 0
    while True:
        # Also reaps what the server's death has handed to this process.
        ended, code = os.waitpid(-1, 0)
        if ended == server.pid:
            status = os.waitstatus_to_exitcode(code)
            server.returncode = status
            break
    signal.alarm(0)
    _kill(psutil.Process().children(recursive=True))
    remove_remains(shm_prefix)
    return 0 if stopping else (status or 1)


def remove_remains(shm_prefix: str) -> None:
    """Kill the servers of this prefix and remove their shared memory."""
    _kill([process for process in psutil.process_iter(["cmdline"]) if _of(process, shm_prefix)])
    for path in SHARED_MEMORY.glob(f"{shm_prefix}*"):
        path.unlink(missing_ok=True)


def is_running(shm_prefix: str) -> bool:
    """Whether a server of this prefix runs."""
    return any(_of(process, shm_prefix) for process in psutil.process_iter(["cmdline"]))


def _of(process: psutil.Process, shm_prefix: str) -> bool:
    words = process.info["cmdline"] or [""]
    return Path(words[0]).name in SERVERS and any(shm_prefix in word for word in words)


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=10)


def main() -> None:
    parent, shm_prefix, *command = sys.argv[1:]
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit("the parent of this guard ended before it began")
    sys.exit(run(command, shm_prefix=shm_prefix, env=json.loads(os.environ[ENVIRONMENT])))


if __name__ == "__main__":
    main()
