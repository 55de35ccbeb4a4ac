"""What is live on a target: one record per model, which everything else follows.

<home>/deployments/<target>/<model>.json says which release is live, which release each slot should
hold, how far a rollout has come, and which releases were sent back. It is replaced whole, under a
lock, by a function of what it says now (`change`). Routes, slots and MLflow's aliases follow it: to
change one of them, a process takes that one's lock and reads the record while it holds it. So the
last change is always the one that the newest record asks for.

What concerns several targets is a plan, <home>/deployments/<model>.json (`commit`). It is in force
on all of them the moment that it is written: a reader of a record that the plan has not reached yet
sees it as the plan makes it, and the next change writes it so. Each plan of a model has
a higher `token` than the one before; a record is changed by a plan once, and by no older one.

A rollout belongs to the holder of its lease. The holder renews it; when it dies, the lease runs out
and anybody may take the rollout over where it stands. A change by a former holder is refused.

A release that was sent back is quarantined: refused everywhere until that is lifted with a
reason. The write of the record that sends it back says so. <home>/quarantine/<model>/<N>.json keeps
for people the reasons, the decisions that it knows of (`seen`), and whether they were lifted.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, replace
from typing import Any

from adire_assets.core.errors import UserError
from adire_assets.core.locks import Lease
from adire_assets.core.project import Project
from adire_assets.serving.state import DeploymentRecord, Plan, Rollout, Step, now

LEASE_SECONDS = 10.0
ROLLBACK = "rollback"  # the strategy of a rollout that leads back


def read(project: Project, target: str, model: str) -> DeploymentRecord:
    """The record, revision 0 when nothing was ever deployed."""
    # The plan first: a record is never older than a plan that was there before it was read.
    found = read_plan(project, model)
    stored = _stored(project, target, model)
    return found.applied(stored) if found else stored


def read_plan(project: Project, model: str) -> Plan | None:
    """The latest plan of a model."""

    def whole(steps: Mapping[str, Any], **found: Any) -> Plan:
        return Plan(**found, steps={target: step(**one) for target, one in steps.items()})

    def step(begin: Mapping[str, Any] | None = None, **found: Any) -> Step:
        return Step(**found, begin=Rollout(**begin) if begin else None)

    found = project.records.read(f"deployments/{model}")
    return None if found.value is None else found.as_kind(whole)


def _stored(project: Project, target: str, model: str) -> DeploymentRecord:
    def whole(rollout: Mapping[str, Any] | None = None, **rest: Any) -> DeploymentRecord:
        return DeploymentRecord(**rest, rollout=Rollout(**rollout) if rollout else None)

    found = project.records.read(f"deployments/{target}/{model}")
    return DeploymentRecord(model, target) if found.value is None else found.as_kind(whole)


def read_all(
    project: Project,
    target: str,
    broken: Callable[[str, UserError], None] = lambda model, error: None,
) -> list[DeploymentRecord]:
    """The records of every model on a target, by name.

    One that cannot be read harms its own model only: it is left out, and `broken` is told.
    """
    found = []
    for name in project.records.list(f"deployments/{target}"):
        model = name.rpartition("/")[2]
        try:
            found.append(read(project, target, model))
        except UserError as error:
            broken(model, error)
    return found


def targets(project: Project, model: str) -> list[str]:
    """The targets on which a model was ever deployed."""
    names = (name.split("/") for name in project.records.list("deployments"))
    return [name[1] for name in names if name[2:] == [model]]


def change(
    project: Project,
    target: str,
    model: str,
    function: Callable[[DeploymentRecord], DeploymentRecord],
) -> DeploymentRecord:
    """Replace the record by what `function` makes of it, as the next revision; the new record.

    What `function` raises leaves the record as it is.
    """
    with _alone(project, target, model) as lease:
        current = read(project, target, model)
        after = function(current)
        if after is not current:
            after = replace(after, revision=current.revision + 1)
        if after is not current or current.token != _stored(project, target, model).token:
            _keep_record(project, after, lease)
    return after


def commit(
    project: Project,
    model: str,
    wanted: Iterable[str],
    decide: Callable[[dict[str, DeploymentRecord]], dict[str, Step]],
    pending: str | None = None,
) -> Plan | None:
    """Change the records of several targets at once, as `decide` makes steps of what they say.

    Nobody changes any of them meanwhile; what `decide` raises leaves all as they are, and so does
    an answer without steps, for which None is returned.
    """
    with project.locks.acquire(f"plan-{model}") as lease, ExitStack() as held:
        before = read_plan(project, model)
        wanted = list(wanted)
        for target in sorted({*wanted, *(before.steps if before else ())}):
            held.enter_context(_alone(project, target, model))
        states = {target: read(project, target, model) for target in wanted}
        steps = decide(states)
        if not steps:
            return None
        last = _kept(project, model, before, lease) if before else None
        tokens = [last.token if last else 0, *(state.token for state in states.values())]
        # What an earlier plan has left undone is left to who carries this one out.
        undone = pending or (last.pending if last else None)
        made = Plan(max(tokens) + 1, now(), steps, pending=undone)
        _keep_plan(project, model, made, lease)
        return _kept(project, model, made, lease)


def finish_plan(project: Project, model: str, token: int) -> None:
    """Record that a plan is carried out; nothing to do when a later one is in force."""
    with project.locks.acquire(f"plan-{model}") as lease, ExitStack() as held:
        found = read_plan(project, model)
        if found and found.token == token:
            for target in sorted(found.steps):
                held.enter_context(_alone(project, target, model))
            done = replace(_kept(project, model, found, lease), pending=None)
            _keep_plan(project, model, done, lease)


def _kept(project: Project, model: str, found: Plan, lease: Lease) -> Plan:
    """Write the records as a plan makes them, whose locks the caller holds."""
    if found.kept:
        return found
    for target in found.steps:
        state = _stored(project, target, model)
        if (after := found.applied(state)) is not state:
            _keep_record(project, after, lease)
    done = replace(found, kept=True)
    _keep_plan(project, model, done, lease)
    return done


def _alone(project: Project, target: str, model: str) -> AbstractContextManager[Lease]:
    return project.locks.acquire(f"deployment-{target}-{model}")


def _keep_record(project: Project, state: DeploymentRecord, lease: Lease) -> None:
    name = f"deployments/{state.target}/{state.model}"
    project.records.change(name, lambda _: asdict(state), lease=lease)


def _keep_plan(project: Project, model: str, plan: Plan, lease: Lease) -> None:
    project.records.change(f"deployments/{model}", lambda _: asdict(plan), lease=lease)


# --- quarantine --------------------------------------------------------------------------------


def quarantine(project: Project, model: str, number: int, reason: str) -> None:
    """Keep a release from being deployed, by whatever command, until it is lifted.

    What was before, and why that was lifted, stays in the record.
    """
    _change(project, model, number, lambda kept: _again(kept, reason, now()))


def sync_quarantine(project: Project, model: str, number: int) -> None:
    """Let the quarantine of a release say what the deployment records do."""
    if _unseen(project, model, number, _quarantine(project, model, number)):
        _change(project, model, number, lambda kept: _synced(project, model, number, kept))


def lift_quarantine(project: Project, model: str, number: int, reason: str) -> None:
    """Allow a quarantined release again. UserError without a reason, or when it is not one.

    A later decision that sends it back quarantines it again, whenever that decision arrives here.
    """
    if not reason.strip():
        raise UserError("lifting a quarantine needs a reason, which is kept with the release")

    def lifted(kept: dict[str, Any]) -> dict[str, Any]:
        kept = _synced(project, model, number, kept)
        if not kept or kept["lifted"]:
            raise UserError(f"release {number} of {model} is not quarantined")
        return {**kept, "lifted": {"reason": reason, "at": now()}}

    _change(project, model, number, lifted)


def quarantine_entry(project: Project, model: str, number: int) -> dict[str, Any] | None:
    """Why ("reason") and since when ("at") a release is quarantined, None when it is not."""
    found = _quarantine(project, model, number)
    if decided := _unseen(project, model, number, found):
        found = _latest(decided)
    return None if not found or found.get("lifted") else found


def quarantine_reason(project: Project, model: str, number: int) -> str | None:
    """Why and since when a release is quarantined, for a sentence; None when it is not."""
    found = quarantine_entry(project, model, number)
    return f"{found['reason']} ({found['at']})" if found else None


def lift_reason(project: Project, model: str, number: int) -> str | None:
    """Why the latest quarantine of a release was lifted, None when it was not."""
    kept = _quarantine(project, model, number)
    found = None if _unseen(project, model, number, kept) else kept.get("lifted")
    return f"{found['reason']} ({found['at']})" if found else None


def refuse_quarantined(project: Project, model: str, number: int) -> None:
    """UserError for a release that is quarantined."""
    if reason := quarantine_reason(project, model, number):
        raise UserError(
            f"release {number} of {model} is quarantined: {reason}; lift that with "
            f'`adire lift-quarantine {model} {number} --reason "..."`, or deploy another release'
        )


def _quarantine(project: Project, model: str, number: int) -> dict[str, Any]:
    """The record, empty when there is none."""
    return dict(project.records.read(f"quarantine/{model}/{number}").value or {})


def _change(
    project: Project, model: str, number: int, function: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    project.records.change(f"quarantine/{model}/{number}", lambda kept: function(kept or {}))


def _synced(project: Project, model: str, number: int, kept: dict[str, Any]) -> dict[str, Any]:
    """The quarantine of a release, brought to what the deployment records say."""
    if decided := _unseen(project, model, number, kept):
        latest = _latest(decided)
        kept = _again(kept, latest["reason"], latest["at"])
        kept["seen"] = {**kept.get("seen", {}), **decided}
    return kept


def _again(kept: dict[str, Any], reason: str | None, at: str) -> dict[str, Any]:
    """What the file says after another quarantine; what it said is `before`."""
    last = {name: value for name, value in kept.items() if name not in ("before", "seen")}
    before = [*kept.get("before", []), *([last] if last else [])]
    return {**kept, "reason": reason, "at": at, "lifted": None, "before": before}


def _unseen(
    project: Project, model: str, number: int, kept: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Target -> its latest decision that sent the release back, where the file lacks that."""
    seen = kept.get("seen", {})
    found = {}
    for target in targets(project, model):
        entry = read(project, target, model).quarantine.get(str(number))
        if entry and entry != seen.get(target):
            found[target] = entry
    return found


def _latest(decided: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    return max(decided.values(), key=lambda one: str(one["at"]))
