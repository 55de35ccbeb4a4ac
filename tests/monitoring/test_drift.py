"""Evidence that scores have changed: rarely without a change, soon with one, and at every look."""

import math
import random

import pytest

from adire_assets.core.evidence import RATE, threshold
from adire_assets.monitoring.drift import Martingale

SERIES, LENGTH = 200, 500


def highest(scores: list[float]) -> float:
    martingale = Martingale()
    return max(map(martingale.observe, scores))


@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(lambda chance: chance.gauss(0, 1), id="normal"),
        pytest.param(lambda chance: chance.expovariate(1), id="skewed"),
        pytest.param(lambda chance: float(chance.random() < 0.1), id="rare events"),
    ],
)
def test_few_unchanged_series_raise_an_alarm_at_any_time(draw) -> None:
    chance = random.Random(17)
    found = [highest([draw(chance) for _ in range(LENGTH)]) for _ in range(SERIES // 2)]
    assert sum(one >= threshold(RATE) for one in found) <= RATE * len(found)


@pytest.mark.parametrize("unchanged", [20, 100, 500])
@pytest.mark.parametrize("shift", [3.0, -3.0])
def test_a_change_is_seen_soon_however_late_it_comes(unchanged: int, shift: float) -> None:
    chance = random.Random(unchanged)
    seen = 0
    for _ in range(10):
        martingale = Martingale()
        for _ in range(unchanged):
            martingale.observe(chance.gauss(0, 1))
        after = [martingale.observe(chance.gauss(shift, 1)) for _ in range(40)]
        seen += max(after) >= threshold(RATE)
    assert seen >= 9


def test_the_evidence_is_a_fair_bet() -> None:
    """The mean capital stays 1 while nothing changes; that is what the bound rests on."""
    chance = random.Random(5)
    ends = []
    for _ in range(4000):
        martingale = Martingale(chance.randrange(2**31))
        for _ in range(4):
            martingale.observe(chance.random())
        ends.append(math.exp(martingale.log_evidence))
    assert sum(ends) / len(ends) == pytest.approx(1.0, abs=0.1)


def test_equal_scores_say_nothing_and_nan_is_refused() -> None:
    assert highest([1.0] * 300) < threshold(RATE)
    with pytest.raises(ValueError, match="NaN"):
        Martingale().observe(math.nan)
