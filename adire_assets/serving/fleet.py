"""The processes that serve: started, watched and stopped through supervisord.

`up` writes <home>/fleet/supervisord.conf, starts supervisord as a daemon of its own (it survives
the terminal) and waits until the local slot and the Dagster UI answer; it may be repeated at any
time, also after supervisord itself was killed. `down` stops everything and leaves no process and
no shared memory. `status` says what runs. Logs: <home>/fleet/logs/<program>.log.

supervisord is reached through a unix socket that only its user can open; nothing listens beyond
loopback.
"""

import os
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from xmlrpc.client import Fault, ServerProxy

import psutil

from adire_assets.config import Project
from adire_assets.errors import UserError
from adire_assets.fleet_config import FleetConfig
from adire_assets.serving import slot, triton
from adire_assets.serving.orphans import MARK, STOP_SECONDS, end_orphans, require_free_ports
from adire_assets.store import lock

Only = Literal["all", "triton"]
Progress = Callable[[str], None]
LONGEST_SOCKET = 100  # characters; the kernel takes 107
SUPERVISOR_SECONDS = 15.0
WEB_SECONDS = 120.0
RUNNING = ("STARTING", "RUNNING")


@dataclass(frozen=True)
class Program:
    """One process of the fleet. `ports`: port -> the key of the fleet file that sets it."""

    name: str
    command: list[str]
    ports: dict[int, str]
    ready: Callable[[], bool]
    seconds: float  # how long it may take to get ready


DAGSTER_YAML = """\
telemetry:
  enabled: false
nux:
  enabled: false
run_monitoring:
  enabled: true
"""


def programs(project: Project, fleet: FleetConfig) -> list[Program]:
    """What `up` keeps alive: the local slots, the Dagster UI, the Dagster daemon."""
    found = []
    for name, config in fleet.slots.items():
        if config.launch == "local":
            key = f"slots.{name}."
            found.append(
                Program(
                    f"slot-{name}",
                    [sys.executable, *slot.arguments(name, config, fleet.target, fleet.device)],
                    {
                        config.grpc_port: key + "grpc_port",
                        config.http_port: key + "http_port",
                        config.metrics_port: key + "metrics_port",
                    },
                    triton.Control(slot.address(config)).live,
                    fleet.load_timeout_seconds,
                )
            )
    web = fleet.dagster
    host_and_port = ["-h", web.host, "-p", str(web.port)]
    definitions = ["-m", "dagster_defs"]
    found += [
        Program(
            "dagster-webserver",
            [sys.executable, "-m", "dagster_webserver", *definitions, *host_and_port],
            {web.port: "dagster.port"},
            lambda: _answers(web.host, web.port),
            WEB_SECONDS,
        ),
        Program(
            "dagster-daemon",
            [sys.executable, "-m", "dagster._daemon", "run", *definitions],
            {},
            lambda: True,
            WEB_SECONDS,
        ),
    ]
    return found


def up(
    project: Project,
    fleet: FleetConfig,
    *,
    only: Only = "all",
    progress: Progress = lambda message: None,
) -> None:
    """Start what is not running and wait until it is ready.

    `only="triton"` leaves the Dagster UI and daemon as they are. UserError for a busy port (number,
    owner, and the key that sets it), and for a process that does not get ready (its last words).
    """
    every = programs(project, fleet)
    wanted = [item for item in every if only == "all" or item.name.startswith("slot-")]
    with lock(project, "fleet"):
        _write_config(project, every)
        if not _supervisor_answers(project):
            end_orphans(project, fleet)
            require_free_ports(_ports(wanted))
            _start_supervisor(project)
        with _supervisor(project) as rpc:
            _update(rpc)
            idle = [item for item in wanted if not _runs(rpc, item.name)]
            require_free_ports(_ports(idle))
            for item in idle:
                with suppress(Fault):  # one that supervisord would try again later
                    rpc.stopProcess(item.name)
                progress(f"starting {item.name}")
                rpc.startProcess(item.name, False)
            for item in wanted:
                _wait_ready(project, rpc, item)
                progress(f"{item.name} is ready")
    for name, config in fleet.slots.items():
        if config.launch == "remote":
            triton.Control(slot.address(config)).require()
            progress(f"slot {name} answers at {slot.address(config)}")


def down(
    project: Project, fleet: FleetConfig, *, progress: Progress = lambda message: None
) -> None:
    """Stop every process of the fleet, also what a killed supervisord left behind."""
    with lock(project, "fleet"):
        if _supervisor_answers(project):
            progress("stopping the fleet")
            with _supervisor(project) as rpc:
                pid = rpc.getPID()
                rpc.shutdown()
            _wait_gone(pid, STOP_SECONDS)
        end_orphans(project, fleet)


def status(project: Project, fleet: FleetConfig) -> list[dict[str, Any]]:
    """One row per process: {"name", "state", "pid", "ports", "ready", "log"}.

    `state` is supervisord's ("RUNNING", "BACKOFF", ...), "STOPPED" when supervisord does not run,
    and "REMOTE" for a slot that is not ours to start.
    """
    states: dict[str, dict[str, Any]] = {}
    if _supervisor_answers(project):
        with _supervisor(project) as rpc:
            states = {info["name"]: info for info in rpc.getAllProcessInfo()}
    rows = []
    for item in programs(project, fleet):
        info = states.get(item.name, {"statename": "STOPPED", "pid": 0})
        runs = info["statename"] == "RUNNING"
        rows.append(
            {
                "name": item.name,
                "state": info["statename"],
                "pid": info["pid"] or None,
                "ports": sorted(item.ports),
                "ready": runs and item.ready(),
                "log": str(_log(project, item.name)),
            }
        )
    for name, config in fleet.slots.items():
        if config.launch == "remote":
            row = {"name": f"slot-{name}", "state": "REMOTE", "pid": None, "log": None}
            ready = triton.Control(slot.address(config)).live()
            rows.append({**row, "ports": [config.grpc_port], "ready": ready})
    return rows


