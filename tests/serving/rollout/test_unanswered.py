"""Requests that bring nothing: given up, refused, cut off, or not answered yet."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from adire_assets.config.fleet import RolloutConfig
from adire_assets.core.errors import UserError
from adire_assets.core.waiting import wait_until
from adire_assets.families.diffusion import FAMILY
from adire_assets.serving.connection import Endpoint
from adire_assets.serving.gateway.config import buckets
from adire_assets.serving.gateway.traffic import Histogram, Traffic
from adire_assets.serving.rollout import watch
from adire_assets.serving.rollout.analysis import Analysis, Quality, Tally, analyse
from adire_assets.serving.rollout.limits import latency_limits
from adire_assets.serving.rollout.replay import Replay
from adire_assets.serving.rollout.watch import StepEvidence
from adire_assets.serving.state import Rollout
from tests.support.backend import Backend

CONFIG = RolloutConfig()
SOUND = Quality(FAMILY, [(1.0, 1.0)] * 64)
NAMES = ("canary", "canary_asked", "running", "running_asked")
PATIENCE = 120.0


def histogram(milliseconds: Sequence[float]) -> Histogram:
    return tuple((bound, sum(one <= bound for one in milliseconds)) for bound in buckets())


class Canary:
    """A first release at 100 %, or one beside `origin` at half, whose counters rise by what a test
    says, look by look."""

    def __init__(self, origin: int | None = None) -> None:
        nothing = Traffic(latency=histogram([]), unanswered=histogram([]))
        self.counters = dict.fromkeys(NAMES, nothing)
        baseline = {name: vars(one) for name, one in self.counters.items()}
        steps = [50, 100] if origin else [100]
        rollout = Rollout(2, origin, "green", "canary", steps, stage="serving", baseline=baseline)
        self.step = StepEvidence(CONFIG, rollout, patience=PATIENCE)

    def look(self, name: str = "canary", lost: int = 0, **more: Any) -> Analysis:
        """What is decided after this came."""
        now = self.counters[name]
        if "out" in more or "active" in more:
            now = replace(now, out=more.get("out", now.out), active=more.get("active", now.active))
        self.counters[name] = now.plus(Traffic(**{**more, "out": False, "active": 0}))
        self.step.look(self.counters, lost)
        return self.now(60.0)

    def now(self, seconds: float) -> Analysis:
        found = self.step.tallies, self.step.limits, seconds, self.step.ejected, SOUND
        return analyse(CONFIG, *found, self.step.waiting)

    def answers(self, count: int, name: str = "canary") -> Analysis:
        """So many good ones, looked at one by one."""
        for _ in range(count):
            found = self.look(name, answered=1, latency=histogram([30.0]))
        return found


def test_own_requests_that_come_to_nothing_send_a_release_back():
    canary = Canary()
    decisions = [canary.look(lost=1).decision for _ in range(3)]
    assert decisions == ["wait", "wait", "rollback"]
    assert "3 of 3 answers were server faults" in canary.now(60.0).sentence()
    # Among good answers it takes more of them.
    canary = Canary()
    canary.answers(80)
    assert [canary.look(lost=1).decision for _ in range(20)][-1] == "rollback"


@pytest.mark.parametrize("name", ["canary", "canary_asked"])
def test_what_was_given_up_after_the_limit_is_slow_and_before_it_nothing(name: str):
    canary = Canary()
    for _ in range(50):
        assert canary.look(name, unanswered=histogram([900.0])).decision == "wait"
    assert canary.now(1000.0).decision == "hold"
    canary.look(name, unanswered=histogram([31_000.0]))
    found = canary.look(name, unanswered=histogram([2_000_000.0]))
    assert found.decision == "rollback" and "took longer than 2000 ms" in found.sentence()


def test_a_part_that_is_given_up_is_seen_among_good_answers():
    canary = Canary()
    canary.answers(50)
    for _ in range(50):
        found = canary.look(answered=4, latency=histogram([30.0] * 4), unanswered=histogram([9e3]))
    assert found.decision == "rollback"


def test_what_is_not_answered_yet_holds_a_release_up(monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    canary = Canary()
    for _ in range(88):
        clock[0] += 0.1
        found = canary.look(answered=1, latency=histogram([30.0]), active=20)
    assert found.decision == "wait" and "20 more are not answered yet" in found.sentence()
    # Others are under way at each moment, and none of them for long.
    canary.look(active=0)
    clock[0] += 0.1
    assert canary.look(active=20).decision == "promote"
    clock[0] += 1.5
    assert canary.look(active=20).decision == "promote"
    clock[0] += 0.6
    assert canary.look(active=20).decision == "wait"


def test_refusals_of_clients_mistakes_are_no_good_answers():
    canary = Canary()
    for _ in range(200):  # as fast as refusals are
        canary.look(refused=1, latency=histogram([3.0]))
    assert canary.now(1000.0).decision == "hold"
    assert canary.step.tallies.get("latency_p50", Tally()) == Tally()
    # Nor do they hide slow answers, also where the histogram has them a moment later.
    for _ in range(10):
        canary.look(answered=1, refused=9)
        found = canary.look(latency=histogram([3.0] * 9 + [2600.0]))
    assert found.decision == "rollback"


def test_while_a_slot_is_out_its_health_checks_are_what_counts():
    canary = Canary()
    canary.answers(10)
    canary.look("canary_asked", unhealthy=1)  # one that failed while the slot serves is no failure
    assert canary.step.tallies["errors"].surely == 0
    canary.look("canary_asked", unhealthy=1, out=True)
    for _ in range(100):  # by the other slot
        canary.look(answered=1, latency=histogram([30.0]))
    assert canary.step.tallies["errors"].answers == 11
    found = [canary.look("canary_asked", unhealthy=1).decision for _ in range(6)]
    assert found[-1] == "rollback"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the watch takes for the time, in seconds."""
    now = [1000.0]
    shown = SimpleNamespace(monotonic=lambda: now[0], time=time.time)
    monkeypatch.setattr(watch, "time", shown)
    return now


