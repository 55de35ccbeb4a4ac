"""supervisord and what it keeps alive: slots, gateways, the Dagster UI and its daemon.

It is reached through a unix socket that only its user can open.
"""

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from adire_assets.config.fleet import GATEWAY_PORTS, SLOT_PORTS, FleetConfig
from adire_assets.core import lineage
from adire_assets.core.child_environment import child_environment
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.store import write_bytes
from adire_assets.core.waiting import wait_until
from adire_assets.serving.fleet import guard, orphans, slot
from adire_assets.serving.fleet.needed import needed
from adire_assets.serving.fleet.plain_paths import private_folder
from adire_assets.serving.gateway import routing
from adire_assets.serving.gateway.gateway import Gateway
from adire_assets.serving.slot_server import is_live, server_of

WEB_SECONDS = 120.0
GATEWAY_SECONDS = 30.0
LONGEST_SOCKET = 100  # bytes; the kernel takes 107
SUPERVISOR_SECONDS = 15.0
LOGS = "ADIRE_SUPERVISOR_LOGS"  # in its environment: the folder of its programs' logs
RUNNING = ("STARTING", "RUNNING")
CONFIG = Path(__file__).with_name("supervisord.conf.j2")
GATEWAY = "gateway-"  # what the names of gateways begin with


@dataclass(frozen=True)
class Program:
    """One process of the fleet. `ports`: port -> the key of the fleet file that sets it."""

    name: str
    command: list[str]
    ports: dict[int, str]
    ready: Callable[[], bool]
    seconds: float  # how long it may take to get ready
    serving: bool = True  # needed to answer users
    first: bool = False  # ready before the next one starts
    slot: bool = False  # ready when it serves what the records name, which is asked afterwards
    prepare: Callable[[], object] = lambda: None  # before it starts
    seen: Callable[[], bool] = lambda: True  # whether requests come to it again


def slot_program(target: str, name: str) -> str:
    return f"slot-{target}-{name}"


def programs(project: Project, fleet: FleetConfig) -> list[Program]:
    """The local processes of every target that somebody needs, then Dagster's."""
    found, wanted = [], needed(project, fleet)
    # Slots that compute at the same time share the cores: with more threads than cores, each waits
    # for threads that the other one keeps from running, and a canary looks many times slower. An
    # engine that takes turns with the others has all cores in its own (`guard.turns`).
    threads = max(lineage.threads() // max(len(slot_marks(project, wanted)), 1), 1)
    for target, settings in fleet.targets.items():
        gateway, key = routing.gateway_of(project, fleet, target), f"targets.{target}"
        for name, config in wanted.targets[target].slots.items():
            if config.launch == "remote":
                continue
            arguments = slot.arguments(name, config, target, fleet.device, threads)
            folder = slot.folder(project, target, name, config)
            found.append(
                Program(
                    slot_program(target, name),
                    [sys.executable, *arguments],
                    {getattr(config, port): f"{key}.slots.{name}.{port}" for port in SLOT_PORTS},
                    partial(is_live, config),
                    max(fleet.load_timeout_seconds, server_of(config).start_seconds(folder)),
                    slot=True,
                    seen=partial(_is_seen, project, target, name, gateway),
                )
            )
        if settings.gateway.launch == "local":
            found.append(
                Program(
                    f"{GATEWAY}{target}",
                    gateway.command(),
                    {getattr(gateway.config, one): f"{key}.gateway.{one}" for one in GATEWAY_PORTS},
                    gateway.live,
                    GATEWAY_SECONDS,
                    prepare=gateway.prepare,
                )
            )
        if share := settings.gateway.sample_share:
            found.append(
                Program(
                    f"quality-{target}",
                    # With its share, so that another one is another command, and is started.
                    [sys.executable, "-m", "adire_assets.cli", "quality", target, str(share)],
                    {},
                    lambda: True,
                    WEB_SECONDS,
                    serving=False,
                )
            )
    web, pages, definitions = fleet.dagster, fleet.studio, ["-m", "dagster_defs"]
    address = ["-h", web.host, "-p", str(web.port)]
    found += [
        Program(
            "dagster-webserver",
            [sys.executable, "-m", "dagster_webserver", *definitions, *address],
            {web.port: "dagster.port"},
            lambda: _answers(web.host, web.port),
            WEB_SECONDS,
            serving=False,
            first=True,  # it makes Dagster's databases, which two at a time would make wrong
        ),
        Program(
            "dagster-daemon",
            [sys.executable, "-m", "dagster._daemon", "run", *definitions],
            {},
            lambda: True,
            WEB_SECONDS,
            serving=False,
        ),
        Program(
            "studio",
            [sys.executable, "-m", "adire_assets.cli", "studio"],
            {pages.port: "studio.port"},
            lambda: _answers(pages.host, pages.port),
            WEB_SECONDS,
            serving=False,
        ),
    ]
    return found


def _is_seen(project: Project, target: str, name: str, gateway: Gateway) -> bool:
    """Whether requests for what the slot should hold come to it, also in another slot's place."""
    return gateway.sees(name, slot.held(project, target, name, {}).keys())


def slot_marks(project: Project, fleet: FleetConfig) -> list[str]:
    """The marks of the local slots (see `guard`)."""
    return [
        guard.mark(slot.folder(project, target, name, config))
        for target, settings in fleet.targets.items()
        for name, config in settings.slots.items()
        if config.launch == "local"
    ]


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


# --- supervisord -------------------------------------------------------------------------------


def program_states(project: Project) -> dict[str, dict[str, Any]]:
    """What supervisord says about each of its programs; nothing when it does not run."""
    if not is_running(project):
        return {}
    with connection(project) as rpc:
        return {one["name"]: one for one in rpc.getAllProcessInfo()}


def is_supervised(project: Project, program: str) -> bool:
    """Whether supervisord keeps this program alive, though it may be between two starts."""
    state = program_states(project).get(program, {}).get("statename")
    return state in (*RUNNING, "BACKOFF", "EXITED")


def write_config(project: Project, every: Sequence[Program]) -> None:
    """<home>/fleet/supervisord.conf for these programs."""
    from jinja2 import Template

    folder = project.home / "fleet"
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    places = {
        "socket": _socket(project),
        "pidfile": folder / "supervisord.pid",
        "log": log(project, "supervisord"),
        "folder": project.root,
    }
    text = Template(CONFIG.read_text(encoding="utf-8"), trim_blocks=True).render(
        {name: _place(project, path) for name, path in places.items()},
        root=os.getuid() == 0,
        logs=LOGS,
        stop_seconds=orphans.STOP_SECONDS - 15,
        variable=orphans.PROGRAM,
        # A gateway stops before the slots behind it.
        programs=[
            (one.name, _command(one.command), 900 if one.name.startswith(GATEWAY) else 100)
            for one in every
        ],
    )
    write_bytes(folder / "supervisord.conf", text.encode())


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
