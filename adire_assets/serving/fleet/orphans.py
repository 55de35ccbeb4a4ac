"""What may be in the way of a fleet that starts: taken ports, and what a killed supervisord left.

Every process of a fleet carries its home in the environment, and is known by that alone.
"""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

import psutil

from adire_assets.config.fleet import fleet_file_name
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.serving.fleet import guard

MARK = "ADIRE_FLEET_HOME"  # in the environment of every process of a fleet: whose it is
PROGRAM = "ADIRE_PROGRAM"  # which of its programs it belongs to
STOP_SECONDS = 60  # more than a slot takes to drain and clean


def require_free_ports(ports: Mapping[int, str]) -> None:
    """UserError for a port that is taken; `ports` names the key of the fleet file that sets it."""
    for port, key in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                raise UserError(
                    f"port {port} is in use{_owner(port)}; end that process, or set {key} in "
                    f"{fleet_file_name()} to a free port"
                ) from None


def _owner(port: int) -> str:
    for connection in psutil.net_connections(kind="tcp"):
        if connection.laddr and connection.laddr.port == port and connection.pid:
            try:
                name = psutil.Process(connection.pid).name()
            except psutil.Error:
                name = "a process"
            return f" by {name} (pid {connection.pid})"
    return " by a process of another user"


def running_programs(project: Project) -> set[str]:
    """The names of the fleet's programs that run on this machine."""
    return {name for process in _ours(project) if (name := guard.variable(process, PROGRAM))}


def terminate(project: Project, program: str | None = None) -> None:
    """End a program, or the whole fleet of this home: first asked, then killed."""
    ours = {
        process.pid: process
        for process in _ours(project)
        if program in (None, guard.variable(process, PROGRAM))
    }
    # Only the outermost are asked; each stops what it has started.
    outermost = [process for process in ours.values() if _parent(process) not in ours]
    for process in outermost:
        with suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(outermost, timeout=STOP_SECONDS)
    guard.kill(alive)


def _ours(project: Project) -> list[psutil.Process]:
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    ours = guard.with_variable(MARK, str(project.home))
    return [process for process in ours if process.pid not in own]


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None
