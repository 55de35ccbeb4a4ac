"""A project with releases on a fleet of one target, and what one does with it."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from adire_assets.config.fleet import FleetConfig
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact
from adire_assets.core.waiting import wait_until
from adire_assets.families.diffusion import FAMILY
from adire_assets.serving import record, release
from adire_assets.serving.fleet import guard, processes
from adire_assets.serving.fleet.slot_client import SlotClient
from adire_assets.serving.fleet.supervisor import slot_marks
from adire_assets.serving.gateway import routing
from adire_assets.serving.gateway.gateway import Gateway
from adire_assets.serving.record import DeploymentRecord
from adire_assets.serving.release import ReleaseRecord
from adire_assets.serving.rollout import deployment, rollout
from adire_assets.serving.rollout.controller import Callbacks
from adire_assets.serving.rollout.replay import Judge
from tests.support.asking import generate

TARGET = "local"


@dataclass
class House:
    """The project, its fleet of one target, and the releases of its one model by number."""

    project: Project
    fleet: FleetConfig
    model: str
    releases: dict[int, ReleaseRecord] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)  # what the judge thinks of a release

    @property
    def address(self) -> str:
        """Where clients go."""
        return self.gateway.address

    @property
    def gateway(self) -> Gateway:
        return routing.gateway_of(self.project, self.fleet, TARGET)

    @property
    def record(self) -> DeploymentRecord:
        return record.read(self.project, TARGET, self.model)

    def slot_client(self, name: str) -> SlotClient:
        return SlotClient(self.project, self.fleet, TARGET, name)

    @property
    def live_slot_client(self) -> SlotClient:
        assert self.record.active
        return self.slot_client(self.record.active)

    @property
    def shared_memory(self) -> list[Path]:
        prefixes = slot_marks(self.project, self.fleet)
        return [path for prefix in prefixes for path in Path("/dev/shm").glob(f"{prefix}*")]

    def open_judge(self, evaluation: Path) -> AbstractContextManager[Judge]:
        """A judge that knows which release it was asked about by the rollout under way."""

        def judge(prompts: Sequence[str], images: Sequence[np.ndarray]) -> list[float]:
            canary = self.record.rollout
            score = self.scores.get(canary.number if canary else 0, 1.0)
            return [score + 0.01 * place for place in range(len(images))]

        return nullcontext(judge)

    def deploy(self, number: int, **rollout: Any) -> DeploymentRecord:
        """Roll a release out, with other settings of the rollout where they are given."""
        [state] = deployment.deploy(
            self.project,
            self.configured(**rollout),
            self.model,
            number,
            verify=lambda candidate: None,
            callbacks=Callbacks(self.open_judge, print),
        )
        return state

    def configured(self, **rollout: Any) -> FleetConfig:
        target = self.fleet.targets[TARGET]
        changed = target.model_copy(update={"rollout": target.rollout.model_copy(update=rollout)})
        return self.fleet.model_copy(update={"targets": {TARGET: changed}})

    def roll_back(self, to: int | None = None, reason: str = "too pale") -> DeploymentRecord:
        [state] = rollout.rollback(self.project, self.fleet, self.model, to, reason, print)
        return state

    def differences(self) -> list[str]:
        [found] = deployment.target_statuses(self.project, self.fleet, self.model)
        return found.differences

    def ensure_live(self, number: int) -> None:
        """Release `number` live, whatever an earlier test has left."""
        if self.record.rollout:
            self.roll_back()
        for other in self.releases:
            if record.quarantine_reason(self.project, self.model, other):
                record.lift_quarantine(self.project, self.model, other, "the next test")
        self.deploy(number)

    def serving(self) -> int:
        """The release that answers a request without a version."""
        return generate(self.address, self.model, "cloth", num_inference_steps=1).release

    def processes(self, slot: str | None = None) -> list[psutil.Process]:
        """The tritonservers and stubs of this fleet, or of one of its slots."""
        prefixes = (
            [guard.mark(self.slot_client(slot).folder)]
            if slot
            else slot_marks(self.project, self.fleet)
        )
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or [""]
            if Path(words[0]).name in ("tritonserver", "triton_python_backend_stub") and any(
                prefix in word for word in words for prefix in prefixes
            ):
                found.append(process)
        return found

    def tritonserver(self, slot: str) -> psutil.Process:
        [found] = [p for p in self.processes(slot) if p.name() == "tritonserver"]
        return found

    @contextmanager
    def requests_all_along(self) -> Iterator[Counter]:
        """Clients that send all along; afterwards no request may have failed.

        Yields how many answers each release has given.
        """
        answers: Counter = Counter()
        failures: list[str] = []
        over = threading.Event()

        def send() -> None:
            # The pause leaves the cores to what is being loaded.
            while not over.wait(0.05):
                try:
                    answers[self.serving()] += 1
                except Exception as error:
                    failures.append(str(error))

        clients = [threading.Thread(target=send) for _ in range(2)]
        for client in clients:
            client.start()
        try:
            assert wait_until(lambda: answers.total() >= 3 or bool(failures), 60)
            yield answers
            sent = answers.total()
            assert wait_until(lambda: answers.total() >= sent + 3 or bool(failures), 60)
        finally:
            over.set()
            for client in clients:
                client.join()
        assert not failures, failures[:3]

    def keep(
        self, content: Artifact, adapter: Artifact, base: Artifact, evaluation: Artifact
    ) -> int:
        """Record this content as the next release; its number."""
        number = len(self.releases) + 1
        self.releases[number] = release.write_record(
            self.project,
            ReleaseRecord(
                model=self.model,
                number=number,
                repository=content.reference(),
                adapter=adapter.reference(),
                base_model=base.reference(),
                evaluation=evaluation.reference(),
                verdict=evaluation.reference(),
                family=FAMILY.name,
                mlflow_run_id=f"run-{number}",
                provenance={"code": {"commit": "c" * 40}, "dvc_hash": "d.dir"},
                streams=release.has_streams(content),
            ),
        )
        return number

    @contextmanager
    def up(self) -> Iterator["House"]:
        """Slots and gateway run; no process and no shared memory is left afterwards."""
        try:
            processes.up(self.project, self.fleet, only="serving")
            yield self
        finally:
            processes.down(self.project, self.fleet)
        assert not self.processes()
        assert not self.shared_memory


def awaited(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until `condition` holds; fails when it does not within `seconds`."""
    assert wait_until(condition, seconds), f"not within {seconds} s"