def dagster_home(project: Project) -> Path:
    """<home>/dagster with its dagster.yaml, made when it is missing."""
    folder = project.home / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "dagster.yaml").exists():
        (folder / "dagster.yaml").write_text(DAGSTER_YAML, encoding="utf-8")
    return folder


def is_supervised(project: Project, program: str) -> bool:
    """Whether supervisord keeps this program alive, though it may be between two starts."""
    if not _supervisor_answers(project):
        return False
    with _supervisor(project) as rpc:
        states = {item["name"]: item["statename"] for item in rpc.getAllProcessInfo()}
    return states.get(program) in (*RUNNING, "BACKOFF", "EXITED")


# --- supervisord -------------------------------------------------------------------------------


def _write_config(project: Project, every: list[Program]) -> None:
    folder = project.home / "fleet"
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    dagster_home(project)
    path = _socket(project)
    lines = [
        "; written by `adire up`",
        "[unix_http_server]",
        f"file = {_escaped(str(path))}",
        "chmod = 0700",
        "[supervisord]",
        f"pidfile = {_escaped(str(folder / 'supervisord.pid'))}",
        f"logfile = {_escaped(str(_log(project, 'supervisord')))}",
        f"directory = {_escaped(str(project.root))}",
        *(["user = root"] if os.getuid() == 0 else []),
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
    ]
    for item in every:
        lines += [
            f"[program:{item.name}]",
            f"command = {_escaped(shlex.join(item.command))}",
            "autostart = false",
            "autorestart = true",
            "startretries = 1000000",
            "startsecs = 3",
            f"stopwaitsecs = {STOP_SECONDS - 15}",
            "killasgroup = true",
            "redirect_stderr = true",
            f"stdout_logfile = {_escaped(str(_log(project, item.name)))}",
            "stdout_logfile_maxbytes = 10MB",
            "stdout_logfile_backups = 2",
        ]
    (folder / "supervisord.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _start_supervisor(project: Project) -> None:
    folder = project.home / "fleet"
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(folder / "supervisord.conf")],
        cwd=project.root,
        env={
            **os.environ,
            MARK: str(project.home),
            "ADIRE_PROJECT": str(project.root),
            "ADIRE_HOME": str(project.home),
            "DAGSTER_HOME": str(project.home / "dagster"),
        },
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode or not triton.wait_until(
        lambda: _supervisor_answers(project), SUPERVISOR_SECONDS
    ):
        raise UserError(
            f"supervisord did not start: {(done.stderr or done.stdout).strip()[-500:]}; its log is "
            f"{_log(project, 'supervisord')}"
        )


def _update(rpc: Any) -> None:
    """Let a running supervisord take over what has changed in its configuration."""
    [[added, changed, removed]] = rpc.reloadConfig()
    for name in (*changed, *removed):
        rpc.stopProcessGroup(name)
        rpc.removeProcessGroup(name)
    for name in (*added, *changed):
        rpc.addProcessGroup(name)


def _ports(wanted: list[Program]) -> dict[int, str]:
    return {port: key for item in wanted for port, key in item.ports.items()}


def _runs(rpc: Any, name: str) -> bool:
    return rpc.getProcessInfo(name)["statename"] in RUNNING


def _wait_ready(project: Project, rpc: Any, item: Program) -> None:
    def ready() -> bool:
        return rpc.getProcessInfo(item.name)["statename"] == "RUNNING" and item.ready()

    if not triton.wait_until(ready, item.seconds, alive=lambda: _runs(rpc, item.name)):
        log = _log(project, item.name)
        last = log.read_text(errors="replace").splitlines()[-3:] if log.is_file() else []
        with suppress(Fault):  # it may have ended by itself
            rpc.stopProcess(item.name)
        raise UserError(f"{item.name} did not get ready: {' | '.join(last)}; its log is {log}")


@contextmanager
def _supervisor(project: Project) -> Iterator[Any]:
    from supervisor.xmlrpc import SupervisorTransport

    transport = SupervisorTransport(serverurl=f"unix://{_socket(project)}")
    with ServerProxy("http://127.0.0.1", transport) as proxy:
        yield proxy.supervisor


def _supervisor_answers(project: Project) -> bool:
    try:
        with _supervisor(project) as rpc:
            return bool(rpc.getState()["statename"] == "RUNNING")
    except OSError:
        return False


def _socket(project: Project) -> Path:
    """The socket below the home, or in a private folder when that path is too long for one."""
    path = project.home / "fleet" / "supervisor.sock"
    if len(str(path)) <= LONGEST_SOCKET:
        return path
    home = sha256(str(project.home).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"adire-{os.getuid()}-{home}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.is_symlink():
        raise UserError(f"{folder} belongs to somebody else; set ADIRE_HOME to a shorter path")
    return folder / "supervisor.sock"


def _wait_gone(pid: int, seconds: float) -> None:
    try:
        psutil.Process(pid).wait(seconds)
    except psutil.NoSuchProcess:
        return
    except psutil.TimeoutExpired:
        raise UserError(
            f"the fleet's supervisord (pid {pid}) is still stopping after {seconds} s"
        ) from None


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


def _log(project: Project, program: str) -> Path:
    return project.home / "fleet" / "logs" / f"{program}.log"


def _escaped(text: str) -> str:
    """supervisord expands %(name)s."""
    return text.replace("%", "%%")
