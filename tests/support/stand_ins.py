"""A fleet of two targets whose Tritons and Envoys are files: for what goes wrong between them.

The slots' folders, the gateways' files, locks and records are the real ones. A Triton is a list of
what it has loaded beside its folder; an Envoy takes each file at once. A process that works with
them can be stopped or killed at any point (`stopped`, `killed`), as `kill -STOP` and `-KILL` do.
"""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from adire_assets.config.fleet import FleetConfig, RolloutConfig
from adire_assets.core import store
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.serving import record, release
from adire_assets.serving.fleet import capacity, guard, parity, triton
from adire_assets.serving.fleet.slot_client import SlotClient
from adire_assets.serving.gateway import routing
from adire_assets.serving.gateway.gateway import Gateway
from adire_assets.serving.record import DeploymentRecord
from adire_assets.serving.rollout import deployment, rollout
from adire_assets.serving.rollout.analysis import Analysis, Finding
from adire_assets.serving.rollout.controller import Callbacks
from adire_assets.serving.rollout.replay import Judge
from adire_assets.serving.rollout.watch import Watch
from adire_assets.tracking import registry
from tests.support.fleets import make_fleet
from tests.support.house import House
from tests.support.light import MODEL, add_light, light_house


@dataclass
class Fleet:
    """The house and its targets; `at` is called before each thing that has an effect."""

    house: House
    fleet: FleetConfig
    decisions: dict[str, str] = field(default_factory=dict)  # target -> what its watch finds
    broken: set[tuple[str, int]] = field(default_factory=set)  # (target, release): does not load
    at: Callable[[str], None] = lambda what: None
    said: list[str] = field(default_factory=list)
    children: list[int] = field(default_factory=list)  # that were stopped and not yet resumed

    def state(self, target: str = "eu") -> DeploymentRecord:
        return record.read(self.house.project, target, MODEL)

    def live(self) -> list[int | None]:
        return [self.state(name).live for name in self.fleet.targets]

    def slot_client(self, slot: str, target: str = "eu") -> SlotClient:
        return SlotClient(self.house.project, self.fleet, target, slot)

    def routed(self, target: str = "eu") -> bool:
        """Whether the gateway's file is what the record says."""
        return routing.is_published(self.house.project, self.fleet, target, MODEL)

    def settled(self) -> bool:
        """Whether all outside the records is as they say, and nothing is left to be done."""
        plan = record.read_plan(self.house.project, MODEL)
        found = deployment.target_statuses(self.house.project, self.fleet, MODEL)
        open_rollouts = [name for name in self.fleet.targets if self.state(name).rollout]
        for one in found:
            for slot in self.fleet.targets[one.record.target].slots:
                held = release.installed(self.slot_client(slot, one.record.target).folder, MODEL)
                assert held == [one.record.slots[slot]], (slot, held, one.record.slots)
        assert not open_rollouts and not [line for one in found for line in one.differences]
        assert plan is None or plan.pending is None
        return True

    def quarantined(self, number: int) -> str | None:
        return record.quarantine_reason(self.house.project, MODEL, number)

    def begin(self, number: int) -> bool:
        return rollout.begin(self.house.project, self.fleet, MODEL, number)

    def carry_out(self) -> None:
        rollout.carry_out(
            self.house.project,
            self.fleet,
            MODEL,
            callbacks=Callbacks(
                no_judge,
                self.tell,
                report=lambda target, decision: self.tell(f"reported: {decision['decision']}"),
            ),
        )

    def deploy(self, number: int) -> list[int | None]:
        deployment.deploy(
            self.house.project,
            self.fleet,
            MODEL,
            number,
            verify=lambda candidate: None,
            callbacks=Callbacks(no_judge, self.tell),
        )
        return self.live()

    def roll_back(self, to: int | None = None, reason: str = "too pale") -> list[int | None]:
        rollout.rollback(self.house.project, self.fleet, MODEL, to, reason, self.tell)
        return self.live()

    def finish(self) -> None:
        rollout.finish(self.house.project, self.fleet, MODEL, self.tell)

    def expire(self, target: str = "eu") -> None:
        """The time of the lease runs out."""

        def late(state: DeploymentRecord) -> DeploymentRecord:
            assert state.rollout
            lease = {**state.rollout.lease, "until": 0.0}
            return replace(state, rollout=replace(state.rollout, lease=lease))

        record.change(self.house.project, target, MODEL, late)

    def tell(self, message: str) -> None:
        self.at(message)
        self.said.append(message)
        print(message)


def no_judge(evaluation: Path) -> AbstractContextManager[Judge]:
    return nullcontext(lambda prompts, images: [])


def released(folder: Path) -> House:
    """A project with releases 1 to 4, for `stand_in_fleet` to copy."""
    house = light_house(folder / "project")
    for _ in range(4):
        add_light(house)
    return house


@contextmanager
def stand_in_fleet(
    made: House,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    releases: Sequence[int],
    targets: Sequence[str],
) -> Iterator[Fleet]:
    """A copy of the house, of whose releases `releases` went live, one after the other."""
    root = folder / "project"
    shutil.copytree(made.project.root, root)
    house = replace(made, project=Project(root, root / "home"))
    config = RolloutConfig(steps=[50, 100], minimum_seconds=0.0)
    fleet = Fleet(house, make_fleet(config, targets))
    _stand_in(fleet, monkeypatch)
    for number in releases:
        assert set(fleet.deploy(number)) == {number}
    try:
        yield fleet
    finally:
        for pid in list(fleet.children):
            resumed(fleet, pid, signal.SIGKILL)