def test_what_takes_long_because_more_is_asked_than_can_be_done_is_nobodys_fault(
    clock: list[float],
) -> None:
    canary, slow = Canary(origin=1), histogram([20_000.0])
    canary.answers(60, "running")
    canary.answers(10)
    for _ in range(20):
        canary.look("running", full=9, active=40)
        found = canary.look(answered=1, latency=slow, lost=1)
    # What waited then is answered after it, or given up.
    clock[0] += PATIENCE - 1
    for _ in range(15):
        canary.look("running", answered=1, latency=slow, active=0)
        found = canary.look(answered=1, latency=slow)
    assert found.decision == "wait" and canary.step.overloaded
    assert (canary.step.tallies["errors"].answers, canary.step.tallies["errors"].surely) == (45, 0)
    clock[0] += 2
    found = [canary.look(answered=1, latency=slow).decision for _ in range(20)]
    assert found[-1] == "rollback"


def test_what_the_running_release_answers_when_it_is_full_is_no_measure(clock: list[float]) -> None:
    canary, slow = Canary(origin=1), histogram([1900.0])
    for _ in range(60):
        canary.look("running", full=1, answered=1, latency=slow)
    assert not canary.step.limits
    clock[0] += PATIENCE + 1
    canary.answers(60, "running")
    found = [canary.look(answered=1, latency=slow).decision for _ in range(30)]
    assert found[-1] == "rollback"


def test_a_canary_that_is_full_beside_a_release_that_is_not_is_slow_itself():
    canary = Canary(origin=1)
    canary.answers(60, "running")
    for _ in range(20):
        found = canary.look(full=9, answered=1, latency=histogram([20_000.0]), active=30)
    assert found.decision == "rollback"


def test_an_image_without_a_score_counts_as_none():
    tally = Tally(looks=1000)
    tallies = dict.fromkeys(("errors", "latency_p50", "latency_p95", "latency_p99"), tally)
    limits = {"users": latency_limits(CONFIG, None)}
    for scores in ([float("nan")] * 10, [1.0] * 3 + [float("nan")] * 20):
        images = [(score, 1.0) for score in scores]
        assert (
            analyse(CONFIG, tallies, limits, 60.0, 0, Quality(FAMILY, images)).decision
            == "rollback"
        )


# --- what the rollout asks for itself ----------------------------------------------------------

ENTRY = {"prompt": "a", "negative_prompt": "", "num_inference_steps": 1, "guidance_scale": 1.0}


def collected(address: str, seconds: float = 20.0) -> Counter[int]:
    """What three requests to release 2 have lost."""
    replay = Replay(Endpoint(address), FAMILY, "cloth", [(ENTRY, 1.0)], lambda *_: [], seconds)
    lost: Counter[int] = Counter()
    try:
        for _ in range(3):
            replay.ask(2, judged=True)
            assert wait_until(lambda: replay.idle, 20, pause=0.01)
            lost += replay.collect()
    finally:
        replay.close()
    assert replay.unjudged == 0
    return lost


def refusing(code: grpc.StatusCode) -> Callable[..., Any]:
    def refuse(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        context.abort(code, "no")

    return refuse


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("adire_assets.serving.rollout.replay.PAUSE_SECONDS", 0.0)
    with Backend({"cloth": 2}) as made:
        yield made


def test_an_own_request_that_is_not_answered_is_lost(backend: Backend):
    backend.seconds = 1.0
    assert collected(f"127.0.0.1:{backend.grpc_port}", seconds=0.1) == {2: 3}


def test_an_answer_that_is_none_of_a_release_is_lost(backend: Backend):
    assert collected(f"127.0.0.1:{backend.grpc_port}") == {2: 3}  # without images


@pytest.mark.parametrize(
    ("code", "lost"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 3),  # of a prompt that the evaluation has drawn
        (grpc.StatusCode.NOT_FOUND, 3),
        (grpc.StatusCode.UNIMPLEMENTED, 3),
        (grpc.StatusCode.INTERNAL, 0),  # the gateway counts it
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 0),  # the gateway refused it
    ],
)
def test_a_refused_request_is_lost_where_nobody_counts_it(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, code: grpc.StatusCode, lost: int
):
    monkeypatch.setattr("tests.support.backend._Service.ModelInfer", refusing(code))
    backend.stop()
    backend.start()
    assert collected(f"127.0.0.1:{backend.grpc_port}")[2] == lost


def test_who_is_not_let_in_is_told_and_no_release_is_blamed(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
):
    refused = refusing(grpc.StatusCode.UNAUTHENTICATED)
    monkeypatch.setattr("tests.support.backend._Service.ModelInfer", refused)
    backend.stop()
    backend.start()
    with pytest.raises(UserError, match="without a good token"):
        collected(f"127.0.0.1:{backend.grpc_port}")


def test_a_mistake_of_our_own_ends_in_an_error_instead_of_a_standstill(backend: Backend):
    replay = Replay(
        Endpoint(f"127.0.0.1:{backend.grpc_port}"),
        FAMILY,
        "cloth",
        [({"hue": 1}, 1.0)],
        lambda *_: [],
        5.0,
    )
    replay.ask(2, judged=False)
    assert wait_until(lambda: replay.idle, 20, pause=0.01)
    with pytest.raises(KeyError):
        replay.collect()
    replay.close()
