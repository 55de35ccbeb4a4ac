"""A release that is quarantined while it is on its way gets no request after that."""

from collections.abc import Callable

import pytest

from adire_assets.core.errors import UserError
from adire_assets.serving import record
from tests.support.light import MODEL
from tests.support.stand_ins import Fleet

WHY = "its data was taken down"


def quarantine_at(fleet: Fleet, number: int, where: str, before: Callable[[], None]) -> None:
    """Quarantine a release just before the first `where`, and see to `before` then."""

    def at(what: str) -> None:
        if where in what and not fleet.quarantined(number):
            record.quarantine(fleet.house.project, MODEL, number, WHY)
            before()

    fleet.at = at


def nothing() -> None:
    """Nothing has to hold then."""


def test_a_release_that_waits_to_be_loaded_is_not_loaded(two: Fleet) -> None:
    two.begin(3)
    record.quarantine(two.house.project, MODEL, 3, WHY)
    two.said.clear()
    two.carry_out()
    assert two.live() == [2, 2] and two.settled()
    assert not any("loading" in line for line in two.said)
    ends = [two.state(name).last_rollout for name in ("eu", "us")]
    assert [end["outcome"] for end in ends] == ["rolled_back", "cancelled"]
    assert ends[0]["reason"] == WHY


@pytest.mark.parametrize("where", ["Triton loads", "checking: promote"])
def test_a_release_that_is_checked_gets_no_request(two: Fleet, where: str) -> None:
    shares = []

    def look(what: str) -> None:
        shares.append(two.state().rollout and two.state().rollout.percent)

    quarantine_at(two, 3, where, before=lambda: setattr(two, "at", look))
    two.begin(3)
    two.carry_out()
    assert two.live() == [2, 2] and two.settled()
    assert not any(shares)


@pytest.mark.parametrize("where", ["50 %: promote", "100 %: promote"])
def test_a_release_that_has_passed_a_step_gets_no_further(two: Fleet, where: str) -> None:
    quarantine_at(two, 3, where, before=nothing)
    two.begin(3)
    two.carry_out()
    assert two.live() == [2, 2] and two.settled()
    assert [one["number"] for one in two.state().history] == [1, 2]
    assert WHY in two.state().last_rollout["reason"]


@pytest.mark.parametrize("where", ["loading into slot", "Triton loads"])
def test_a_release_that_is_loaded_to_go_back_to_does_not_come_back(two: Fleet, where: str) -> None:
    two.deploy(3)
    quarantine_at(two, 1, where, before=nothing)
    with pytest.raises(UserError, match=f"release 1 .* did not come back on eu.*{WHY}"):
        two.roll_back(to=1)
    assert two.live() == [3, 3] and two.settled()
    assert two.state().last_rollout["outcome"] == "failed"
    assert two.quarantined(3) is None


def test_what_is_live_elsewhere_stays_live(two: Fleet) -> None:
    def at(what: str) -> None:
        if "on us, 50 %" in what and not two.quarantined(3):
            for number in (2, 3):  # also the one that eu would go back to
                record.quarantine(two.house.project, MODEL, number, WHY)

    two.at = at
    two.begin(3)
    two.carry_out()
    assert two.live() == [3, 2]
    assert two.state("us").last_rollout["outcome"] == "rolled_back"