def _stand_in(made: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = {
        made.slot_client(slot, target).address: (target, made.slot_client(slot, target).folder)
        for target, settings in made.fleet.targets.items()
        for slot in settings.slots
    }

    class Control:
        """A Triton that loads what its folder holds, whole."""

        def __init__(self, address: str) -> None:
            self.target, self.folder = slots[address]
            self.file = self.folder / "ready.json"

        def require(self, seconds: float) -> None:
            made.at("Triton is asked")

        def load(self, model: str, timeout: float) -> None:
            made.at("Triton loads")
            found = release.installed(self.folder, model)
            if wrong := [n for n in found if (self.target, n) in made.broken]:
                raise UserError(f"could not load release {wrong[0]}")
            self.file.write_text(json.dumps(found))

        def unload(self, model: str, timeout: float) -> None:
            made.at("Triton unloads")
            self.file.write_text("[]")

        def ready(self, model: str) -> set[int]:
            return set(json.loads(self.file.read_text())) if self.file.is_file() else set()

    def answers(slot_client: SlotClient, wanted: release.ReleaseRecord) -> None:
        if wanted.number not in slot_client.ready(wanted.model):
            raise UserError(f"release {wanted.number} does not answer")

    def publish(gateway: Gateway, served: Any) -> None:
        made.at(f"publish {gateway.target}")
        gateway._write(served)

    def took(gateway: Gateway, file: str) -> dict[str, str]:
        return {"version_text": store.read_json(gateway._file(file))["version_info"]}

    def look(watch: Watch, rollout: record.Rollout) -> tuple[Analysis, dict[str, Any]]:
        made.at(f"look {watch.target}")
        decision = made.decisions.get(watch.target, "promote")
        outcome = "bad" if decision == "rollback" else "good"
        return Analysis(decision, (Finding("errors", outcome, 0.0, 0.0, "seen"),)), {}

    passed = {"passed": True, "explanation": "as evaluated", "software": None}
    monkeypatch.setattr(triton, "Control", Control)
    monkeypatch.setattr(SlotClient, "require_answer", answers)
    monkeypatch.setattr(guard, "is_running", lambda mark: True)
    monkeypatch.setattr(parity, "compare_at", lambda *_: passed)
    monkeypatch.setattr(capacity, "usual_request", lambda *_: None)
    monkeypatch.setattr(Gateway, "publish", publish)
    monkeypatch.setattr(Gateway, "live", lambda gateway: True)
    monkeypatch.setattr(Gateway, "require_ours", lambda gateway: None)
    monkeypatch.setattr(Gateway, "_subscription", took)
    monkeypatch.setattr(Watch, "begin_step", lambda watch, rollout: {})
    monkeypatch.setattr(Watch, "look", look)
    for name in made.fleet.targets:
        routing.publish(made.house.project, made.fleet, name)


# --- processes that are stopped or killed ------------------------------------------------------


def forked(work: Callable[[], object]) -> int:
    """A process of its own that does `work`; its exit status is 0 when nothing was raised."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def ended(pid: int) -> int:
    """Wait for a process; its exit status, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def stopped(fleet: Fleet, work: Callable[[], object], where: str) -> int:
    """A process that does `work` and has just been stopped before the first `where`."""

    def child() -> None:
        def stop(what: str) -> None:
            if where in what:
                fleet.at = lambda what: None
                os.kill(os.getpid(), signal.SIGSTOP)

        fleet.at = stop
        work()

    pid = forked(child)
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), f"it never came to {where}"
    fleet.children.append(pid)
    return pid


def resumed(fleet: Fleet, pid: int, by: int = signal.SIGCONT) -> int:
    """Let a stopped process go on to its end (or end it, `by` SIGKILL); see `ended`."""
    fleet.children.remove(pid)
    os.kill(pid, by)
    return ended(pid)


def killed(work: Callable[[], object], writes: int) -> bool:
    """Do `work` in a process that is killed before it has written its file number `writes`.

    Whether it was; False when it ended before.
    """

    def child() -> None:
        original, left = Path.replace, [writes]

        def replace(path: Path, target: Any) -> Path:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return original(path, target)

        Path.replace = replace  # type: ignore[method-assign]
        work()

    status = ended(forked(child))
    assert status in (0, -signal.SIGKILL), status
    return status != 0


class Registry:
    """What MLflow is told last; the first to tell it something is held up until `go`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.aliases: dict[str, int] = {}
        self.tags: dict[str, str | None] = {}
        self.came, self.go = threading.Event(), threading.Event()
        monkeypatch.setattr(registry, "set_alias", self.set_alias)
        monkeypatch.setattr(registry, "delete_alias", lambda project, model, alias: None)
        monkeypatch.setattr(registry, "aliases", lambda project, model: dict(self.aliases))
        monkeypatch.setattr(registry, "tag_release", self.tag_release)

    def wait(self) -> None:
        if not self.came.is_set():
            self.came.set()
            self.go.wait(30)

    def set_alias(self, project: object, model: str, alias: str, number: int) -> None:
        self.wait()
        self.aliases[alias] = number

    def tag_release(self, project: object, model: str, number: int, tags: dict) -> None:
        self.wait()
        self.tags.update(tags)

    def race(self, first: Callable[[], None], meanwhile: Callable[[], None]) -> None:
        """`first` is held up on its way to MLflow; then come `meanwhile` and `first` again."""

        def second() -> None:
            meanwhile()
            first()

        threads = [threading.Thread(target=one) for one in (first, second)]
        threads[0].start()
        assert self.came.wait(30)
        threads[1].start()
        threads[1].join(0.3)  # where nothing holds it up it is through by now
        self.go.set()
        for thread in threads:
            thread.join(30)
