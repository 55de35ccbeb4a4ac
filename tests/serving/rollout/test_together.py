"""Models that share an engine answer from one slot, however each came live.

On real Tritons and a real Envoy; what a release's usual request takes is as given here.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest

from adire_assets.core.answer import UsualRequest
from adire_assets.serving.fleet import capacity
from adire_assets.serving.rollout import rollout, together
from tests.serving.conftest import QUICK
from tests.support.house import TARGET, House
from tests.support.light import add_light, light_house
from tests.support.stand_ins import killed


@pytest.fixture(scope="module")
def houses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[House]]:
    """Models on one base, each with three releases; the first of each is live."""
    light = light_house(tmp_path_factory.mktemp("together") / "project", QUICK)
    made = [light, *(replace(light, model=name, releases={}) for name in ("paper", "silk"))]
    with light.up(), pytest.MonkeyPatch.context() as patch:
        usual = UsualRequest("base", 0.1)
        patch.setattr(capacity, "usual_request", lambda *_: usual)
        for house in made:
            add_light(house)
            add_light(house)
            house.deploy(1)
        yield made


def answering(houses: list[House]) -> list[int]:
    """The release that answers for each; all of them do from one slot, and are as recorded."""
    assert len({house.record.active for house in houses}) == 1
    assert [line for house in houses for line in house.differences()] == []
    found = [house.serving() for house in houses]
    assert found == [house.record.live for house in houses]
    return found


def test_a_model_comes_back_to_the_others_and_keeps_its_way_back(houses: list[House]) -> None:
    one = houses[0]
    home = one.record.active
    [other] = one.record.slots.keys() - {home}
    with one.requests_all_along():
        one.deploy(2)
        assert answering(houses) == [2, 1, 1]
        assert (one.record.active, one.record.slots) == (home, {home: 2, other: 1})
        one.roll_back()
    assert answering(houses) == [1, 1, 1]
    assert (one.record.active, one.record.slots) == (home, {home: 1, other: 1})


def test_all_stay_until_no_other_is_on_its_way_and_then_the_fewer_follow(
    houses: list[House],
) -> None:
    one, two, _ = houses
    one.ensure_live(1)
    before = two.record.active
    rollout.begin(two.project, two.fleet, two.model, 2)
    one.deploy(2)
    assert one.record.live == 2 and one.record.active != before
    assert {house.record.active for house in houses[1:]} == {before}
    two.deploy(2)
    assert answering(houses) == [2, 2, 1]
    assert one.record.active != before


@pytest.mark.full
def test_whoever_is_killed_on_the_way_costs_no_request(houses: list[House]) -> None:
    one = houses[0]
    one.ensure_live(1)
    [other] = one.record.slots.keys() - {one.record.active}
    killed_at = 0
    with one.requests_all_along():
        while True:
            one.ensure_live(1)
            # As a rollout leaves it that was killed at its end.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(together, "bring_together", lambda *_: None)
                one.deploy(2)
            assert one.record.active == other
            move = partial(together.bring_together, one.project, one.fleet, TARGET, print)
            if not killed(move, killed_at):
                break
            one.deploy(2)
            assert answering(houses)[0] == 2
            killed_at += 1
    assert killed_at > 2
    assert answering(houses)[0] == 2
