"""supervisord, as the fleet uses it: its configuration, its start, and the socket to it.

It is reached through a unix socket that only its user can open.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from adire_assets.core.child_environment import child_environment
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.store import write_bytes
from adire_assets.core.waiting import wait_until
from adire_assets.serving.fleet import orphans
from adire_assets.serving.fleet.plain_paths import private_folder
from adire_assets.serving.fleet.programs import Program

LONGEST_SOCKET = 100  # bytes; the kernel takes 107
SUPERVISOR_SECONDS = 15.0
LOGS = "ADIRE_SUPERVISOR_LOGS"  # in its environment: the folder of its programs' logs
RUNNING = ("STARTING", "RUNNING")
GATEWAY = "gateway-"  # what the names of gateways begin with


def is_supervised(project: Project, program: str) -> bool:
    """Whether supervisord keeps this program alive, though it may be between two starts."""
    if not is_running(project):
        return False
    with connection(project) as rpc:
        states = {item["name"]: item["statename"] for item in rpc.getAllProcessInfo()}
    return states.get(program) in (*RUNNING, "BACKOFF", "EXITED")


def write_config(project: Project, every: Sequence[Program]) -> None:
    """<home>/fleet/supervisord.conf for these programs."""
    folder = project.home / "fleet"
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    lines = [
        "; written by `adire up`",
        "[unix_http_server]",
        f"file = {_place(project, _socket(project))}",
        "chmod = 0700",
        "[supervisord]",
        f"pidfile = {_place(project, folder / 'supervisord.pid')}",
        f"logfile = {_place(project, log(project, 'supervisord'))}",
        f"directory = {_place(project, project.root)}",
        *(["user = root"] if os.getuid() == 0 else []),
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
    ]
    for item in every:
        lines += [
            f"[program:{item.name}]",
            f"command = {_command(item.command)}",
            # A gateway stops before the slots behind it.
            f"priority = {900 if item.name.startswith(GATEWAY) else 100}",
            "autostart = false",
            "autorestart = true",
            "startretries = 1000000",
            "startsecs = 3",
            f"stopwaitsecs = {orphans.STOP_SECONDS - 15}",
            "killasgroup = true",
            f'environment = {orphans.PROGRAM}="{item.name}"',
            "redirect_stderr = true",
            f"stdout_logfile = %(ENV_{LOGS})s/{log(project, item.name).name}",
            "stdout_logfile_maxbytes = 10MB",
            "stdout_logfile_backups = 2",
        ]
    write_bytes(folder / "supervisord.conf", ("\n".join(lines) + "\n").encode())


def start(project: Project) -> None:
    """Start it as a daemon. UserError with its own words when that fails."""
    folder = project.home / "fleet"
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(folder / "supervisord.conf")],
        cwd=project.root,
        env=child_environment(
            ADIRE_PROJECT=str(project.root),
            ADIRE_HOME=str(project.home),
            DAGSTER_HOME=str(project.home / "dagster"),
        )
        | {
            orphans.MARK: str(project.home),
            # It expands the value of stdout_logfile a second time.
            LOGS: _escaped(str(log(project, "supervisord").parent)),
        },
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode or not wait_until(lambda: is_running(project), SUPERVISOR_SECONDS):
        raise UserError(
            f"supervisord did not start: {(done.stderr or done.stdout).strip()[-500:]}; its log is "
            f"{log(project, 'supervisord')}"
        )


def update(rpc: Any) -> None:
    """Let a running supervisord take over what has changed in its configuration."""
    [[added, changed, removed]] = rpc.reloadConfig()
    for name in (*changed, *removed):
        rpc.stopProcessGroup(name)
        rpc.removeProcessGroup(name)
    for name in (*added, *changed):
        rpc.addProcessGroup(name)


def runs_program(rpc: Any, name: str) -> bool:
    return rpc.getProcessInfo(name)["statename"] in RUNNING


def stop_all(rpc: Any) -> None:
    """Stop its programs: the gateways first, then the rest together.

    Its own shutdown waits for one after the other.
    """
    for name in (info["name"] for info in rpc.getAllProcessInfo()):
        if name.startswith(GATEWAY):
            with suppress(Fault):  # it does not run
                rpc.stopProcess(name)
    rpc.stopAllProcesses()


@contextmanager
def connection(project: Project) -> Iterator[Any]:
    """Its remote procedures; OSError when it does not run."""
    from supervisor.xmlrpc import SupervisorTransport

    transport = SupervisorTransport(serverurl=f"unix://{_socket(project)}")
    with ServerProxy("http://127.0.0.1", transport) as proxy:
        yield proxy.supervisor


def is_running(project: Project) -> bool:
    try:
        with connection(project) as rpc:
            return bool(rpc.getState()["statename"] == "RUNNING")
    except OSError:
        return False


def _socket(project: Project) -> Path:
    """The socket below the home, or in a private folder when that path is too long for one."""
    path = project.home / "fleet" / "supervisor.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET:
        return path
    return private_folder(project.home) / "supervisor.sock"


def log(project: Project, program: str) -> Path:
    return project.home / "fleet" / "logs" / f"{program}.log"


def _place(project: Project, path: Path) -> str:
    """A path as a value of its configuration.

    The folders come from its environment: written out, a # or ; in a name would begin a comment.
    """
    for name, folder in (("ADIRE_HOME", project.home), ("ADIRE_PROJECT", project.root)):
        if path.is_relative_to(folder):
            rest = "" if path == folder else f"/{_escaped(str(path.relative_to(folder)))}"
            return f"%(ENV_{name})s{rest}"
    return _escaped(str(path))


def _command(words: Sequence[str]) -> str:
    """A command line, which it splits as a shell does; no # or ; in it begins a comment."""
    return _escaped(re.sub(r"(\s)([#;])", r"\1''\2", shlex.join(words)))


def _escaped(text: str) -> str:
    """supervisord expands %(name)s."""
    return text.replace("%", "%%")
