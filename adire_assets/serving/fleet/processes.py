"""The processes that serve: started, watched and stopped through supervisord.

`up` writes <home>/fleet/supervisord.conf, starts supervisord as a daemon of its own (it survives
the terminal) and waits until slots, gateways, the Dagster UI and the studio answer; it may be
repeated at any time, also after supervisord itself was killed. `down` stops everything and leaves
no process and no shared memory. `status` says what runs. Logs: <home>/fleet/logs/<program>.log.

supervisord is reached through a unix socket that only its user can open; nothing listens beyond
loopback.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from xmlrpc.client import Fault

import psutil

from adire_assets.config.fleet import FleetConfig
from adire_assets.core.disk import require_room
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.store import write_bytes
from adire_assets.core.waiting import wait_until
from adire_assets.serving import answer_keys
from adire_assets.serving.fleet import guard, orphans, served_releases, supervisor
from adire_assets.serving.fleet.needed import needed
from adire_assets.serving.fleet.supervisor import Program, programs, slot_marks, slot_program
from adire_assets.serving.gateway import routing
from adire_assets.serving.slot_server import address, is_live, server_of

Only = Literal["all", "serving"]
Progress = Callable[[str], None]
SEEN_SECONDS = 10.0
DAGSTER_YAML = Path(__file__).with_name("dagster.yaml")


def _silent(message: str) -> None:
    """For those who want to hear nothing."""


def up(
    project: Project, fleet: FleetConfig, *, only: Only = "all", progress: Progress = _silent
) -> None:
    """Start what is not running and wait until it is ready.

    `only="serving"` leaves Dagster and the studio as they are. After supervisord itself was
    killed, what it has left goes on serving and is taken over one process at a time. UserError for
    a busy port (number, owner, and the key that sets it), for a process that does not get ready
    (its last words), and when all run and a release that a record names does not answer (why).
    """
    every = programs(project, fleet)
    wanted = [item for item in every if only == "all" or item.serving]
    require_room(project.home)
    with project.locks.acquire("fleet"):
        dagster_home(project)
        answer_keys.ensure(project)
        supervisor.write_config(project, every)
        left: set[str] = set()
        if not supervisor.is_running(project):
            left = orphans.running_programs(project)
            fresh = [item for item in wanted if item.name not in left]
            orphans.require_free_ports(_ports(fresh))
            supervisor.start(project)
        with supervisor.connection(project) as rpc:
            supervisor.update(rpc)
            idle = [item for item in wanted if not supervisor.runs_program(rpc, item.name)]
            fresh = [item for item in idle if item.name not in left]
            orphans.require_free_ports(_ports(fresh))
            for item in fresh:
                with suppress(Fault):  # one that supervisord would try again later
                    rpc.stopProcess(item.name)
                progress(f"starting {item.name}")
                item.prepare()
                rpc.startProcess(item.name, False)
                if item.first:
                    _wait_ready(project, rpc, item)
            for item in (item for item in wanted if item.name not in left):
                _wait_ready(project, rpc, item)
                if not item.slot:
                    progress(f"{item.name} is ready")
            for item in (item for item in idle if item.name in left):
                progress(f"taking over {item.name}")
                orphans.terminate(project, item.name)
                item.prepare()
                rpc.startProcess(item.name, False)
                _wait_ready(project, rpc, item)
                # The next one to go may be what stands in for this one.
                wait_until(item.seen, SEEN_SECONDS)
    for name, target in needed(project, fleet).targets.items():
        for slot_name, config in target.slots.items():
            if config.launch == "remote":
                server_of(config).require_live(config, 5)
                progress(f"slot {slot_name} of {name} answers at {address(config)}")
        routing.publish(project, fleet, name)
    _require_served(project, fleet, progress)


def _require_served(project: Project, fleet: FleetConfig, progress: Progress) -> None:
    """`NotServed` unless every slot, and then every gateway, answers with what the records name."""
    wrong: list[str] = []
    for name, target in needed(project, fleet).targets.items():
        for slot_name in target.slots:
            found = served_releases.unserved_releases(project, fleet, name, slot_name)
            program = slot_program(name, slot_name)
            progress(f"{program} {'runs and does not serve' if found else 'is ready'}")
            wrong += found
        if not wrong:
            served_releases.require_live_answers(project, fleet, name)
    if wrong:
        raise served_releases.NotServed("\n".join(wrong))


def down(project: Project, fleet: FleetConfig) -> None:
    """Stop every process of the fleet, also what a killed supervisord left behind."""
    with project.locks.acquire("fleet"):
        if supervisor.is_running(project):
            with supervisor.connection(project) as rpc:
                pid = rpc.getPID()
                supervisor.stop_all(rpc)
                rpc.shutdown()
            if not wait_until(lambda: not psutil.pid_exists(pid), orphans.STOP_SECONDS):
                raise UserError(
                    f"the fleet's supervisord (pid {pid}) is still stopping after "
                    f"{orphans.STOP_SECONDS} s"
                )
        orphans.terminate(project)
        for prefix in slot_marks(project, fleet):
            guard.remove_remains(prefix)


def status(project: Project, fleet: FleetConfig) -> list[dict[str, Any]]:
    """One row per process: {"name", "state", "pid", "ports", "ready", "log"}.

    `state` is supervisord's ("RUNNING", "BACKOFF", ...), "STOPPED" when supervisord does not run,
    and "REMOTE" for a slot that is not ours to start. "UNGUARDED": it runs, but the supervisord
    that would start it again is gone.
    """
    states = supervisor.program_states(project)
    left = set() if states else orphans.running_programs(project)
    rows = []
    for item in programs(project, fleet):
        unknown = {"statename": "UNGUARDED" if item.name in left else "STOPPED", "pid": 0}
        info = states.get(item.name, unknown)
        state, log = info["statename"], str(supervisor.log(project, item.name))
        ready = state in ("RUNNING", "UNGUARDED") and item.ready()
        row = {"name": item.name, "state": state, "pid": info["pid"] or None, "log": log}
        rows.append({**row, "ports": sorted(item.ports), "ready": ready})
    for target, settings in needed(project, fleet).targets.items():
        for name, config in settings.slots.items():
            if config.launch == "remote":
                row = {"name": slot_program(target, name), "state": "REMOTE", "pid": None}
                ports = [int(address(config).rpartition(":")[2])]
                rows.append({**row, "log": None, "ports": ports, "ready": is_live(config)})
    return rows


def dagster_home(project: Project) -> Path:
    """<home>/dagster with its dagster.yaml, made when it is missing."""
    folder = project.home / "dagster"
    if not (folder / "dagster.yaml").exists():
        write_bytes(folder / "dagster.yaml", DAGSTER_YAML.read_bytes())
    return folder


def _ports(wanted: Sequence[Program]) -> dict[int, str]:
    return {port: key for item in wanted for port, key in item.ports.items()}


def _wait_ready(project: Project, rpc: Any, item: Program) -> None:
    def ready() -> bool:
        return rpc.getProcessInfo(item.name)["statename"] == "RUNNING" and item.ready()

    if not wait_until(ready, item.seconds, alive=lambda: supervisor.runs_program(rpc, item.name)):
        with suppress(Fault):  # it may have ended by itself
            rpc.stopProcess(item.name)
        why = served_releases.last_error(project, item.name) or "it said nothing"
        raise UserError(
            f"{item.name} did not get ready: {why}; its log is {supervisor.log(project, item.name)}"
        )
