"""The processes that serve: started, watched and stopped through supervisord.

`up` writes <home>/fleet/supervisord.conf, starts supervisord as a daemon of its own (it survives
the terminal) and waits until slots, gateways and the Dagster UI answer; it may be repeated at any
time, also after supervisord itself was killed. `down` stops everything and leaves no process and
no shared memory. `status` says what runs. Logs: <home>/fleet/logs/<program>.log.

supervisord is reached through a unix socket that only its user can open; nothing listens beyond
loopback.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from xmlrpc.client import Fault, ServerProxy

import psutil

from adire_assets.config import Project
from adire_assets.errors import UserError
from adire_assets.fleet_config import FleetConfig
from adire_assets.serving import guard, orphans, routing, slot, triton
from adire_assets.serving.programs import Program, programs, shared_memory, slot_program
from adire_assets.store import lock

Only = Literal["all", "serving"]
Progress = Callable[[str], None]
LONGEST_SOCKET = 100  # characters; the kernel takes 107
SUPERVISOR_SECONDS = 15.0
SEEN_SECONDS = 10.0
RUNNING = ("STARTING", "RUNNING")


DAGSTER_YAML = """\
telemetry:
  enabled: false
nux:
  enabled: false
run_monitoring:
  enabled: true
"""


def up(
    project: Project,
    fleet: FleetConfig,
    *,
    only: Only = "all",
    progress: Progress = lambda message: None,
) -> None:
    """Start what is not running and wait until it is ready.

    `only="serving"` leaves the Dagster UI and daemon as they are. After supervisord itself was
    killed, what it has left goes on serving and is taken over one process at a time. UserError for
    a busy port (number, owner, and the key that sets it), and for a process that does not get ready
    (its last words).
    """
    every = programs(project, fleet)
    wanted = [item for item in every if only == "all" or item.serving]
    with lock(project, "fleet"):
        _write_config(project, every)
        left: set[str] = set()
        if not _supervisor_answers(project):
            left = orphans.programs(project)
            fresh = [item for item in wanted if item.name not in left]
            orphans.require_free_ports(_ports(fresh))
            _start_supervisor(project)
        with _supervisor(project) as rpc:
            _update(rpc)
            idle = [item for item in wanted if not _runs(rpc, item.name)]
            fresh = [item for item in idle if item.name not in left]
            orphans.require_free_ports(_ports(fresh))
            for item in fresh:
                with suppress(Fault):  # one that supervisord would try again later
                    rpc.stopProcess(item.name)
                progress(f"starting {item.name}")
                item.prepare()
                rpc.startProcess(item.name, False)
            for item in (item for item in wanted if item.name not in left):
                _wait_ready(project, rpc, item)
                progress(f"{item.name} is ready")
            for item in (item for item in idle if item.name in left):
                progress(f"taking over {item.name}")
                orphans.end(project, item.name)
                item.prepare()
                rpc.startProcess(item.name, False)
                _wait_ready(project, rpc, item)
                # The next one to go may be what stands in for this one.
                triton.wait_until(item.seen, SEEN_SECONDS)
    for name, target in fleet.targets.items():
        for slot_name, config in target.slots.items():
            if config.launch == "remote":
                triton.Control(slot.address(config)).require()
                progress(f"slot {slot_name} of {name} answers at {slot.address(config)}")
        routing.publish(project, fleet, name)


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
            _wait_gone(pid, orphans.STOP_SECONDS)
        orphans.end(project)
        for prefix in shared_memory(project, fleet):
            guard.clean(prefix)


def status(project: Project, fleet: FleetConfig) -> list[dict[str, Any]]:
    """One row per process: {"name", "state", "pid", "ports", "ready", "log"}.

    `state` is supervisord's ("RUNNING", "BACKOFF", ...), "STOPPED" when supervisord does not run,
    and "REMOTE" for a slot that is not ours to start. "UNGUARDED": it runs, but the supervisord
    that would start it again is gone.
    """
    states: dict[str, dict[str, Any]] = {}
    if _supervisor_answers(project):
        with _supervisor(project) as rpc:
            states = {info["name"]: info for info in rpc.getAllProcessInfo()}
    left = set() if states else orphans.programs(project)
    rows = []
    for item in programs(project, fleet):
        stopped = "UNGUARDED" if item.name in left else "STOPPED"
        info = states.get(item.name, {"statename": stopped, "pid": 0})
        runs = info["statename"] in ("RUNNING", "UNGUARDED")
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
    for target, settings in fleet.targets.items():
        for name, config in settings.slots.items():
            if config.launch == "remote":
                row = {"name": slot_program(target, name), "state": "REMOTE", "pid": None}
                ready = triton.Control(slot.address(config)).live()
                rows.append({**row, "log": None, "ports": [config.grpc_port], "ready": ready})
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
            # The door is closed before what is behind it.
            f"priority = {900 if item.name.startswith('gateway-') else 100}",
            "autostart = false",
            "autorestart = true",
            "startretries = 1000000",
            "startsecs = 3",
            f"stopwaitsecs = {orphans.STOP_SECONDS - 15}",
            "killasgroup = true",
            f'environment = {orphans.PROGRAM}="{item.name}"',
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
            orphans.MARK: str(project.home),
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


def _ports(wanted: Sequence[Program]) -> dict[int, str]:
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


def _log(project: Project, program: str) -> Path:
    return project.home / "fleet" / "logs" / f"{program}.log"


def _escaped(text: str) -> str:
    """supervisord expands %(name)s."""
    return text.replace("%", "%%")
