"""Whether a release answers the evaluated requests as it was evaluated.

`compare_on_scratch_server` loads the release on a server of its own, which no user's request can
reach; `compare_in_idle_slot` into a slot that runs and serves nobody, where starting another server
would take minutes; `compare_at` asks a server that has it. How many requests are repeated, and how
far an answer may differ, the family says.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from adire_assets.config.fleet import SLOT_PORTS, FleetConfig, SlotConfig
from adire_assets.core import lineage
from adire_assets.core.child_environment import child_environment
from adire_assets.core.errors import UserError
from adire_assets.core.folders import temporary_folder
from adire_assets.core.project import Project
from adire_assets.core.store import Store
from adire_assets.core.waiting import wait_until
from adire_assets.serving import record, release
from adire_assets.serving.client import ask
from adire_assets.serving.fleet import guard
from adire_assets.serving.fleet.slot_client import SlotClient
from adire_assets.serving.release import ReleaseRecord
from adire_assets.serving.slot_server import (
    address,
    is_live,
    kind_speaking,
    server_named,
    server_of,
    slots_speaking,
)

LOAD_SECONDS = 600.0


def compare_on_scratch_server(
    project: Project, wanted: ReleaseRecord, device: str, progress: Callable[[str], None]
) -> dict[str, Any]:
    """{passed, explanation, device, software}, and what else the family measures, as JSON.

    `software` is what the release says that it answers with (see `gates.upgrades`).
    `device` is "cpu", "cuda" or "auto". UserError when the release does not load, or refuses an
    evaluated request.
    """

    def fill(slot: Path) -> str:
        release.install(project, wanted, slot)
        return wanted.model

    kind = kind_speaking(release.family_of_release(project, wanted).protocols)
    progress(f"loading release {wanted.number} of {wanted.model} on a scratch server ({kind})")
    with scratch_server(project, kind, device, fill, LOAD_SECONDS) as place:
        return compare_at(project, wanted, place, progress)


def compare_in_idle_slot(
    project: Project, fleet: FleetConfig, wanted: ReleaseRecord, progress: Callable[[str], None]
) -> dict[str, Any] | None:
    """The same, beside what an idle slot holds; None where no slot of a slow kind is idle."""
    protocols = release.family_of_release(project, wanted).protocols
    content = Store(project).open(wanted.repository).path
    for target, settings in fleet.targets.items():
        state = record.read(project, target, wanted.model)
        for name in slots_speaking(settings.slots, protocols) if not state.rollout else ():
            config = settings.slots[name]
            is_slow = bool(server_of(config).start_seconds(content))
            if name == state.active or not is_slow or not is_live(config):
                continue
            progress(f"loading release {wanted.number} of {wanted.model} into idle slot {name}")
            with SlotClient(project, fleet, target, name).lent(wanted) as place:
                return compare_at(project, wanted, place, progress)
    return None


def compare_at(
    project: Project, wanted: ReleaseRecord, address: str, progress: Callable[[str], None]
) -> dict[str, Any]:
    """The same, asked of the server at `address` that has the release loaded."""
    store, plug = Store(project), release.family_of_release(project, wanted)
    evaluation, served = store.open(wanted.evaluation), plug.serve.functions
    count = served.repeated(store.open(wanted.repository).json("serving.json"))
    requests = served.requests(evaluation.path)[:count]
    progress(
        f"asking release {wanted.number} of {wanted.model} for {len(requests)} evaluated "
        f"{plug.answer}s"
    )
    answers = [ask(address, plug, wanted.model, one, wanted.number) for one in requests]
    told = answers[-1].provenance if answers else {}
    served_on = told.get("device", "cpu")
    evaluated_on = evaluation.manifest["recipe"]["environment"].get("device", "cpu")
    facts = served.parity(evaluation.path, answers, evaluated_on == served_on == "cpu")
    return {**facts, "device": served_on, "software": told.get("software")}


@contextmanager
def scratch_server(
    project: Project, kind: str, device: str, fill: Callable[[Path], str], timeout: float
) -> Iterator[str]:
    """The address of a private server for as long as the context lasts; it is gone afterwards.

    `fill(folder)` puts a model into the empty slot folder and returns its name; the model is loaded
    when the context begins. UserError when it does not load within `timeout` seconds.
    """
    server = server_named(kind)
    with temporary_folder(project, guard.scratch(project)) as folder:
        model = fill(folder)
        ports = dict(zip(SLOT_PORTS, _free_ports(len(SLOT_PORTS)), strict=True))
        slot = SlotConfig.model_validate({"server": kind, **ports})
        log = folder / "server.log"
        guarded = [sys.executable, "-m", "adire_assets.serving.fleet.guard", str(os.getpid())]
        command = server.command(project, folder, slot, [])
        environment = server.environment(device, lineage.threads()) | guard.turns(project)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*guarded, guard.mark(folder), str(server.drain_seconds), *command],
                env=child_environment(accounts=False)
                | {guard.ENVIRONMENT: json.dumps(environment)},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            if not wait_until(lambda: is_live(slot), timeout, alive=lambda: process.poll() is None):
                raise UserError(f"the scratch server did not start: {_end(log)}")
            try:
                server.reconcile(slot, folder, model, timeout)
            except UserError as error:
                raise UserError(f"{error}; its log ends with: {_end(log)}") from error
            yield address(slot)
        finally:
            process.terminate()
            process.wait()


def _free_ports(count: int) -> list[int]:
    """TCP ports on loopback that nobody listens on now."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def _end(log: Path) -> str:
    return " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:])
