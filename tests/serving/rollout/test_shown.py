"""What the answers of streams show of a canary: their first token, their pace, and how they end."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from adire_assets.config.fleet import RolloutConfig
from adire_assets.families.diffusion import FAMILY
from adire_assets.serving.gateway.config import buckets, part
from adire_assets.serving.gateway.traffic import Histogram, Traffic
from adire_assets.serving.rollout.analysis import Analysis, Quality, analyse, thresholds
from adire_assets.serving.rollout.limits import count_slower, shown_limits
from adire_assets.serving.rollout.watch import StepEvidence
from adire_assets.serving.state import Rollout

CONFIG = RolloutConfig()
SOUND = Quality(FAMILY, [(1.0, 1.0)] * 64)
NAMES = ("canary", "canary_asked", "running", "running_asked")


def histogram(milliseconds: Sequence[float]) -> Histogram:
    return tuple((bound, sum(one <= bound for one in milliseconds)) for bound in buckets())


def streamed(
    count: int = 1,
    first: float = 30.0,
    between: float = 10.0,
    cut_off: int = 0,
    latency: float = 400.0,
) -> Traffic:
    """So many streamed answers whose times, in ms, are these."""
    times: dict[str, Any] = {"latency": latency, "first_token": first, "inter_token": between}
    found = {name: histogram([one] * count) for name, one in times.items()}
    return Traffic(answered=count, ended=count, cut_off=cut_off, **found)


def whole(count: int = 1, latency: float = 400.0) -> Traffic:
    """So many answers in one piece."""
    return Traffic(answered=count, ended=count, latency=histogram([latency] * count))


class Canary:
    """A canary at 5 % beside a running release whose answers are as they should be."""

    def __init__(
        self, config: RolloutConfig = CONFIG, running: Traffic | None = None, **fields: Any
    ) -> None:
        self.config = config
        nothing = Traffic(latency=histogram([]))
        self.counters = dict.fromkeys(NAMES, nothing)
        baseline = {name: asdict(one) for name, one in self.counters.items()}
        rollout = Rollout(2, 1, "green", "canary", [5, 100], stage="serving", baseline=baseline)
        self.rollout = replace(rollout, reference=baseline, **fields)
        self.step = StepEvidence(config, self.rollout, shown=True)
        self.add("running", running or streamed(100))
        self.add("running_asked", whole(100))

    def add(self, name: str, more: Traffic) -> None:
        self.counters[name] = self.counters[name].plus(more)

    def looks(self, count: int, more: Traffic, name: str = "canary") -> Analysis:
        """What is decided after so many looks that found this, or at the first that decides."""
        for _ in range(count):
            self.add(name, more)
            self.step.look(self.counters)
            found = self.now()
            if found.decision in ("rollback", "promote"):
                break
        return found

    def now(self) -> Analysis:
        known = self.step.tallies, self.step.limits, 60.0, 0, SOUND
        return analyse(self.config, *known, shown=self.step.shown)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (streamed(first=160.0), "took longer to their first token than 95 ms"),
        (streamed(between=24.0), "took longer from one token to the next than 20 ms"),
        (streamed(cut_off=1), "answers to users were cut off, as long as allowed"),
    ],
)
def test_each_signal_sends_a_release_back_and_says_why(answer: Traffic, sentence: str) -> None:
    found = Canary().looks(40, answer)
    assert found.decision == "rollback" and sentence in found.sentence()
    assert found.sentence().count(";") == 0 and "shown to be above" in found.sentence()


def test_answers_like_those_of_the_running_release_go_on() -> None:
    assert Canary().looks(87, streamed()).decision == "wait"
    assert Canary().looks(88, streamed()).decision == "promote"
    # Neither is a release held up of which no user streams, nor one without a running release.
    assert Canary().looks(88, whole()).decision == "promote"
    assert Canary(origin=None).looks(88, streamed(first=160.0)).decision == "promote"


def test_one_answer_is_no_evidence_and_a_half_of_them_is_none_either() -> None:
    assert Canary().looks(2, streamed(first=1000.0, between=200.0, cut_off=1)).decision == "wait"
    canary = Canary()
    for _ in range(40):
        canary.looks(1, streamed(first=160.0))
        found = canary.looks(1, streamed(first=10.0))
    assert found.decision in ("wait", "promote")


def test_what_the_running_release_shows_too_little_of_is_not_judged() -> None:
    few = whole(100).plus(streamed(4))
    assert Canary(running=few).looks(88, streamed(first=160.0)).decision == "promote"
    assert Canary(running=whole(100)).looks(88, streamed(between=300.0)).decision == "promote"
    # Its own answers are mostly cut off: nothing is left to be worse.
    assert "cut_off" not in shown_limits(CONFIG, streamed(100, cut_off=95))
    assert "cut_off" not in shown_limits(CONFIG, streamed(100, cut_off=100))
    assert shown_limits(CONFIG, Traffic()) == {}


def test_the_limits_leave_room_for_what_is_not_known_of_the_running_release() -> None:
    found = shown_limits(CONFIG, streamed(100))
    assert found["first_token"] == 30 * 1.5 + 50 and found["inter_token"] == 10 * 1.5 + 5
    # Of a hundred answers without one cut off, 3 % may be, with 95 % confidence.
    assert found["cut_off"] == pytest.approx(0.1 + 1 - 0.05 ** (1 / 100))
    few, more = streamed(10, cut_off=2), streamed(1000, cut_off=200)
    assert shown_limits(CONFIG, few)["cut_off"] > 0.6
    assert 0.32 < shown_limits(CONFIG, more)["cut_off"] < 0.33


@pytest.mark.parametrize(("name", "units"), [("first_token", 1), ("inter_token", 1000)])
def test_twice_as_long_is_surely_too_long_wherever_the_bounds_of_the_histogram_lie(
    name: str, units: int
) -> None:
    settings = part("bootstrap")["stats_config"]["histogram_bucket_settings"]
    [found] = [one for one in settings if one["match"].get("prefix") == f"adire.{name}_time"]
    bounds = [bound / units for bound in found["buckets"]]
    config = RolloutConfig(latency_slack_seconds=0.0, inter_token_slack_seconds=0.0)
    for milliseconds in np.geomspace(10, 300, 500):
        once, twice = (
            tuple((bound, 100 * (times * milliseconds <= bound)) for bound in bounds)
            for times in (1, 2)
        )
        running: dict[str, Any] = {name: once}
        limit = shown_limits(config, Traffic(**running))[name]
        assert limit >= 1.5 * milliseconds
        assert count_slower(twice, limit) == (100, 100), milliseconds


def test_own_requests_are_not_counted_as_cut_off() -> None:
    """Their prompts are others', and their quality is judged."""
    canary = Canary()
    assert canary.looks(40, replace(whole(), cut_off=1), "canary_asked").decision == "wait"
    assert "cut_off" in canary.step.limits["users"] and "cut_off" not in canary.step.limits["own"]
    assert canary.now().numbers["cut_off"]["value"] is None


