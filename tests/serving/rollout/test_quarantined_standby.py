"""A quarantined release stands by in no slot, where it would answer whoever asks for it."""

import pytest

from adire_assets.core.errors import UserError
from adire_assets.serving import record
from adire_assets.serving.fleet.slot_client import SlotClient
from adire_assets.serving.gateway.gateway import Gateway, GatewayDown
from adire_assets.serving.rollout import rollout, steps
from tests.support.light import MODEL
from tests.support.stand_ins import Fleet

WHY = "its data was taken down"


def withdraw(fleet: Fleet, number: int) -> list[str]:
    """What is said while a release is quarantined and taken out of the slots."""
    project, said = fleet.house.project, []
    record.quarantine(project, MODEL, number, WHY)
    steps.withdraw_quarantined(project, fleet.fleet, MODEL, said.append)
    return said


def held(fleet: Fleet, target: str) -> set[int]:
    slots = fleet.fleet.targets[target].slots
    return set.union(*(fleet.slot_client(name, target).ready(MODEL) for name in slots))


def test_it_is_taken_out_of_records_routes_and_slots(two: Fleet) -> None:
    assert withdraw(two, 1) == []
    for target in ("eu", "us"):
        assert set(two.state(target).slots.values()) == set(two.state(target).loaded) == {2}
        assert two.routed(target) and held(two, target) == {2}
    assert two.live() == [2, 2] and two.settled()


def test_it_does_not_stand_by_when_the_next_release_has_replaced_it(two: Fleet) -> None:
    assert withdraw(two, 2) == []
    assert two.live() == [2, 2]
    assert two.deploy(3) == [3, 3]
    assert set(two.state().loaded) == held(two, "eu") == {3}
    assert two.settled()


def test_it_is_taken_out_while_another_one_is_on_its_way(two: Fleet) -> None:
    two.begin(3)  # on us it waits, and 1 still stands by
    withdraw(two, 1)
    assert set(two.state("us").loaded) == {2} and two.routed("us")
    two.carry_out()
    assert two.live() == [3, 3] and two.settled()


def test_a_target_that_is_down_is_told(two: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    publish, ready = Gateway.publish, SlotClient.ready

    def down(gateway: Gateway, served: object) -> None:
        if gateway.target == "eu":
            raise GatewayDown("the gateway of eu does not answer")
        publish(gateway, served)

    def refused(client: SlotClient, model: str) -> set[int]:
        if client.target == "eu":
            raise UserError(f"the server of slot {client.name} does not run")
        return ready(client, model)

    with monkeypatch.context() as patch:
        patch.setattr(Gateway, "publish", down)
        patch.setattr(SlotClient, "ready", refused)
        said = withdraw(two, 1)
    assert said[0] == "the gateway of eu does not answer; it will route as recorded"
    assert any("of eu is not as recorded: the server of slot" in line for line in said)
    assert set(two.state().loaded) == {2} and held(two, "us") == {2}
    two.deploy(2)
    assert two.settled()


def test_a_target_that_is_gone_from_the_fleet_is_told(two: Fleet) -> None:
    left = {"eu": two.fleet.targets["eu"]}
    two.fleet = two.fleet.model_copy(update={"targets": left})
    [said] = withdraw(two, 1)
    assert said.startswith("us is not in ")
    assert set(two.state("us").loaded) == held(two, "eu") == {2}
    assert rollout.finish(two.house.project, two.fleet, MODEL, print)[0].live == 2
