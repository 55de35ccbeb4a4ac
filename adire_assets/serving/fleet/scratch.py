"""A slot server of its own for a moment, which no user's request can reach."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from adire_assets.config.fleet import SLOT_PORTS, SlotConfig
from adire_assets.core import lineage
from adire_assets.core.child_environment import child_environment
from adire_assets.core.errors import UserError
from adire_assets.core.folders import temporary_folder
from adire_assets.core.project import Project
from adire_assets.core.waiting import wait_until
from adire_assets.serving.fleet import guard
from adire_assets.serving.slot_server import address, is_live, server_named


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
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*guarded, guard.mark(folder), str(server.drain_seconds), *command],
                env=child_environment(accounts=False)
                | {guard.ENVIRONMENT: json.dumps(server.environment(device, lineage.threads()))},
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
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _end(log: Path) -> str:
    return " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:])