def test_a_config_that_compares_nothing_does_without() -> None:
    config = RolloutConfig(latency_increase_maximum=None)
    canary = Canary(config)
    found = canary.looks(88, streamed(first=1000.0, cut_off=1))
    assert found.decision == "promote" and "first_token" not in found.numbers
    config = RolloutConfig(cut_off_increase_maximum=None)
    assert Canary(config).looks(88, streamed(cut_off=1)).decision == "promote"
    assert Canary(config).looks(88, streamed(first=160.0)).decision == "rollback"


def test_signals_that_no_answer_can_show_make_going_back_no_harder() -> None:
    canary = Canary()
    found = analyse(CONFIG, {}, {}, 60.0, 0, SOUND)
    assert {*found.numbers} == {
        *("errors", "latency_p50", "latency_p95", "latency_p99", "ejections", "quality"),
    }
    assert {*canary.now().numbers} - {*found.numbers} == {"first_token", "inter_token", "cut_off"}
    assert thresholds(5)[1] < thresholds(8)[1]


def test_looks_go_on_with_the_record_and_with_one_of_the_version_before() -> None:
    canary = Canary()
    canary.looks(3, streamed(first=160.0))
    kept = replace(canary.rollout, limits=canary.step.limits, evidence=canary.step.evidence())
    other = StepEvidence(CONFIG, kept, shown=True)
    assert other.tallies == canary.step.tallies and other.tallies["first_token"].surely == 3
    # The version before knew neither the signals nor their limits.
    old = ("latency", "unanswered", "answered", "failed", "ejected", "refused", "unhealthy")

    def without(counters: dict[str, Any]) -> dict[str, Any]:
        return {name: {key: one[key] for key in old} for name, one in counters.items()}

    limits = {kind: {"p50": 650.0, "p95": 650.0, "p99": 2000.0} for kind in ("users", "own")}
    evidence = {"counters": without(kept.evidence["counters"]), "tallies": {}}
    before = replace(kept, baseline=without(kept.baseline), reference={}, limits=limits)
    step = StepEvidence(CONFIG, replace(before, evidence=evidence), shown=True)
    canary.add("canary", streamed(5, first=160.0))
    step.look(canary.counters)
    assert step.tallies["latency_p50"].answers == 5 and "first_token" not in step.tallies
    found = analyse(CONFIG, step.tallies, step.limits, 60.0, 0, SOUND, shown=step.shown)
    assert found.decision == "wait"
