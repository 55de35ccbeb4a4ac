"""What `adire up` keeps alive: slots, gateways, the Dagster UI and its daemon."""

import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from adire_assets.config.fleet import GATEWAY_PORTS, SLOT_PORTS, FleetConfig
from adire_assets.core import lineage
from adire_assets.core.project import Project
from adire_assets.serving.fleet import guard, slot
from adire_assets.serving.gateway import routing
from adire_assets.serving.slot_server import is_live

WEB_SECONDS = 120.0
GATEWAY_SECONDS = 30.0


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
    """The local processes of every target, then Dagster's."""
    found = []
    # Slots that compute at the same time share the cores: with more threads than cores, each waits
    # for threads that the other one keeps from running, and a canary looks many times slower.
    threads = max(lineage.threads() // max(len(slot_marks(project, fleet)), 1), 1)
    for target, settings in fleet.targets.items():
        gateway = routing.gateway_of(project, fleet, target)
        local = settings.gateway.launch == "local"
        for name, config in settings.slots.items():
            if config.launch == "local":
                key = f"targets.{target}.slots.{name}."
                found.append(
                    Program(
                        slot_program(target, name),
                        [
                            sys.executable,
                            *slot.arguments(name, config, target, fleet.device, threads),
                        ],
                        {getattr(config, port): key + port for port in SLOT_PORTS},
                        partial(is_live, config),
                        fleet.load_timeout_seconds,
                        slot=True,
                        seen=partial(gateway.sees, name),
                    )
                )
        if local:
            key = f"targets.{target}.gateway."
            found.append(
                Program(
                    f"gateway-{target}",
                    gateway.command(),
                    {getattr(settings.gateway, port): key + port for port in GATEWAY_PORTS},
                    gateway.live,
                    GATEWAY_SECONDS,
                    prepare=gateway.prepare,
                )
            )
    web = fleet.dagster
    definitions = ["-m", "dagster_defs"]
    found += [
        Program(
            "dagster-webserver",
            [
                *(sys.executable, "-m", "dagster_webserver", *definitions),
                *("-h", web.host, "-p", str(web.port)),
            ],
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
    ]
    return found


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
