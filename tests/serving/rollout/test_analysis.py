"""Decisions about a canary, on counters as the gateway gives them."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from adire_assets.config.fleet import TAILS, RolloutConfig
from adire_assets.core.evidence import RATE, answers_needed, mean_above, mean_below, threshold
from adire_assets.families.diffusion import FAMILY
from adire_assets.serving.gateway.config import buckets
from adire_assets.serving.gateway.traffic import Traffic
from adire_assets.serving.record import Rollout
from adire_assets.serving.rollout import analysis
from adire_assets.serving.rollout.analysis import Analysis, Quality, Tally, analyse
from adire_assets.serving.rollout.limits import count_latencies, count_slower, latency_limits
from adire_assets.serving.rollout.watch import StepEvidence
from benchmarks import looks

CONFIG = RolloutConfig()
EVALUATED = (1.9, 1.3, 1.7, 1.6)  # of one prompt each


def served(*parts: float, count: int = 64) -> list[tuple[float, float]]:
    """Images that score so much of what was evaluated, prompt by prompt."""
    cycles = zip(cycle(parts), cycle(EVALUATED), strict=False)
    return [(part * expected, expected) for part, expected in islice(cycles, count)]


SOUND = served(0.97, 1.05, 0.9, 1.1, 0.95, 1.03, 1.0)


def traffic(latencies: Sequence[float], failed: int = 0, ejected: int = 0) -> Traffic:
    """Counters after answers that took so many milliseconds."""
    latency = tuple((bound, sum(one <= bound for one in latencies)) for bound in buckets())
    return Traffic(len(latencies), failed, ejected, latency)


RUNNING = traffic([30.0] * 500)
FEW = traffic([30.0] * 100)  # too few for a p99


def decide(
    latencies: Sequence[float],
    failed: Sequence[int] = (),
    running: Traffic | None = RUNNING,
    config: RolloutConfig = CONFIG,
    **more: Any,
) -> Analysis:
    """What to do after these answers, looked at one by one; the places in `failed` failed."""
    limits = {"users": latency_limits(config, running)}
    tallies: Mapping[str, Tally] = {"errors": Tally()}
    for place, milliseconds in enumerate(latencies):
        bad = int(place in failed)
        tallies = {**tallies, "errors": tallies["errors"].plus(1, bad, bad)}
        tallies = count_latencies(tallies, limits, {"users": traffic([milliseconds])})
    given: dict[str, Any] = {"seconds": 60.0, "ejected": 0, "quality": SOUND} | more
    given["quality"] = Quality(FAMILY, given["quality"])
    return analyse(config, tallies, limits, **given)


def test_a_sound_release_goes_on_when_there_is_enough_to_see():
    assert decide([30.0] * 87).decision == "wait"
    assert decide([30.0] * 88).decision == "promote"
    assert decide([30.0] * 100, seconds=1.0).decision == "wait"
    assert decide([30.0] * 20, seconds=1000.0).decision == "hold"
    assert decide([]).decision == "wait"


def test_what_was_not_seen_is_evidence_for_nothing():
    enough = [30.0] * 100
    assert decide(enough, quality=[]).decision == "wait"
    assert decide(enough, quality=SOUND[:8]).decision == "wait"
    # Answers without a latency, and latencies without a limit.
    tally = Tally(100, 0, 0, 100, 0.0, 0.0)
    for tallies, limits in (
        ({"errors": tally}, {"users": latency_limits(CONFIG, None)}),
        ({"errors": tally}, {}),
        ({f"latency_{name}": tally for name in TAILS}, {"users": latency_limits(CONFIG, None)}),
    ):
        found = analyse(CONFIG, tallies, limits, 1000.0, 0, Quality(FAMILY, SOUND))
        assert found.decision == "hold" and found.sentence()


@pytest.mark.parametrize(
    ("latencies", "running"),
    [
        ([4000.0] * 80, None),  # a first release, all beyond the absolute limit
        ([4000.0] * 20 + [30.0] * 79, RUNNING),
        ([30.0] * 79 + [4000.0] * 20, RUNNING),
        ([30.0] * 54 + [600.0] * 6, RUNNING),  # a tail, far below a hundred answers
        ([2600.0] * 5, None),
    ],
)
def test_slow_answers_send_a_release_back_however_few_there_are(
    latencies: list[float], running: Traffic | None
):
    found = decide(latencies, running=running)
    assert found.decision == "rollback" and "took longer than" in found.sentence()


def test_what_is_at_its_limit_neither_goes_on_nor_back():
    at_limit = ([30.0] * 19 + [600.0]) * 20
    assert decide(at_limit, running=FEW).decision == "wait"
    assert decide(at_limit, running=FEW, seconds=1000.0).decision == "hold"
    assert decide(at_limit).decision == "rollback"  # five times what its p99 allows
    assert decide([30.0] * 400, failed=range(0, 400, 20), seconds=1000.0).decision == "hold"
    assert decide([30.0, 200.0] * 100, seconds=1000.0).decision == "rollback"  # p95
    worse = served(0.85, 0.95)
    assert decide([30.0] * 100, seconds=1000.0, quality=worse).decision == "hold"


def test_errors_send_it_back_as_soon_as_they_are_beyond_doubt():
    assert decide([30.0] * 2, failed=range(2)).decision == "wait"
    found = decide([30.0] * 12, failed=range(0, 12, 2))
    assert found.decision == "rollback"
    assert "6 of 12 answers were server faults" in found.sentence()


def test_the_tail_of_one_in_a_hundred_is_asked_for_on_request_only():
    assert decide([30.0] * 100).decision == "promote"
    strict = replace_config(promotion_quantiles=["p50", "p95", "p99"], replays_maximum=500)
    assert decide([30.0] * 448, config=strict).decision == "wait"
    assert decide([30.0] * 449, config=strict).decision == "promote"


def replace_config(**values: Any) -> RolloutConfig:
    return RolloutConfig.model_validate(values)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"promotion_quantiles": ["p50", "p99"]}, r"p99 in promotion_quantiles takes 449 answers"),
        ({"error_rate_maximum": 0.01}, r"error_rate_maximum 0.01 takes 449 answers"),
        ({"replays_maximum": 80}, r"takes 88 answers .* replays_maximum is 80; raise it to 88"),
        ({"judged_answers": 8}, r"takes at least 34 judged answers .* judged_answers is 8"),
        ({"quality_drop_maximum": 0.02}, r"takes at least \d+ judged answers"),
    ],
)
def test_a_rollout_that_could_never_go_on_is_refused(values: dict[str, Any], sentence: str):
    with pytest.raises(ValidationError, match=sentence):
        replace_config(**values)


def test_the_number_of_answers_that_is_asked_for_is_the_number_that_it_takes():
    for limit, count in ((0.05, 88), (0.5, 7), (0.01, 449), (0.2, 20)):
        assert answers_needed(limit) == count
        signal = analysis.Signal("errors", "share", limit)
        for answers, enough in ((count - 1, False), (count, True)):
            below, _ = analysis.share_evidence(signal, Tally(looks=answers))
            assert (below >= threshold(RATE)) == enough


def test_a_bucket_around_the_limit_counts_as_slow_for_on_and_as_fast_for_back():
    seen = traffic([22.0] * 100).latency
    assert count_slower(seen, 25) == (0, 0) and count_slower(seen, 20) == (100, 100)
    assert count_slower(seen, 22.5) == (100, 0) and count_slower((), 22.5) == (0, 0)
    # 105 ms lie in the bucket of (90, 110]: neither too slow nor not too slow.
    limits = latency_limits(CONFIG, RUNNING)
    assert limits["p50"] == 30 * 1.5 + 50
    assert decide([105.0] * 300, seconds=1000.0).decision == "hold"
    assert decide([115.0] * 30).decision == "rollback"
    assert decide([85.0] * 100).decision == "promote"


def test_a_limit_is_that_of_too_few_answers_only_where_it_is_absolute():
    few, more = traffic([30.0] * 58), traffic([30.0] * 59)
    assert latency_limits(CONFIG, few)["p95"] == latency_limits(CONFIG, None)["p95"] == 2000
    assert latency_limits(CONFIG, more) == {"p50": 95.0, "p95": 95.0, "p99": 2000}
    assert latency_limits(CONFIG, traffic([30.0] * 299))["p99"] == 95.0
    # The p95 of 100 answers of which 6 are slow may be among these.
    assert latency_limits(CONFIG, traffic([30.0] * 94 + [600.0] * 6))["p95"] == 620 * 1.5 + 50


def test_a_slot_that_was_taken_out_goes_back():
    assert decide([30.0] * 100, ejected=1).decision == "rollback"


def test_noise_is_told_from_images_of_ordinary_variation():
    found = decide([30.0] * 5, quality=served(0.2, 0.35, 0.1, 0.5, count=10))
    assert found.decision == "rollback" and "CLIP-S" in found.sentence()
    assert decide([30.0] * 100, quality=served(0.93, 1.03, 0.98)).decision == "promote"
    # A few images that are much better are no evidence for the rest.
    assert decide([30.0] * 100, quality=served(3.0, 0.8, 0.8, 0.8, 0.8)).decision == "wait"
    assert decide([30.0] * 100, quality=served(20.0, count=3)).decision == "wait"


def test_bets_on_a_mean_at_its_limit_are_hardly_ever_won():
    rng = np.random.default_rng(3)
    won = {"on": 0, "back": 0}
    for _ in range(400):
        values = rng.beta(6, 2, 64)  # of mean 0.75
        won["on"] += bool((mean_above(0.75, values) >= threshold(RATE)).any())
        won["back"] += bool((mean_below(0.75, values) >= threshold(RATE)).any())
    assert max(won.values()) <= 0.05 * 400


@pytest.mark.parametrize("shown", [False, True])
def test_decisions_at_a_limit_are_hardly_ever_wrong_at_whatever_look(shown: bool):
    found = looks.simulate(runs=200, answers=1000, seed=1, shown=shown)
    assert len(found["at_limit"]) == (7 if shown else 4)
    for name, rates in found["at_limit"].items():
        for kind in ("false_promote", "false_rollback"):
            # 0.05 within three standard errors of 200 runs; a fixed-sample bound has 0.1 to 0.3.
            assert rates[kind] <= 0.09, (name, kind, rates)
    assert found["promote_after"] <= 100 and found["rollback_after"] <= 40


def test_errors_are_sent_back_within_the_answers_that_are_promised():
    errors = analysis.signals(CONFIG)["errors"]
    many = looks.until_back(errors, 0.3, 400, np.random.default_rng(2))
    assert np.median(many) <= 25 and np.quantile(many, 0.95) <= 45
    few = looks.until_back(errors, 0.01, 300, np.random.default_rng(2))
    assert np.isinf(few).mean() >= 0.99


def test_the_simulation_decides_as_a_rollout_does():
    """The benchmark counts many rollouts at once; one of them, decided look by look."""
    rng = random.Random(7)
    latencies = [600.0 if rng.random() < 0.4 else 30.0 for _ in range(60)]
    slow = np.cumsum(np.array(latencies) > 100)
    number = np.arange(1, 61)
    tally = Tally(number, slow, slow, number, slow, slow)
    _, back = looks.decisions(analysis.signals(CONFIG)["latency_p95"], tally)
    first = int(back.argmax()) + 1
    assert decide(latencies[: first - 1], running=FEW).decision == "wait"
    assert decide(latencies[:first], running=FEW).decision == "rollback"


def test_answers_that_share_their_fate_are_one_observation():
    one, burst = Tally(), Tally()
    for bad in (False, True, False):
        one, burst = one.plus(1, bad, bad), burst.plus(8, 8 * bad, 8 * bad)
    assert (burst.looks, burst.sure_shares) == (one.looks, one.sure_shares) == (3, 1.0)
    assert burst.answers == 24 and burst.plus(0, 0, 0) == burst
    assert burst.plus(2, 5, 5).sure_shares == 2.0  # a failed answer may have failed several times


# --- the looks of a step -----------------------------------------------------------------------


class Gateway:
    """Counters that rise by what is answered."""

    def __init__(self) -> None:
        names = ("canary", "canary_asked", "running", "running_asked")
        self.counters = dict.fromkeys(names, traffic([]))

    def answer(self, name: str, latencies: Sequence[float], failed: int = 0) -> None:
        more = traffic(latencies, failed)
        self.counters[name] = self.counters[name].plus(more)


def stored(counters: Mapping[str, Traffic]) -> dict[str, Any]:
    return {name: vars(one) for name, one in counters.items()}


def step_of(gateway: Gateway, percent: int = 50, **fields: Any) -> tuple[StepEvidence, Rollout]:
    rollout = Rollout(2, 1, "green", "canary", [percent, 100] if percent < 100 else [100])
    baseline = stored(gateway.counters)
    rollout = replace(rollout, stage="serving", baseline=baseline, reference=baseline, **fields)
    return StepEvidence(CONFIG, rollout), rollout


def test_the_limit_of_a_step_is_fixed_once_and_goes_on_with_the_record():
    gateway = Gateway()
    step, rollout = step_of(gateway)
    gateway.answer("canary", [80.0])
    assert not step.look(gateway.counters) and not step.limits
    assert step.tallies["errors"].answers == 1 and "latency_p95" not in step.tallies
    gateway.answer("running", [30.0] * 60)
    gateway.answer("canary", [80.0])
    assert step.look(gateway.counters)
    limits = dict(step.limits)
    assert limits["users"]["p95"] == 95.0 and "own" not in limits
    # What was put by is counted against it, look by look.
    assert step.tallies["latency_p95"] == Tally(2, 0, 0, 2, 0.0, 0.0)
    # The running release becomes slower, and another holder goes on: the limit stays.
    gateway.answer("running", [900.0] * 300)
    other = StepEvidence(CONFIG, replace(rollout, limits=step.limits, evidence=step.evidence()))
    gateway.answer("canary", [300.0, 300.0])
    assert not other.look(gateway.counters) and other.limits == limits
    assert other.tallies["latency_p95"] == Tally(4, 2, 2, 3, 1.0, 1.0)
    assert other.tallies["errors"].looks == 3


def test_at_all_of_the_requests_what_the_running_release_did_before_is_compared_with():
    gateway = Gateway()
    gateway.answer("running", [30.0] * 100)
    step, _ = step_of(gateway, percent=100)
    step.look(gateway.counters)
    assert step.limits == {"users": {"p50": 95.0, "p95": 95.0, "p99": 2000}}
    assert step.wants_reference  # of the rollout's own requests
    step, _ = step_of(Gateway(), percent=100)
    step.look(Gateway().counters)
    assert step.limits["users"]["p95"] == 2000
    first = StepEvidence(CONFIG, replace(step_of(Gateway(), percent=100)[1], origin=None))
    first.look(Gateway().counters)
    assert first.limits["own"]["p95"] == 2000 and not first.wants_reference


def test_a_failure_that_is_counted_before_its_answer_is_not_lost():
    gateway = Gateway()
    step, _ = step_of(gateway)
    canary = gateway.counters["canary"]
    gateway.counters["canary"] = replace(canary, failed=1)
    step.look(gateway.counters)
    gateway.answer("canary_asked", [30.0])
    step.look(gateway.counters)
    assert (step.tallies["errors"].answers, step.tallies["errors"].surely) == (1, 0)
    gateway.answer("canary", [30.0])
    step.look(gateway.counters)
    assert (step.tallies["errors"].answers, step.tallies["errors"].surely) == (2, 1)


def test_failures_after_the_gateway_was_started_again_count_as_those_before():
    gateway = Gateway()
    step, _ = step_of(gateway)
    gateway.counters["canary"] = replace(traffic([30.0] * 20), failed=5)
    step.look(gateway.counters)
    gateway = Gateway()  # as a new Envoy counts
    step.look(gateway.counters)
    gateway.counters["canary"] = replace(gateway.counters["canary"], failed=3)
    step.look(gateway.counters)
    gateway.counters["canary"] = replace(traffic([30.0] * 3), failed=3)
    step.look(gateway.counters)
    assert (step.tallies["errors"].answers, step.tallies["errors"].surely) == (23, 8)


def test_a_rollout_that_an_earlier_version_has_begun_goes_on():
    gateway = Gateway()
    rollout = Rollout(2, 1, "green", "canary", [100], baseline=stored(gateway.counters))
    step = StepEvidence(CONFIG, replace(rollout, quality=[1.0] * 8, stage="serving"))
    gateway.answer("canary", [30.0] * 3)
    step.look(gateway.counters)
    assert step.tallies["errors"].answers == 3
