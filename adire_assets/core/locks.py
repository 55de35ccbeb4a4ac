"""The plug `Locks`, mutual exclusion between processes; and its implementation by files.

Who holds a lock has a lease. Writers pass their lease to `Records.change`, which refuses one that
is over; so a holder that was believed dead changes nothing any more.
"""

import errno
import fcntl
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from adire_assets.core.disk import writing


@dataclass(frozen=True)
class Lease:
    """`fence` is greater than that of every lease of this lock before; `holder` names the process
    (host, process id and a random part, since a process id returns)."""

    name: str
    holder: str
    fence: int


class Locks(Protocol):
    """Locks by name, among all processes that share a home, on whatever machine.

    A lock ends with the block or with its holder's process. It is not reentrant: asking again for
    what the process itself holds waits for ever.
    """

    def acquire(self, name: str) -> AbstractContextManager[Lease]:
        """Hold a lock for the block; waits for it."""

    def try_acquire(self, name: str) -> AbstractContextManager[Lease | None]:
        """Hold a lock for the block, or None at once when another has it."""

    def is_held(self, name: str) -> bool:
        """Whether a living process holds a lock."""

    def is_current(self, lease: Lease) -> bool:
        """Whether no later lease of the lock was given; so it may be true after the block ended."""


def process_name() -> str:
    """A name that no other process has, here or on another machine."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


@dataclass(frozen=True)
class FileLocks:
    """Locks for the processes of one machine: flock on <folder>/<name>.lock.

    The fence is the file's time of change, so that a lock needs no space on a full disk. Where it
    cannot be set (a file of another user, a disk that can only be read) flock alone guards.
    """

    folder: Path

    @contextmanager
    def acquire(self, name: str) -> Iterator[Lease]:
        with self._open(name) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield self._lease(name, file)

    @contextmanager
    def try_acquire(self, name: str) -> Iterator[Lease | None]:
        with self._open(name) as file:
            yield self._lease(name, file) if lock_at_once(file) else None

    def is_held(self, name: str) -> bool:
        try:
            with self._path(name).open("rb") as file:
                return not lock_at_once(file)
        except FileNotFoundError:
            return False

    def is_current(self, lease: Lease) -> bool:
        return self._path(lease.name).stat().st_mtime_ns <= lease.fence

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.lock"

    def _open(self, name: str) -> IO:
        path = self._path(name)
        with writing(path):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                return path.open("a")
            except OSError as error:
                if error.errno == errno.EROFS and path.is_file():
                    return path.open("rb")  # a lock writes nothing
                raise

    def _lease(self, name: str, file: IO) -> Lease:
        fence = max(os.fstat(file.fileno()).st_mtime_ns + 1, time.time_ns())
        with suppress(OSError):
            os.utime(file.fileno(), ns=(fence, fence))
        return Lease(name, process_name(), fence)


def lock_at_once(file: IO | int) -> bool:
    """Whether an open file could be locked at once, for this process alone."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
