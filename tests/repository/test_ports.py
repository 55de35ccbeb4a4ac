"""Ports that tests give their servers."""

import subprocess
import sys
from pathlib import Path

from tests.support.ports import free_ports

ROOT = Path(__file__).parents[2]


def test_no_port_is_given_out_twice_by_two_processes() -> None:
    code = "from tests.support.ports import free_ports; print(*free_ports(300)); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout
    theirs = [int(port) for port in other.stdout.readline().split()]
    ours = [port for _ in range(10) for port in free_ports(30)]
    other.communicate("\n", timeout=60)
    assert len(set(theirs + ours)) == len(theirs) + len(ours) == 600
