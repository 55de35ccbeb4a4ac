"""What two looks at counters show."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from adire_assets.config.costs import CostConfig
from adire_assets.config.fleet import FleetConfig
from adire_assets.core.project import Project
from adire_assets.monitoring.watch import (
    KEPT_SECONDS,
    Figures,
    History,
    Look,
    figures,
    look,
    parsed,
    sentences,
)
from adire_assets.serving.gateway.traffic import Traffic
from tests.support.fleets import make_fleet

RELEASE, BLUE = ("local", "cloth", "3"), ("local", "blue")
COSTS = CostConfig(currency="EUR", cost_per_hour={"cpu": 0.36})


def at(
    seconds: float, answered: int, failed: int, busy: float, made: float, waiting: int = 0
) -> Look:
    own = 'model="cloth",release="3"'
    page = parsed(
        f'adire_busy_seconds_total{{engine="e",{own}}} {busy!r}\n'
        f'adire_made_total{{engine="e",{own},unit="image"}} {made!r}\n'
        f'adire_images_waiting{{engine="e"}} {waiting}\n'
        'adire_adapters_held{engine="e"} 2\n'
        "# HELP something else\n"
        'vllm:cache_config_info{block_size="16"} 1.0\n'
    )
    latency = ((100.0, 0), (200.0, answered))
    traffic = Traffic(answered=answered, failed=failed, latency=latency)
    return Look(seconds, {RELEASE: 1.0}, {RELEASE: traffic}, {BLUE: page}, {"gateway": 2**20})


def shown(*looks: Look, costs: CostConfig | None = COSTS) -> Figures:
    fleet = make_fleet().model_copy(update={"costs": costs})
    prices = {BLUE: fleet.slot_cost_per_hour(*BLUE)}
    before, after = (replace(one, prices=prices) for one in looks)
    return figures(fleet, before, after)


def test_figures_are_the_difference_of_two_looks() -> None:
    found = shown(at(100, 40, 2, 10, 7), at(120, 60, 3, 15, 27, waiting=4))
    one, slot = found.releases[RELEASE], found.slots[BLUE]
    assert (one.requests_per_second, one.failed_share) == (1.0, 0.05)
    assert (one.unit, one.made_per_second, one.engine_seconds) == ("image", 1.0, 0.25)
    assert one.median_seconds == pytest.approx(0.15)
    # 5 s at 0.36 an hour for 20 images; the other 15 s of 20 are idle.
    assert one.cost == pytest.approx(0.36 * 5 / 3600 / 20)
    assert (slot.waiting, slot.busy, slot.adapters) == (4, 0.25, 2)
    assert slot.idle_cost_per_hour == pytest.approx(0.27)


def test_an_engine_that_began_anew_counts_from_zero() -> None:
    found = shown(at(100, 40, 2, 10, 7), at(120, 5, 0, 2, 4)).releases[RELEASE]
    assert (found.requests_per_second, found.made_per_second) == (0.25, 0.2)
    assert found.engine_seconds == 0.5


def test_a_request_that_has_not_ended_keeps_its_engine_busy() -> None:
    """An image engine counts busy seconds of a release when a request has ended, all of them."""

    def working(one: Look, seconds: float) -> Look:
        series = f'adire_engine_seconds_total{{engine="e"}} {seconds!r}\n'
        return replace(one, pages={BLUE: {**one.pages[BLUE], **parsed(series)}})

    looks = [
        working(at(100, 40, 2, 10, 7), 50),
        working(at(120, 40, 2, 10, 7), 65),
        working(at(130, 41, 2, 30, 8), 70),
    ]
    slots = [shown(*pair).slots[BLUE] for pair in pairwise(looks)]
    assert [slot.busy for slot in slots] == [0.75, 0.5]
    assert [slot.idle_cost_per_hour for slot in slots] == pytest.approx([0.09, 0.18])


def test_what_the_first_look_did_not_see_has_not_happened_since() -> None:
    before, after = at(100, 40, 2, 10, 7), at(120, 60, 3, 15, 27)
    for unseen in (
        replace(before, shares={}, traffic={}, pages={BLUE: {}}),
        replace(before, shares={}, traffic={}, pages={}),
    ):
        found = shown(unseen, after)
        one = found.releases[RELEASE]
        assert (one.requests_per_second, one.failed_share, one.median_seconds) == (None,) * 3
        assert (one.made_per_second, one.engine_seconds, one.cost) == (0.0, None, None)
        assert found.slots[BLUE].busy == 0


def test_a_gateway_that_fell_silent_has_no_requests_to_tell() -> None:
    before, after = at(100, 40, 2, 10, 7), at(120, 60, 3, 15, 27)
    found = shown(before, replace(after, traffic={}))
    assert "requests/s" not in next(sentences(found))
    assert found.releases[RELEASE].made_per_second == 1.0


def test_a_slot_that_the_fleet_has_no_more_keeps_its_price() -> None:
    other = make_fleet().model_copy(update={"targets": {}, "costs": COSTS})
    looks = [replace(one, prices={BLUE: 0.36}) for one in (at(0, 0, 0, 0, 0), at(20, 0, 0, 5, 1))]
    assert figures(other, *looks).slots[BLUE].cost_per_hour == 0.36


def test_what_was_not_asked_has_no_figures() -> None:
    found = shown(at(100, 40, 2, 10, 7), at(120, 40, 2, 10, 7), costs=None)
    one, slot = found.releases[RELEASE], found.slots[BLUE]
    assert (one.failed_share, one.median_seconds, one.engine_seconds, one.cost) == (None,) * 4
    assert (slot.cost_per_hour, slot.idle_cost_per_hour) == (None, None)
    assert "EUR" not in "\n".join(sentences(found))


def test_the_figures_are_said_in_lines() -> None:
    said = list(sentences(shown(at(100, 40, 2, 10, 7), at(120, 60, 3, 15, 27, waiting=4))))
    assert said == [
        "cloth release 3 on local: 100% of the requests; 1.00 requests/s; 5.0% failed; "
        "median 0.15 s; 1.00 images/s; 0.25 s of the engine for each image; "
        "0.0250 EUR per 1,000 images",
        "slot blue of local: 4 waiting, busy 25%, 2 adapters, 0.270 of 0.360 EUR per hour idle",
        "memory: gateway 1 MiB",
    ]


def test_looks_of_the_last_minutes_are_kept() -> None:
    history, fleet = History(), make_fleet()
    for seconds in range(0, 1000, 5):
        history.add(at(seconds, seconds, 0, 0, 0))
    assert history.looks[-1].at - history.looks[0].at <= KEPT_SECONDS
    assert history.whole(fleet).seconds == KEPT_SECONDS
    assert [one.seconds for one in history.points(fleet)] == [5.0] * 60


def test_what_does_not_answer_is_said(tmp_path: Path) -> None:
    (tmp_path / "configs" / "models").mkdir(parents=True)
    fleet: FleetConfig = make_fleet()
    found = look(Project(tmp_path, tmp_path / "home"), fleet)
    said = "\n".join(sentences(figures(fleet, found, found)))
    assert "nothing is served" in said
    assert "slot blue of local does not show its metrics; `adire status` says how it is" in said
