"""Decisions about a canary, on counters as the gateway gives them."""

import random
from collections.abc import Sequence

import pytest

from adire_assets.fleet_config import RolloutConfig
from adire_assets.serving.analysis import Analysis, analyse, share_above, wilson
from adire_assets.serving.gateway import Traffic
from adire_assets.serving.gateway_bootstrap import BUCKETS

CONFIG = RolloutConfig()
SOUND = ([1.7, 1.8, 1.6, 1.9, 1.7, 1.8, 1.75, 1.7], [1.7, 1.8, 1.75, 1.65] * 10)


def traffic(latencies: Sequence[float], failed: int = 0, ejected: int = 0) -> Traffic:
    """Counters after answers that took so many milliseconds."""
    latency = tuple((bound, sum(one <= bound for one in latencies)) for bound in BUCKETS)
    return Traffic(len(latencies), failed, ejected, latency)


def around(rng: random.Random, milliseconds: float, count: int) -> list[float]:
    return [rng.gauss(milliseconds, milliseconds / 10) for _ in range(count)]


def decide(canary: Traffic, running: Traffic | None = None, **more) -> Analysis:
    given = {"seconds": 60.0, "quality": SOUND} | more
    return analyse(CONFIG, [(canary, running or traffic([30.0] * 500))], **given)


def test_the_wilson_interval_is_that_of_the_tables():
    assert wilson(3, 10) == pytest.approx((0.1078, 0.6032), abs=1e-4)
    assert wilson(0, 73)[1] < 0.05 < wilson(0, 72)[1]
    assert wilson(0, 0) == (0.0, 1.0)


def test_quantiles_are_read_between_the_bounds():
    seen = traffic([22.0] * 100)
    assert 20 < seen.quantile(0.5) < 25
    assert share_above(seen, 25) == (0, 100) and share_above(seen, 20) == (100, 100)
    assert share_above(seen, 22.5) == (50, 100)
    assert Traffic().quantile(0.5) is None


def test_a_sound_release_goes_on_when_there_is_enough_to_see():
    assert decide(traffic([30.0] * 72)).decision == "wait"
    assert decide(traffic([30.0] * 100)).decision == "promote"
    assert decide(traffic([30.0] * 100), seconds=1.0).decision == "wait"
    assert decide(traffic([30.0] * 100), quality=None).decision == "wait"
    assert decide(traffic([30.0] * 20), seconds=1000.0).decision == "hold"
    assert decide(Traffic()).decision == "wait"


def test_errors_send_it_back_as_soon_as_they_are_beyond_doubt():
    assert decide(traffic([30.0] * 10, failed=3)).decision == "rollback"
    assert decide(traffic([30.0] * 9, failed=9)).decision == "wait"
    found = decide(traffic([30.0] * 50, failed=15))
    assert (
        found.decision == "rollback" and "15 of 50 answers were server faults" in found.sentence()
    )


def test_four_hundred_milliseconds_more_are_seen_with_the_tenth_answer():
    rng = random.Random(1)
    found = decide(traffic(around(rng, 430, 10)), traffic(around(rng, 30, 200)))
    assert found.decision == "rollback" and "longer than" in found.sentence()
    # A few slow ones in ten are chance.
    assert decide(traffic([30.0] * 8 + [430.0] * 2)).decision == "wait"
    assert decide(traffic([30.0] * 95 + [430.0] * 5)).decision == "rollback"


def test_an_absolute_limit_holds_for_a_first_release_too():
    assert decide(traffic([2500.0] * 100), Traffic()).decision == "rollback"
    assert decide(traffic([1500.0] * 100), Traffic()).decision == "promote"


def test_a_slot_that_was_taken_out_goes_back():
    assert decide(traffic([30.0] * 5, ejected=1)).decision == "rollback"


def test_noise_is_told_from_images_of_ordinary_variation():
    noise = ([0.3, 0.6, 0.1, 0.9, 0.4, 0.2, 0.5, 0.4], SOUND[1])
    found = decide(traffic([30.0] * 5), quality=noise)
    assert found.decision == "rollback" and "CLIP-S" in found.sentence()
    worse = ([score - 0.1 for score in SOUND[0]], SOUND[1])
    assert decide(traffic([30.0] * 100), quality=worse).decision == "promote"


def rolled_out(seed: int, error_rate: float) -> tuple[str, int]:
    """A canary whose requests fail at this rate, looked at after every fourth answer in each of
    three steps: (the last decision, answers of its step)."""
    rng = random.Random(seed)
    for _ in CONFIG.steps:
        failed, latencies = 0, []
        while True:
            for _ in range(4):
                latencies.append(rng.gauss(30, 4))
                failed += rng.random() < error_rate
            found = decide(traffic(latencies, failed), seconds=len(latencies) / 4.0)
            if found.decision != "wait":
                break
        if found.decision != "promote":
            break
    return found.decision, len(latencies)


def test_one_error_in_a_hundred_is_hardly_ever_sent_back():
    decisions = [rolled_out(seed, 0.01)[0] for seed in range(50)]
    assert decisions.count("rollback") <= 2
    assert decisions.count("promote") >= 45


def test_one_error_in_three_is_sent_back_at_once():
    found = [rolled_out(seed, 0.3) for seed in range(50)]
    assert {decision for decision, _ in found} == {"rollback"}
    assert sorted(count for _, count in found)[45] <= 24
