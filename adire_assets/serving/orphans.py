"""What may be in the way of a fleet that starts: taken ports, and what a killed supervisord left.

Every process of a fleet carries its home in the environment, and is known by that alone.
"""

import os
import signal
import socket
from collections.abc import Mapping

import psutil

from adire_assets.config import Project
from adire_assets.errors import UserError
from adire_assets.fleet_config import FleetConfig
from adire_assets.serving import guard, slot, triton

MARK = "ADIRE_FLEET_HOME"  # in the environment of every process of a fleet: whose it is
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
                    "configs/fleet.yaml to a free port"
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


def end_orphans(project: Project, fleet: FleetConfig) -> None:
    """End what a killed supervisord of this home has left, servers first asked, then killed."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    ours = {
        process.pid: process
        for process in psutil.process_iter()
        if process.pid not in own and _marked(process, project)
    }
    # Only the outermost are asked; each stops what it has started.
    outermost = [process for process in ours.values() if _parent(process) not in ours]
    for process in outermost:
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(outermost, timeout=STOP_SECONDS)
    for process in alive:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=10)
    for name, config in fleet.slots.items():
        if config.launch == "local":
            guard.clean(triton.shm_prefix(slot.folder(project, name, config)))


def _marked(process: psutil.Process, project: Project) -> bool:
    try:
        return process.environ().get(MARK) == str(project.home)
    except (psutil.Error, OSError):
        return False


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        return
