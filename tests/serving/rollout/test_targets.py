"""A release that goes to one target after the other."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from adire_assets.config.fleet import FleetConfig
from adire_assets.serving import record
from adire_assets.serving.fleet import processes
from adire_assets.serving.gateway import routing
from adire_assets.serving.record import DeploymentRecord
from adire_assets.serving.rollout import deployment
from adire_assets.serving.rollout.controller import Callbacks
from adire_assets.serving.rollout.replay import Judge
from tests.serving.conftest import QUICK
from tests.support.asking import generate
from tests.support.fleets import make_fleet
from tests.support.house import House
from tests.support.light import MODEL, add_light, light_house


@dataclass
class Targets:
    """Two targets, eu and us; `bad` is where the judge finds the release worse."""

    house: House
    fleet: FleetConfig
    bad: str = ""

    def states(self) -> dict[str, DeploymentRecord]:
        return {name: record.read(self.house.project, name, MODEL) for name in self.fleet.targets}

    def live(self) -> dict[str, int | None]:
        """By the records, and by who answers."""
        found = {name: state.live for name, state in self.states().items()}
        for name, number in found.items():
            if number is not None:
                endpoint = routing.endpoint_of(self.house.project, self.fleet, name)
                assert generate(endpoint, MODEL, "cloth").release == number
        return found

    def open_judge(self, evaluation: Path) -> AbstractContextManager[Judge]:
        def judge(prompts: Sequence[str], images: Sequence[np.ndarray]) -> list[float]:
            under_way = next(
                name
                for name, state in self.states().items()
                if state.rollout and state.rollout.stage == "serving"
            )
            score = 0.2 if under_way == self.bad else 1.0
            return [score + 0.01 * place for place in range(len(images))]

        return nullcontext(judge)

    def deploy(self, number: int, on_failure: str = "rollback") -> dict[str, int | None]:
        deployment.deploy(
            self.house.project,
            self.fleet.model_copy(update={"on_failure": on_failure}),
            MODEL,
            number,
            verify=lambda candidate: None,
            callbacks=Callbacks(self.open_judge, print),
        )
        return self.live()


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Targets]:
    house = light_house(tmp_path_factory.mktemp("targets") / "project")
    made = Targets(house, make_fleet(QUICK, ("eu", "us")))
    try:
        processes.up(house.project, made.fleet, only="serving")
        assert made.deploy(add_light(house)) == {"eu": 1, "us": 1}
        yield made
    finally:
        processes.down(house.project, made.fleet)


def outcomes(targets: Targets) -> dict[str, str | None]:
    states = targets.states()
    return {name: (state.last_rollout or {}).get("outcome") for name, state in states.items()}


def test_it_is_live_on_the_first_before_the_second_begins(targets: Targets) -> None:
    number = add_light(targets.house)
    assert targets.deploy(number) == {"eu": number, "us": number}
    began = targets.states()["us"].last_rollout["decisions"][0]["at"]
    assert targets.states()["eu"].since <= began


def test_what_the_first_sends_back_never_begins_on_the_second(targets: Targets) -> None:
    before = targets.live()
    targets.bad = "eu"
    assert targets.deploy(add_light(targets.house)) == before
    assert outcomes(targets) == {"eu": "rolled_back", "us": "cancelled"}


@pytest.mark.parametrize("on_failure", ["rollback", "keep"])
def test_what_the_second_sends_back_leaves_the_first_as_configured(
    targets: Targets, on_failure: str
) -> None:
    before = targets.live()
    targets.bad = "us"
    number = add_light(targets.house)
    kept = number if on_failure == "keep" else before["eu"]
    assert targets.deploy(number, on_failure) == {"eu": kept, "us": before["us"]}
    assert record.quarantine_reason(targets.house.project, MODEL, number)
    assert not any(
        found.differences
        for found in deployment.target_statuses(targets.house.project, targets.fleet, MODEL)
        if on_failure == "rollback"
    )
    assert outcomes(targets)["us"] == "rolled_back"
