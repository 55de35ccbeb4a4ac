"""Which artifacts are being read, so that nobody deletes them meanwhile.

Each artifact stands for one byte of <home>/locks/artifacts.lock, by the hash of its name. A
reader holds its byte shared; who deletes it holds the byte alone (`exclusive`). These are Linux's
open file description locks: they write nothing, so they work on a full disk; any number of them
costs one file descriptor; they die with their holder.

A process holds what it has opened until it ends, or until the block of `reading` ends in which it
was opened. Its children read under its hold, since they die with it.
"""

import errno
import fcntl
import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

FLOCK = "hhqqi0q"  # struct flock of Linux: l_type, l_whence, l_start, l_len, l_pid
OFFSET_BYTES = 7  # an off_t is positive in 63 bits


class Reader:
    """One open file, and the names that are held through it."""

    def __init__(self, home: Path) -> None:
        self.descriptor = _open(home / "locks" / "artifacts.lock")
        self.held: set[str] = set()

    def hold(self, name: str) -> None:
        """Read an artifact from now on; waits for who is deleting it."""
        self._set(fcntl.F_RDLCK, name, fcntl.F_OFD_SETLKW)
        self.held.add(name)

    def take(self, name: str) -> bool:
        """Have an artifact alone; False when somebody else reads it."""
        try:
            self._set(fcntl.F_WRLCK, name, fcntl.F_OFD_SETLK)
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, by the file system
            return False
        return True

    def give_back(self, name: str) -> None:
        """Read as before what was taken."""
        self._set(fcntl.F_RDLCK if name in self.held else fcntl.F_UNLCK, name, fcntl.F_OFD_SETLK)

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)

    def _set(self, kind: int, name: str, command: int) -> None:
        if self.descriptor is None:
            return
        digest = hashlib.sha256(name.encode()).digest()
        start = int.from_bytes(digest[:OFFSET_BYTES], "big")
        request = struct.pack(FLOCK, kind, os.SEEK_SET, start, 1, 0)
        fcntl.fcntl(self.descriptor, command, request)


Readers = dict[tuple[int, Path], Reader]
_of_process: Readers = {}
_readers: ContextVar[Readers] = ContextVar("reading", default=_of_process)


def hold(home: Path, name: str) -> None:
    """Keep an artifact (or one that is about to be made) from being deleted; see above for how
    long."""
    _reader(home).hold(name)


@contextmanager
def reading() -> Iterator[None]:
    """What is opened inside is held until the block ends, not until the process does."""
    inside: Readers = {}
    token = _readers.set(inside)
    try:
        yield
    finally:
        _readers.reset(token)
        for reader in inside.values():
            reader.close()


@contextmanager
def exclusive(home: Path, names: Iterable[str]) -> Iterator[set[str]]:
    """Those of `names` that no other process reads; none begins to until the block ends.

    What this process itself has opened does not count.
    """
    reader = _reader(home)
    taken: set[str] = set()
    try:
        taken |= {name for name in names if reader.take(name)}
        yield taken
    finally:
        for name in taken:
            reader.give_back(name)


def _reader(home: Path) -> Reader:
    # A forked child has its parent's locks in common with it, and must not take them for its own.
    readers, place = _readers.get(), (os.getpid(), home)
    if place not in readers:
        readers[place] = Reader(home)
    return readers[place]


def _open(path: Path) -> int | None:
    """None where the disk can only be read, and nothing can be deleted."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno == errno.EROFS:
            return None
        raise
