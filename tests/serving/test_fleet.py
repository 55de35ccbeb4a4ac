"""The processes behind `adire up`: real supervisord, real (empty) Triton."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from adire_assets.config import Project
from adire_assets.errors import UserError
from adire_assets.fleet_config import FleetConfig, SlotConfig, WebConfig
from adire_assets.serving import fleet, orphans, slot, triton

DEFINITIONS = "import dagster as dg\n\ndefs = dg.Definitions()\n"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[Project, FleetConfig]]:
    """A project without releases under a path too long for a unix socket; stopped afterwards."""
    root = tmp_path / ("long" * 25)
    (root / "configs" / "models").mkdir(parents=True)
    (root / "dagster_defs.py").write_text(DEFINITIONS)
    ports: set[int] = set()
    while len(ports) < 4:
        ports.add(triton.free_port())
    http, grpc, metrics, web = ports
    config = FleetConfig(
        slots={"blue": SlotConfig(http_port=http, grpc_port=grpc, metrics_port=metrics)},
        dagster=WebConfig(port=web),
        device="cpu",
    )
    project = Project(root, root / "home")
    yield project, config
    fleet.down(project, config)
    assert left_over(project) == []


def left_over(project: Project) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            if process.environ().get(orphans.MARK) == str(project.home):
                found.append(" ".join(process.info["cmdline"] or [process.name()]))
        except psutil.Error:
            continue
    return found


def row(place: tuple[Project, FleetConfig], name: str) -> dict:
    return next(row for row in fleet.status(*place) if row["name"] == name)


def test_everything_starts_once_and_survives_the_death_of_its_supervisor(
    place: tuple[Project, FleetConfig],
) -> None:
    project, config = place
    fleet.up(project, config)
    rows = fleet.status(project, config)
    assert [row["name"] for row in rows] == ["slot-blue", "dagster-webserver", "dagster-daemon"]
    assert all(row["ready"] for row in rows), rows

    said: list[str] = []
    fleet.up(project, config, progress=said.append)
    assert [row["pid"] for row in fleet.status(project, config)] == [row["pid"] for row in rows]
    assert not [message for message in said if message.startswith("starting")]

    supervisor = int((project.home / "fleet" / "supervisord.pid").read_text())
    os.kill(supervisor, signal.SIGKILL)
    address = slot.address(config.slot[1])
    assert triton.wait_until(lambda: not psutil.pid_exists(supervisor), 10)
    assert triton.Control(address).live(), "the slot died with its supervisor"
    fleet.up(project, config, only="triton")
    assert row(place, "slot-blue")["ready"]
    assert row(place, "slot-blue")["pid"] != rows[0]["pid"]

    fleet.down(project, config)
    assert left_over(project) == []
    assert not list(
        Path("/dev/shm").glob(f"{triton.shm_prefix(project.home / 'fleet/slots/blue')}*")
    )
    assert {row["state"] for row in fleet.status(project, config)} == {"STOPPED"}


def test_a_busy_port_is_named_with_its_owner_and_its_key(
    place: tuple[Project, FleetConfig],
) -> None:
    project, config = place
    port = config.slot[1].grpc_port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(UserError) as refusal:
            fleet.up(project, config, only="triton")
    assert f"port {port} is in use by" in str(refusal.value)
    assert f"(pid {os.getpid()})" in str(refusal.value)
    assert "slots.blue.grpc_port in configs/fleet.yaml" in str(refusal.value)
    assert left_over(project) == []


def test_a_changed_slot_is_restarted_and_only_that(place: tuple[Project, FleetConfig]) -> None:
    project, config = place
    fleet.up(project, config, only="triton")
    moved = config.slot[1].model_copy(update={"grpc_port": triton.free_port()})
    changed = config.model_copy(update={"slots": {"blue": moved}})
    fleet.up(project, changed, only="triton")
    assert triton.Control(slot.address(moved)).live()
    assert not triton.Control(slot.address(config.slot[1])).live()


def test_a_remote_slot_that_does_not_answer_is_named(place: tuple[Project, FleetConfig]) -> None:
    project, config = place
    remote = SlotConfig(
        launch="remote", host="127.0.0.1", grpc_port=triton.free_port(), folder="/x"
    )
    with pytest.raises(UserError, match=f"no Triton answers at 127.0.0.1:{remote.grpc_port}"):
        fleet.up(project, config.model_copy(update={"slots": {"blue": remote}}), only="triton")
