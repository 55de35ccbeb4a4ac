"""What `adire materialize` said, and the processes that it started."""

import re
import socket
import subprocess
import time
from pathlib import Path


def outcome(text: str) -> dict[str, str]:
    """Asset -> "made" or "reused", from what `adire materialize` prints."""
    return dict(re.findall(r"indigo/(\w+): (made|reused)", text))


def made(text: str) -> set[str]:
    return {name for name, what in outcome(text).items() if what == "made"}


def wait_for(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def descendants(parent: int | None, *words: str) -> list[int]:
    """Processes (below `parent`, or anywhere) whose command or environment holds all the words."""
    found = []
    listing = subprocess.run(
        ["ps", "-ewwo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()]
    parents = {int(pid): int(above) for pid, above, *_ in rows}
    for pid, _, *arguments in rows:
        chain, above = set(), int(pid)
        while above in parents and above not in chain:
            chain.add(above)
            above = parents[above]
        if all(word in " ".join(arguments) for word in words) and (
            parent is None or (parent in chain and int(pid) != parent)
        ):
            found.append(int(pid))
    return found
