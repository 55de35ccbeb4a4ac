"""Ports for servers that tests start: each is given out once among all processes of this machine.

A port that the kernel offers for the asking is free again before the server takes it, and another
process may be faster. These lie below the kernel's own range for clients, and each is reserved by a
lock for as long as the test process lives.
"""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

FIRST, LAST = 12_000, 31_999
_reserved: list[int] = []  # descriptors of locked files; closing one would give its port away


def free_ports(count: int) -> list[int]:
    """`count` different ports of 127.0.0.1 that nobody listens on and no other test gets."""
    folder = Path(tempfile.gettempdir()) / "adire-test-ports"
    folder.mkdir(exist_ok=True)
    found: list[int] = []
    for port in random.SystemRandom().sample(range(FIRST, LAST + 1), LAST - FIRST + 1):
        if len(found) == count:
            break
        descriptor = os.open(folder / str(port), os.O_CREAT | os.O_RDWR, 0o666)
        if _locked(descriptor) and _free(port):
            _reserved.append(descriptor)
            found.append(port)
        else:
            os.close(descriptor)
    return found


def free_port() -> int:
    """One of `free_ports`."""
    [port] = free_ports(1)
    return port


def listens(port: int) -> bool:
    """Whether something takes connections at this port of 127.0.0.1."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
