"""The values of a deployment record and of a plan, and how one record follows from another.

Nothing here reads or writes a file; `record` does.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

Decision = Mapping[str, Any]
Stage = Literal["waiting", "loading", "checking", "mirroring", "serving"]


@dataclass(frozen=True)
class Rollout:
    """A release on its way. Times are seconds since 1970.

    `waiting` for the targets in `after`; `loading` into `slot`; `checking` there; `mirroring`
    requests; `serving` `steps[step]` percent of them. With the strategy "rollback" it is an earlier
    release that `reason` asks for, and live as soon as it is loaded.
    """

    number: int
    origin: int | None  # the release that is live meanwhile
    slot: str
    strategy: str
    steps: list[int]
    stage: Stage = "loading"
    step: int = 0
    since: float = 0.0  # when this stage or step began
    after: list[str] = field(default_factory=list)
    lease: dict[str, Any] = field(default_factory=lambda: {"holder": "", "until": 0.0})
    baseline: dict[str, Any] = field(default_factory=dict)  # the gateway's counters at `since`
    # What the running release had answered when the first step began; what latencies the step
    # allows, fixed once; what the looks at it have come to (see `watch`).
    reference: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, dict[str, float]] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)
    judged: list[tuple[float, float]] = field(default_factory=list)  # scores served, evaluated
    quality: list[float] | None = None  # in records of earlier versions; not read
    held: bool = False  # no decision within maximum_seconds: told, and waiting for a person
    approved: bool = False  # that person has said to go on
    reason: str | None = None  # what that person has said, or why this goes back
    decisions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def percent(self) -> int:
        """Its share of the users' requests."""
        return self.steps[self.step] if self.stage == "serving" else 0

    @property
    def loaded(self) -> bool:
        return self.stage not in ("waiting", "loading")

    @property
    def where(self) -> str:
        """The stage, or the share of the requests in it."""
        return f"{self.percent} %" if self.stage == "serving" else self.stage

    def abandoned(self) -> bool:
        """Whether nobody carries it out."""
        return bool(self.lease["until"] < time.time())

    def decision(self, decision: str, sentence: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """What stands in the record of a decision about it."""
        where = {"release": self.number, "stage": self.stage, "percent": self.percent}
        made = {"decision": decision, "sentence": sentence, "numbers": dict(numbers)}
        return {**where, **made, "at": now()}

    def summary(
        self, outcome: str, reason: str | None, at: str = "", decision: Decision | None = None
    ) -> dict[str, Any]:
        """What stays of it as `last_rollout`; `decision` comes last."""
        decisions = [*self.decisions, *([dict(decision)] if decision else [])]
        ended = {"number": self.number, "outcome": outcome, "reason": reason, "at": at or now()}
        return {**ended, "decisions": decisions}


@dataclass(frozen=True)
class DeploymentRecord:
    """`live` is the release that serves, None before the first, from the slot `active`.

    `slots` says what each slot should hold: the other one the release before, a release on its way,
    or a second copy of the live one, so that there is always something to fall back to.

    An entry of `history`: {"number", "at", "action": "deploy" | "rollback", "reason", "from"}.
    `last_rollout`: how the latest rollout ended: {"number", "outcome": "live" | "rolled_back" |
    "failed" | "cancelled", "reason", "at", "decisions"}.
    `token`: the latest plan that has changed it. `quarantine`: release -> the latest decision here
    that sent it back, {"reason", "at", "revision"}. `usual`: release -> what a request of the
    default size takes here, the fields of `core.answer.UsualRequest`, by its latest rollout.
    """

    model: str
    target: str
    revision: int = 0
    live: int | None = None
    active: str | None = None
    since: str | None = None
    verdict: dict[str, str] | None = None
    slots: dict[str, int] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    rollout: Rollout | None = None
    last_rollout: dict[str, Any] | None = None
    token: int = 0
    quarantine: dict[str, dict[str, Any]] = field(default_factory=dict)
    usual: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def live_text(self) -> str:
        """What is live, for a sentence: "release 3", or "nothing"."""
        return "nothing" if self.live is None else f"release {self.live}"

    @property
    def weights(self) -> dict[int, int]:
        """Release -> its percentage of the requests that name none."""
        canary = self.rollout
        if canary is None or not canary.percent:
            return {} if self.live is None else {self.live: 100}
        if self.live is None:
            return {canary.number: 100}
        return {self.live: 100 - canary.percent, canary.number: canary.percent}

    @property
    def filling(self) -> str | None:
        """The slot that a release is still on its way into."""
        return self.rollout.slot if self.rollout and not self.rollout.loaded else None

    @property
    def loaded(self) -> dict[int, str]:
        """Release -> the slot that answers for it."""
        found = {number: slot for slot, number in self.slots.items() if slot != self.filling}
        return found if self.live is None or not self.active else {**found, self.live: self.active}

    def outcome_of(self, number: int | None) -> str | None:
        """How the latest rollout of this release ended, unless it is live."""
        last = self.last_rollout
        return last["outcome"] if last and last["number"] == number != self.live else None

    def with_rollout(self, rollout: Rollout) -> "DeploymentRecord":
        """With this rollout, unless one is under way."""
        if self.rollout is not None:
            return self
        coming = {} if rollout.stage == "waiting" else {rollout.slot: rollout.number}
        return replace(self, rollout=rollout, slots={**self.slots, **coming})

    def with_live_release(
        self, number: int | None, action: str, reason: str | None, at: str | None = None
    ) -> "DeploymentRecord":
        """With another live release, from the slot that holds it, and its history."""
        at = at or now()
        entry = {"number": number, "at": at, "action": action, "reason": reason, "from": self.live}
        active = None if number is None else self.loaded.get(number)
        return replace(self, live=number, active=active, since=at, history=[*self.history, entry])

    def after_rollback(
        self, to: int | None, verdict: dict[str, str] | None, reason: str | None, at: str
    ) -> "DeploymentRecord":
        """After going back: what was live is quarantined, and in no slot."""
        slots = {name: number for name, number in self.slots.items() if number != self.live}
        after = self.with_live_release(to, "rollback", reason, at)
        after = replace(after, verdict=verdict, slots=slots)
        return after if self.live is None else after.with_quarantine(self.live, reason, at)

    def without_rollout(
        self, outcome: str, reason: str | None, at: str = "", decision: Decision | None = None
    ) -> "DeploymentRecord":
        """After a rollout that did not get there."""
        assert self.rollout
        gone = None if self.rollout.stage == "waiting" else self.rollout.slot
        slots = {name: number for name, number in self.slots.items() if name != gone}
        summary = self.rollout.summary(outcome, reason, at, decision)
        return replace(self, slots=slots, rollout=None, last_rollout=summary)

    def with_quarantine(self, number: int, reason: str | None, at: str) -> "DeploymentRecord":
        """What sends a release back. `revision` and `at` tell its decisions apart."""
        entry = {"reason": reason, "at": at, "revision": self.revision}
        return replace(self, quarantine={**self.quarantine, str(number): entry})


@dataclass(frozen=True)
class Step:
    """What a plan makes of one record.

    `begin` starts a rollout. `leave` ends the rollout of that release, or makes `to` live in its
    place (None: nothing) by `verdict`; with both, `to` is loaded first.
    """

    leave: int | None = None
    to: int | None = None
    verdict: dict[str, str] | None = None
    reason: str | None = None
    decision: dict[str, Any] | None = None  # the last one of the rollout that ends
    begin: Rollout | None = None


@dataclass(frozen=True)
class Plan:
    """A decision about a model on several targets. `kept`: all its records have it.

    `pending`: what it does, in words, as long as things outside the records may lack it.
    """

    token: int
    at: str
    steps: dict[str, Step]
    kept: bool = False
    pending: str | None = None

    def applied(self, state: DeploymentRecord) -> DeploymentRecord:
        """The record as the plan makes it; as it is, when it has come there or is not concerned."""
        step = self.steps.get(state.target)
        if step is None or self.kept or self.token <= state.token:
            return state
        after = replace(state, token=self.token, revision=state.revision + 1)
        if step.leave is not None and after.rollout and after.rollout.number == step.leave:
            after = after.with_quarantine(step.leave, step.reason, self.at)
            after = after.without_rollout("rolled_back", step.reason, self.at, step.decision)
        elif step.leave is not None and step.begin is None:
            after = after.after_rollback(step.to, step.verdict, step.reason, self.at)
        return after.with_rollout(step.begin) if step.begin else after


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
