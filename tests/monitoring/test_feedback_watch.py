"""When feedback alarms: as often as it may by chance, and soon when a release is bad."""

import numpy as np
import pytest

from adire_assets.config.monitoring import FeedbackConfig
from adire_assets.monitoring.feedback import Given
from adire_assets.monitoring.feedback_watch import signal

LIMITS = FeedbackConfig(maximum_bad_share=0.3)
USERS, DAYS, LOOK = 20, 20, 8  # a look after each so many ratings


def given(user: int | str, day: int, number: int, bad: bool, release: int = 1) -> Given:
    at = f"2026-03-{day + 1:02d}T00:00:00.000+00:00"
    rating = 2 if bad else 3
    return Given(at, f"user{user}", "cloth", release, f"{number:x}", 0, at, rating)


def series(seed: int, share: float, spread: float, lasting: bool) -> list[Given]:
    """What users say on the days of a month, some more than others: each of a mood, `share` more or
    less `spread`, which is another one each day or lasts."""
    rng = np.random.default_rng(seed)
    found, moods = [], np.zeros(USERS)
    for day in range(DAYS):
        if day == 0 or not lasting:
            moods = np.clip(share + spread * rng.choice([-1, 1], USERS), 0, 1)
        for user in rng.permutation(np.repeat(np.arange(USERS), rng.integers(0, 3, USERS))):
            found.append(given(int(user), day, len(found), bool(rng.random() < moods[user])))
    return found


def first_alarm(found: list[Given]) -> int | None:
    """After how many ratings a look alarms."""
    looks = range(LOOK, len(found) + 1, LOOK)
    return next((n for n in looks if signal("cloth", 1, found[:n], LIMITS).alarm), None)


@pytest.mark.parametrize("spread, lasting", [(0.0, True), (0.3, False), (0.3, True)])
def test_a_release_at_its_limit_alarms_in_at_most_one_of_twenty_series(
    spread: float, lasting: bool
) -> None:
    alarms = [first_alarm(series(seed, 0.3, spread, lasting)) for seed in range(100)]
    assert sum(one is not None for one in alarms) <= 5


def test_a_bad_release_is_found_within_a_hundred_ratings() -> None:
    alarms = [first_alarm(series(seed, 0.7, 0.1, lasting=True)) for seed in range(20)]
    assert sum(one is not None and one <= 100 for one in alarms) >= 18


def test_one_user_alarms_on_no_number_of_days() -> None:
    found = [given("ada", day, day, True) for day in range(30)]
    for day in (7, 30):
        others = [given(user, 0, 500, False) for user in ("obi", "eze")]
        enough = FeedbackConfig(maximum_bad_share=0.3, minimum_ratings=1)
        assert not signal("cloth", 1, [*found[:day], *others], enough).alarm
    bad = [given(user, 0, 500, True) for user in ("obi", "eze", "ngo", "ike")]
    assert signal("cloth", 1, [*found, *bad], LIMITS).alarm  # all of five users


def test_one_user_alarms_by_no_number_of_ratings() -> None:
    found = [given("ada", 0, number, True) for number in range(500)]
    assert not signal("cloth", 1, found, LIMITS).alarm
    others = [given(user, 0, 500, False) for user in ("obi", "eze", "ngo")]
    assert not signal("cloth", 1, [*found, *others], LIMITS).alarm


def test_what_is_said_of_another_release_does_not_count() -> None:
    bad = [given(user, 0, user, True) for user in range(40)]
    assert signal("cloth", 1, bad, LIMITS).alarm
    assert not signal("cloth", 2, bad, LIMITS).alarm
    few = FeedbackConfig(maximum_bad_share=0.3, minimum_ratings=41)
    assert not signal("cloth", 1, bad, few).alarm
    alone = FeedbackConfig(maximum_bad_share=0.3, minimum_users=41)
    assert not signal("cloth", 1, bad, alone).alarm
