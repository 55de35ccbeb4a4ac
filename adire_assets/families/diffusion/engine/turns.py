"""The engines of a machine compute one after another, a pass each."""

import fcntl
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import IO

TURN_SECONDS = 120.0  # longer than a pass takes


class Turns(AbstractContextManager):
    """What several processes do one after another, in about the order in which they ask.

    Nobody waits for long: a process that hangs in its turn must not hang the others. Who has waited
    for `seconds` goes on without a turn, tells `say` so, and does not wait again until one could be
    had at once.
    """

    def __init__(
        self, path: Path, say: Callable[[str], None] = print, seconds: float = TURN_SECONDS
    ) -> None:
        self.next = path.with_name(f"{path.name}.next").open("a")
        self.now = path.open("a")
        self.say, self.seconds = say, seconds
        self.waits = True

    def __enter__(self) -> None:
        # One waits for the turn, all others for its place: who has just had one comes after them.
        end = time.monotonic() + self.seconds * self.waits
        had = _locked(self.next, end) and _locked(self.now, end)
        fcntl.flock(self.next, fcntl.LOCK_UN)
        if self.waits and not had:
            self.say(
                f"another engine has had its turn for {self.seconds:g} s: no turns are taken now"
            )
        self.waits = had

    def __exit__(self, *error: object) -> None:
        fcntl.flock(self.now, fcntl.LOCK_UN)


def _locked(file: IO[str], end: float) -> bool:
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
