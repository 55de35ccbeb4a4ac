"""What is known about a release in one step of its rollout: counters, replays, judged answers.

A look reads the gateway's counters and adds what came since the one before to the step's tallies
(see `analysis`). They are kept in the record every few seconds, so that another holder of the lease
goes on with them; what was answered since then is one look to it.

Latencies are compared within a kind of requests: users' and the rollout's own. What they may be is
fixed once in a step, from what the running release has answered to that kind since the first step
of the rollout began, as soon as that is enough to bound its p95. Until then the looks are put by
(another holder counts what comes after it took over).
At 100 % no user asks the running release, and what it has answered since the gateway started counts
in its place; where that is too little too, only the absolute limit holds.

Where a protocol's answers show more of themselves (`analysis.SHOWN`), that is compared in the same
way; of those as long as allowed, users' requests only, since own ones have their quality judged.

What does not come is evidence too, or a release that hangs would be held for ever: a request that
was given up counts as slow when it was waited for long enough, and of the rollout's own as a fault
besides; one that is not answered yet speaks against going on as soon as a good answer would have
been there. While the slot does not answer health checks, these are what it is judged by.

While users of the running release are refused because it is full, more is asked than the machine
can do: how long answers take shows that, and nothing about either release. So does an own request
that is given up. That lasts until the gateway has given up, at the latest, whatever waited then.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, replace
from functools import reduce
from pathlib import Path
from typing import Any

from adire_assets.config.fleet import TAILS, FleetConfig, RolloutConfig
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family
from adire_assets.core.project import Project
from adire_assets.core.store import Store
from adire_assets.serving import release
from adire_assets.serving.gateway import config, routing
from adire_assets.serving.gateway.protocol import protocols_named
from adire_assets.serving.gateway.traffic import Traffic, from_record, without_fastest
from adire_assets.serving.record import LEASE_SECONDS, Rollout
from adire_assets.serving.rollout import limits
from adire_assets.serving.rollout.analysis import Analysis, Quality, Tally, analyse
from adire_assets.serving.rollout.replay import Judge, Replay

THIN_PER_SECOND = 10  # fewer answers of the canary are thin traffic
LOOK_SECONDS = 0.1  # from one look to the next, or until an answer to an own request
HELD_SECONDS = 0.5  # the same, while it waits for a person
# From one own request to the next: the histograms of two answers are to be read one by one.
APART_SECONDS = config.FLUSH_SECONDS
RUNNING_FIRST = 4  # requests to the running release for each to the canary, while it is measured
KEEP_SECONDS = LEASE_SECONDS / 4
# After so many times the slowest answer that is allowed, or so long, an own request is given up.
GIVEN_UP_AFTER, GIVEN_UP_SECONDS = 5, 2.0
NONE = Traffic()

OpenJudge = Callable[[Path], AbstractContextManager[Judge]]  # of a release, by its evaluation


class Watch:
    """Watches one rollout for as long as its process carries it out; `close` ends what it asks."""

    def __init__(
        self, project: Project, fleet: FleetConfig, target: str, model: str, open_judge: OpenJudge
    ) -> None:
        self.project, self.fleet, self.target, self.model = project, fleet, target, model
        self.config = fleet.targets[target].rollout
        self.gateway = routing.gateway_of(project, fleet, target)
        self.open_judge = open_judge
        self.stack = ExitStack()
        self.judge: Judge | None = None
        self.replay: Replay | None = None
        self.step: StepEvidence | None = None
        self.earlier: list[tuple[float, float]] = []  # what a former holder has had judged
        self.kept = self.asked = 0.0  # when the record was last told, and a request last sent

    def prepare(self, rollout: Rollout) -> None:
        """Let the judge load while something else is waited for."""
        if self.judge is None:
            wanted = release.read_record(self.project, self.model, rollout.number)
            evaluation = Store(self.project).open(wanted.evaluation).path
            self.judge = self.stack.enter_context(self.open_judge(evaluation))

    def close(self) -> None:
        self.stack.close()
        self.judge = self.replay = self.step = None

    def begin_step(self, rollout: Rollout) -> dict[str, Any]:
        """Fields of the record for the next step; `GatewayDown` without a gateway."""
        self.step = None
        baseline = {name: asdict(traffic) for name, traffic in self._counters(rollout).items()}
        reference = rollout.reference or baseline
        fields = {"baseline": baseline, "reference": reference, "limits": {}, "evidence": {}}
        return fields | ({"judged": self._judged()} if self.replay else {})

    def own_requests(self) -> int:
        """How many requests to the release this process has made in this step."""
        return self.step.own if self.step else 0

    def look(self, rollout: Rollout) -> tuple[Analysis, dict[str, Any]]:
        """What this step has shown so far, and the fields of the record that are to be kept.

        `GatewayDown` without a gateway; UserError when the judge has died.
        """
        replay = self._replaying(rollout)
        if self.step is None or self.step.since != rollout.since:
            # Whether its answers show more of themselves than how long they took.
            wanted = release.read_record(self.project, self.model, rollout.number)
            names = (*replay.plug.protocols, *([replay.plug.streams] if wanted.streams else []))
            shown = any(one.answers for one in protocols_named(names))
            patience = self.fleet.targets[self.target].gateway.request_timeout_seconds
            self.step = StepEvidence(self.config, rollout, shown, patience)
        step = self.step
        lost = replay.collect()[rollout.number]
        ever = self._counters(rollout)
        fixed = step.look(ever, lost)
        seconds = time.time() - rollout.since
        quality = self._judged()
        judged = Quality(replay.plug, quality)
        known = self.config, step.tallies, step.limits, seconds, step.ejected, judged
        found = analyse(*known, waiting=step.waiting, shown=step.shown)
        # One request a look.
        apart = time.monotonic() - self.asked >= APART_SECONDS
        if replay.idle and apart:
            self.asked = time.monotonic()
            undecided = found.numbers["quality"]["outcome"] == "open"
            room = len(quality) + replay.unjudged < self.config.judged_answers
            thin = step.users < THIN_PER_SECOND * seconds and step.own < self.config.replays_maximum
            thin = thin and not step.overloaded
            step.ask(rollout, replay, thin=thin, judged=undecided and room)
        if not fixed and time.monotonic() - self.kept <= KEEP_SECONDS:
            return found, {}
        self.kept = time.monotonic()
        return found, {"limits": step.limits, "evidence": step.evidence(), "judged": quality}

    def wait(self, rollout: Rollout) -> None:
        """Until it is time for the next look."""
        seconds = HELD_SECONDS if rollout.held else LOOK_SECONDS
        if self.replay and not rollout.held:
            self.replay.wait(seconds)
        else:
            time.sleep(seconds)

    def _judged(self) -> list[tuple[float, float]]:
        """(the score as served, as evaluated for the same prompt) of each answer so far."""
        return [*self.earlier, *(self.replay.scores if self.replay else ())]

    def _counters(self, rollout: Rollout) -> dict[str, Traffic]:
        """What both releases have answered so far, to users and to who asked for them."""
        found = dict.fromkeys(("canary", "canary_asked", "running", "running_asked"), NONE)
        for name, number in (("canary", rollout.number), ("running", rollout.origin)):
            if number is not None:
                found[name] = self.gateway.traffic(self.model, number)
                found[f"{name}_asked"] = self.gateway.pinned_traffic(self.model, number)
        return found

    def _replaying(self, rollout: Rollout) -> Replay:
        if self.replay is None:
            self.prepare(rollout)
            assert self.judge
            self.earlier = [(served, expected) for served, expected in rollout.judged]
            wanted = release.read_record(self.project, self.model, rollout.number)
            plug = release.family_of_release(self.project, wanted)
            self.replay = Replay(
                routing.endpoint_of(self.project, self.fleet, self.target),
                plug,
                self.model,
                self._evaluated(wanted, plug),
                self.judge,
                max(GIVEN_UP_SECONDS, GIVEN_UP_AFTER * self.config.latency_maximum_seconds),
            )
            self.stack.callback(self.replay.close)
        return self.replay

    def _evaluated(
        self, wanted: release.ReleaseRecord, plug: Family
    ) -> list[tuple[dict[str, Any], float]]:
        """(what to ask, the score to expect); UserError when no answer can be compared."""
        evaluation, served = Store(self.project).open(wanted.evaluation).path, plug.serve.functions
        scored = zip(served.requests(evaluation), served.expected(evaluation), strict=True)
        found = [(request, score) for request, score in scored if score > 0]
        if not found:
            raise UserError(
                f"no evaluated {plug.answer} of release {wanted.number} of {wanted.model} has a "
                f"{plug.served.quality} above 0, so that what is served has nothing to be compared "
                f"with; look at its evaluation with `adire report {wanted.model}@{wanted.number}`"
            )
        return found


class StepEvidence:
    """The looks at one stage or step, from where the record says that they stand.

    `patience`: the seconds after which the gateway gives up a request.
    """

    def __init__(
        self, config: RolloutConfig, rollout: Rollout, shown: bool = False, patience: float = 0.0
    ) -> None:
        self.config, self.since = config, rollout.since
        self.alone = rollout.origin is None
        self.shown = shown and not self.alone  # there is nothing else to compare it with
        self.everything = rollout.percent == 100
        self.mirroring = rollout.stage == "mirroring"
        # Of requests. Mirrored ones are copies of users', which a gateway counts as asked for.
        self.kinds = ("all",) if self.mirroring else ("users", "own")
        self.own = self.asked_running = 0
        self.limits = dict(rollout.limits)
        self.baseline = _traffic(rollout.baseline)
        self.reference = _traffic(rollout.reference) or self.baseline
        seen = rollout.evidence or {"counters": rollout.baseline, "tallies": {}}
        self.seen = _traffic(seen["counters"])
        self.tallies = {name: Tally(**values) for name, values in seen["tallies"].items()}
        self.unlimited: list[dict[str, Traffic]] = []  # looks at latencies without a limit yet
        self.active: list[tuple[float, int]] = []  # (when, how many requests were not answered)
        self.uncounted: Counter[str] = Counter()  # refusals that are latencies still, by kind
        self.patience, self.overloaded_until = patience, 0.0
        self.ejected = self.users = 0

    @property
    def overloaded(self) -> bool:
        """Whether how long answers take shows how much is asked."""
        return time.monotonic() < self.overloaded_until

    @property
    def wants_reference(self) -> bool:
        """Whether the rollout's own requests have nothing to be compared with yet."""
        return not self.alone and self.kinds[-1] not in self.limits

    def ask(self, rollout: Rollout, replay: Replay, thin: bool, judged: bool) -> None:
        """Have the next request sent: to judge its answer, or because traffic is thin."""
        # Mostly the running one, until there is enough of it: a slow canary is not waited for.
        if thin and self.wants_reference and self.asked_running <= RUNNING_FIRST * self.own:
            assert rollout.origin is not None
            self.asked_running += 1
            replay.ask(rollout.origin, judged=False)
        elif thin or judged:
            self.own += 1
            replay.ask(rollout.number, judged=judged)

    def look(self, ever: Mapping[str, Traffic], lost: int = 0) -> bool:
        """Count what came since the look before; whether a limit was fixed by it.

        `lost`: own requests that came to nothing since, which the gateway does not count.
        """
        new = {name: one.since(self.seen[name]) for name, one in ever.items()}
        if new["running"].full:
            self.overloaded_until = time.monotonic() + self.patience
        if self.overloaded:  # what the running release answers now is no measure
            lost, fixed, self.reference = 0, False, dict(ever)
        else:
            fixed = self._fix(ever)
        step = {name: one.since(self.baseline[name]) for name, one in ever.items()}
        canary = step["canary"].plus(step["canary_asked"])
        self.users = step["canary_asked" if self.mirroring else "canary"].answered
        self.ejected = canary.ejected
        self.active.append((time.monotonic(), canary.active))
        # A failure is counted a moment before its answer, and waits for it.
        early = {name for name, one in new.items() if one.answered <= 0}
        # While its slot is out, another one answers users in its place.
        own = ("canary_asked",) if canary.out else ("canary", "canary_asked")
        both = reduce(Traffic.plus, (new[name] for name in own if name not in early), NONE)
        failed = lost + (new["canary_asked"].unhealthy if canary.out else 0)
        errors = self.tallies.get("errors", Tally())
        failures = both.failed + failed
        self.tallies["errors"] = errors.plus(both.answered + failed, failures, failures)
        if not canary.out:
            answers = self._answers_of(self._by_kind(new, "canary"))
            self.unlimited += [] if self.overloaded else [answers]
        self.seen = {
            name: replace(one, failed=one.failed - new[name].failed) if name in early else one
            for name, one in ever.items()
        }
        self._count()
        return fixed

    @property
    def waiting(self) -> int:
        """How many requests, at most, have been unanswered for longer than any limit allows.

        There were never fewer than those under way, as long as they are.
        """
        absolute = self.config.latency_maximum_seconds * 1000
        latencies = [one[name] for one in self.limits.values() for name in TAILS]
        slowest = max(latencies, default=absolute)
        since = time.monotonic() - slowest / 1000
        before = sum(1 for when, _ in self.active if when < since)
        del self.active[: max(0, before - 1)]  # the last before it still held at that moment
        return min((count for _, count in self.active), default=0)

    def _answers_of(self, look: Mapping[str, Traffic]) -> dict[str, Traffic]:
        """Without the refusals of clients' mistakes: the histogram tells them from answers by no
        more than that they are fast, and has them a moment after the counters."""
        found = {}
        for kind, seen in look.items():
            self.uncounted[kind] += seen.refused
            taken = min(self.uncounted[kind], seen.timed)
            self.uncounted[kind] -= taken
            found[kind] = replace(seen, latency=without_fastest(seen.latency, taken))
        return found

    def evidence(self) -> dict[str, Any]:
        """As the record keeps it."""
        return {
            "counters": {name: asdict(one) for name, one in self.seen.items()},
            "tallies": {name: asdict(one) for name, one in self.tallies.items()},
        }

    def _count(self) -> None:
        """Count the latencies of the looks whose limits are fixed; put the others by."""
        left = []
        for look in self.unlimited:
            known = {kind: traffic for kind, traffic in look.items() if kind in self.limits}
            self.tallies = limits.count_latencies(self.tallies, self.limits, known)
            self.tallies = limits.count_shown(self.tallies, self.limits, known)
            rest = {kind: one for kind, one in look.items() if kind not in known}
            if any(one.shows for one in rest.values()):
                left.append(rest)
        self.unlimited = left

    def _fix(self, ever: Mapping[str, Traffic]) -> bool:
        """Fix what can be fixed now."""
        since = {name: one.since(self.reference[name]) for name, one in ever.items()}
        recent, always = self._by_kind(since, "running"), self._by_kind(ever, "running")
        before = len(self.limits)
        for kind in self.kinds:
            if kind in self.limits:
                continue
            if self.alone or self.config.latency_increase_maximum is None:
                self.limits[kind] = limits.latency_limits(self.config, None)
            elif recent[kind].timed >= limits.REFERENCE_ANSWERS:
                self.limits[kind] = self._limits(kind, recent[kind])
            elif kind == "users" and self.everything:
                self.limits[kind] = self._limits(kind, always[kind])
        return len(self.limits) > before

    def _limits(self, kind: str, running: Traffic) -> dict[str, float]:
        found = limits.latency_limits(self.config, running)
        if self.shown:
            found |= limits.shown_limits(self.config, running)
        if kind != self.kinds[0]:
            found.pop("cut_off", None)
        return found

    def _by_kind(self, counters: Mapping[str, Traffic], name: str) -> dict[str, Traffic]:
        """What a release, `canary` or `running`, has answered to each kind of requests."""
        users, asked = counters[name], counters[f"{name}_asked"]
        if self.mirroring:
            return {"all": users.plus(asked)}
        return {"users": users, "own": asked}


def _traffic(counters: Mapping[str, Any]) -> dict[str, Traffic]:
    """From the record."""
    return {name: from_record(values) for name, values in counters.items()}
