"""What is live on a target: one record per model, the truth that everything else is brought to.

<home>/deployments/<target>/<model>.json says which release is live, which release each slot should
hold, and how far a rollout has come. It is replaced whole, under a lock, by a function of what it
says now (`change`). Routes, slots and MLflow's aliases follow from it, so whoever finds them
different (after any crash) brings them back.

A rollout belongs to the holder of its lease. The holder renews it; when it dies, the lease runs out
and anybody may take the rollout over where it stands. A change by a former holder is refused.

A release that was sent back lies in <home>/quarantine/<model>/<N>.json, and is refused by every
door until that is lifted with a reason.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from adire_assets.config import Project
from adire_assets.errors import UserError
from adire_assets.store import lock, read_as, read_json, write_json

LEASE_SECONDS = 10.0
Stage = Literal["waiting", "loading", "checking", "mirroring", "serving", "undoing"]


@dataclass(frozen=True)
class Rollout:
    """A release on its way. Times are seconds since 1970.

    `waiting` for the targets in `after`; `loading` into `slot`; `checking` there; `mirroring`
    requests; `serving` `steps[step]` percent of them; `undoing` what went before.
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
    judged: list[tuple[float, float]] = field(default_factory=list)  # CLIP-S served, evaluated
    quality: list[float] | None = None  # in records of earlier versions; not read
    held: bool = False  # no decision within maximum_seconds: told, and waiting for a person
    approved: bool = False  # that person has said to go on
    reason: str | None = None  # why it is being undone
    decisions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def percent(self) -> int:
        """Its share of the users' requests."""
        return self.steps[self.step] if self.stage == "serving" else 0

    @property
    def loaded(self) -> bool:
        return self.stage not in ("waiting", "loading")

    def abandoned(self) -> bool:
        """Whether nobody carries it out."""
        return bool(self.lease["until"] < time.time())


@dataclass(frozen=True)
class DeploymentRecord:
    """`live` is the release that serves, None before the first, from the slot `active`.

    `slots` says what each slot should hold: the other one the release before, a release on its way,
    or a second copy of the live one, so that there is always something to fall back to.

    An entry of `history`: {"number", "at", "action": "deploy" | "rollback", "reason", "from"}.
    `last_rollout`: how the latest rollout ended: {"number", "outcome": "live" | "rolled_back" |
    "failed" | "cancelled", "reason", "at", "decisions"}.
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
    def loaded(self) -> dict[int, str]:
        """Release -> the slot that answers for it."""
        coming = self.rollout.slot if self.rollout and not self.rollout.loaded else None
        found = {number: slot for slot, number in self.slots.items() if slot != coming}
        return found if self.live is None or not self.active else {**found, self.live: self.active}

    def slot_of(self, number: int) -> str | None:
        """The slot that answers for a release, None when none does."""
        return self.loaded.get(number)


def read(project: Project, target: str, model: str) -> DeploymentRecord:
    """The record, revision 0 when nothing was ever deployed."""
    path = _path(project, target, model)
    if not path.is_file():
        return DeploymentRecord(model, target)

    def whole(rollout: dict[str, Any] | None = None, **found: Any) -> DeploymentRecord:
        return DeploymentRecord(**found, rollout=Rollout(**rollout) if rollout else None)

    return read_as(path, whole)


def all_on(
    project: Project,
    target: str,
    broken: Callable[[str, UserError], None] = lambda model, error: None,
) -> list[DeploymentRecord]:
    """The records of every model on a target, by name.

    One that cannot be read harms its own model only: it is left out, and `broken` is told.
    """
    folder = project.home / "deployments" / target
    found = []
    for path in sorted(folder.glob("[a-z]*.json")):
        try:
            found.append(read(project, target, path.stem))
        except UserError as error:
            broken(path.stem, error)
    return found


def change(
    project: Project,
    target: str,
    model: str,
    function: Callable[[DeploymentRecord], DeploymentRecord],
) -> DeploymentRecord:
    """Replace the record by what `function` makes of it, as the next revision; the new record.

    What `function` raises leaves the record as it is.
    """
    with lock(project, f"deployment-{target}-{model}"):
        current = read(project, target, model)
        after = function(current)
        if after is current:
            return current
        after = replace(after, revision=current.revision + 1)
        write_json(_path(project, target, model), asdict(after))
    return after


def moved(
    record: DeploymentRecord, number: int | None, action: str, reason: str | None
) -> DeploymentRecord:
    """The record with another live release, from the slot that holds it, and its history."""
    entry = {"number": number, "at": now(), "action": action, "reason": reason, "from": record.live}
    active = None if number is None else record.slot_of(number)
    history = [*record.history, entry]
    return replace(record, live=number, active=active, since=now(), history=history)


def ended(rollout: Rollout, outcome: str, reason: str | None) -> dict[str, Any]:
    """What stays of a rollout as `last_rollout`."""
    return {
        "number": rollout.number,
        "outcome": outcome,
        "reason": reason,
        "at": now(),
        "decisions": rollout.decisions,
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# --- quarantine --------------------------------------------------------------------------------


def quarantine(project: Project, model: str, number: int, reason: str) -> None:
    """Keep a release from being deployed, by every door, until it is lifted.

    What was before, and why that was lifted, stays in the file.
    """
    path = _quarantine_path(project, model, number)
    before: list[dict[str, Any]] = []
    if path.is_file():
        last = read_json(path)
        before = [*last.pop("before", []), last]
    write_json(path, {"reason": reason, "at": now(), "lifted": None, "before": before})


def lift_quarantine(project: Project, model: str, number: int, reason: str) -> None:
    """Allow a quarantined release again. UserError without a reason, or when it is not one."""
    if not reason.strip():
        raise UserError("lifting a quarantine needs a reason, which is kept with the release")
    if quarantined(project, model, number) is None:
        raise UserError(f"release {number} of {model} is not quarantined")
    path = _quarantine_path(project, model, number)
    write_json(path, {**read_json(path), "lifted": {"reason": reason, "at": now()}})


def quarantined(project: Project, model: str, number: int) -> str | None:
    """Why a release is quarantined, None when it is not."""
    path = _quarantine_path(project, model, number)
    if not path.is_file():
        return None
    found = read_json(path)
    return None if found["lifted"] else f"{found['reason']} ({found['at']})"


def lifted(project: Project, model: str, number: int) -> str | None:
    """Why the latest quarantine of a release was lifted, None when it was not."""
    path = _quarantine_path(project, model, number)
    found = read_json(path)["lifted"] if path.is_file() else None
    return f"{found['reason']} ({found['at']})" if found else None


def refuse_quarantined(project: Project, model: str, number: int) -> None:
    """UserError for a release that is quarantined."""
    if reason := quarantined(project, model, number):
        raise UserError(
            f"release {number} of {model} is quarantined: {reason}; lift that with "
            f'`adire lift-quarantine {model} {number} --reason "..."`, or deploy another release'
        )


def _path(project: Project, target: str, model: str) -> Path:
    return project.home / "deployments" / target / f"{model}.json"


def _quarantine_path(project: Project, model: str, number: int) -> Path:
    return project.home / "quarantine" / model / f"{number}.json"
