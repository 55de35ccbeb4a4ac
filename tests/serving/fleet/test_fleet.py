"""The processes behind `adire up`: real supervisord, real (empty) Triton."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from adire_assets.config.fleet import FleetConfig, SlotConfig
from adire_assets.core import lineage
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.waiting import wait_until
from adire_assets.serving.fleet import orphans, processes
from adire_assets.serving.fleet.supervisor import slot_marks
from adire_assets.serving.slot_server import is_live
from tests.support.fleets import make_fleet, write_fleet
from tests.support.line import answers
from tests.support.ports import free_port

DEFINITIONS = "import dagster as dg\n\ndefs = dg.Definitions()\n"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[Project, FleetConfig]]:
    """A project without releases under a path too long for a unix socket, with all that other
    programs' configurations take for their own; stopped afterwards."""
    root = tmp_path / ("it's a caf\u00e9 ; #1 %d " + "long" * 25)
    (root / "configs" / "models").mkdir(parents=True)
    (root / "dagster_defs.py").write_text(DEFINITIONS)
    config = make_fleet()
    project = Project(root, root / "home")
    write_fleet(project, config)  # the studio reads it by itself
    yield project, config
    processes.down(project, config)
    assert left_over(project) == []


def slot_config(config: FleetConfig, name: str = "blue") -> SlotConfig:
    return config.targets["local"].slots[name]


def with_slot(config: FleetConfig, slot: SlotConfig) -> FleetConfig:
    """The fleet with another blue slot."""
    target = config.targets["local"]
    changed = target.model_copy(update={"slots": {**target.slots, "blue": slot}})
    return config.model_copy(update={"targets": {"local": changed}})


def left_over(project: Project) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            if process.environ().get(orphans.MARK) == str(project.home):
                found.append(" ".join(process.info["cmdline"] or [process.name()]))
        except psutil.Error:
            continue
    return found


def test_everything_starts_once_and_survives_the_death_of_its_supervisor(
    place: tuple[Project, FleetConfig],
) -> None:
    project, config = place
    ready_before: dict[str, bool] = {}

    def progress(message: str) -> None:
        ready_before[message] = answers(config.dagster.port)

    processes.up(project, config, progress=progress)
    # The two would make Dagster's databases at the same time.
    assert ready_before["starting dagster-daemon"]
    rows = processes.status(project, config)
    assert [row["name"] for row in rows] == [
        "slot-local-blue",
        "slot-local-green",
        "gateway-local",
        "dagster-webserver",
        "dagster-daemon",
        "studio",
    ]
    assert all(row["ready"] for row in rows), rows
    servers = [p for row in rows[:2] for p in psutil.Process(row["pid"]).children(recursive=True)]
    told = [process.environ() for process in servers if process.name() == "tritonserver"]
    assert {one["ADIRE_THREADS"] for one in told} == {str(lineage.threads())}
    assert len({one["ADIRE_DEVICE_LOCK"] for one in told}) == 1, "they do not take turns"

    said: list[str] = []
    processes.up(project, config, progress=said.append)
    assert [row["pid"] for row in processes.status(project, config)] == [row["pid"] for row in rows]
    assert not [message for message in said if message.startswith("starting")]

    supervisor = int((project.home / "fleet" / "supervisord.pid").read_text())
    os.kill(supervisor, signal.SIGKILL)
    assert wait_until(lambda: not psutil.pid_exists(supervisor), 10)
    assert {row["state"] for row in processes.status(project, config)} == {"UNGUARDED"}
    assert all(row["ready"] for row in processes.status(project, config))
    slots = [slot_config(config, name) for name in ("blue", "green")]
    unserved: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            if not any(is_live(one) for one in slots):
                unserved.append("no slot answers")

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    processes.up(project, config, progress=said.append)
    over.set()
    looking.join()
    assert not unserved, "both slots were down together"
    assert [message for message in said if message.startswith("taking over")]
    after = processes.status(project, config)
    assert {row["state"] for row in after} == {"RUNNING"} and all(row["ready"] for row in after)
    assert not {row["pid"] for row in after} & {row["pid"] for row in rows}

    processes.down(project, config)
    assert left_over(project) == []
    for prefix in slot_marks(project, config):
        assert not list(Path("/dev/shm").glob(f"{prefix}*"))
    assert {row["state"] for row in processes.status(project, config)} == {"STOPPED"}


def test_a_busy_port_is_named_with_its_owner_and_its_key(
    place: tuple[Project, FleetConfig],
) -> None:
    project, config = place
    port = slot_config(config).grpc_port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(UserError) as refusal:
            processes.up(project, config, only="serving")
    assert f"port {port} is in use by" in str(refusal.value)
    assert f"(pid {os.getpid()})" in str(refusal.value)
    assert "targets.local.slots.blue.grpc_port in configs/fleet.yaml" in str(refusal.value)
    assert left_over(project) == []


def test_a_changed_slot_is_restarted_and_only_that(place: tuple[Project, FleetConfig]) -> None:
    project, config = place
    processes.up(project, config, only="serving")
    before = {row["name"]: row["pid"] for row in processes.status(project, config)}
    moved = slot_config(config).model_copy(update={"grpc_port": free_port()})
    changed = with_slot(config, moved)
    processes.up(project, changed, only="serving")
    assert is_live(moved)
    assert not is_live(slot_config(config))
    after = {row["name"]: row["pid"] for row in processes.status(project, changed)}
    assert {name for name in after if after[name] != before[name]} == {"slot-local-blue"}


def test_a_remote_slot_that_does_not_answer_is_named(place: tuple[Project, FleetConfig]) -> None:
    project, config = place
    remote = SlotConfig(launch="remote", host="127.0.0.1", grpc_port=free_port(), folder="/x")
    with pytest.raises(UserError, match=f"no server answers at 127.0.0.1:{remote.grpc_port}"):
        processes.up(project, with_slot(config, remote), only="serving")
