"""What is live on a target: one record per model, the truth that everything else is brought to.

<home>/deployments/<target>/<model>.json says which release is live, which release each slot should
hold, how far a rollout has come, and which releases were sent back. It is replaced whole, under a
lock, by a function of what it says now (`change`). Routes, slots and MLflow's aliases follow from
it: who brings one of them there holds that one's lock and reads the record inside it, so whatever
was decided before, what is done last is what the newest record says.

What concerns several targets is a plan, <home>/deployments/<model>.json (`commit`). It is in force
on all of them the moment that it is written: who reads a record that the plan has not reached sees
it as the plan makes it, and whoever changes that record next writes it so. Each plan of a model has
a higher `token` than the one before; a record is changed by a plan once, and by no older one.

A rollout belongs to the holder of its lease. The holder renews it; when it dies, the lease runs out
and anybody may take the rollout over where it stands. A change by a former holder is refused.

A release that was sent back is quarantined: refused everywhere until that is lifted with a
reason. The record says so in the same write that sends it back. <home>/quarantine/<model>/<N>.json
keeps that for people, which decisions it knows of (`seen`), and whether they were lifted.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.store import lock, read_as, read_json, write_json
from adire_assets.serving.state import DeploymentRecord, Plan, Rollout, Step, now
from adire_assets.serving.state import after_rollback as after_rollback
from adire_assets.serving.state import rollout_summary as rollout_summary
from adire_assets.serving.state import with_live_release as with_live_release
from adire_assets.serving.state import with_rollout as with_rollout
from adire_assets.serving.state import without_rollout as without_rollout

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
        return Plan(**found, steps={target: _step(**step) for target, step in steps.items()})

    path = _plan_path(project, model)
    return read_as(path, whole) if path.is_file() else None


def _step(begin: Mapping[str, Any] | None = None, **found: Any) -> Step:
    return Step(**found, begin=Rollout(**begin) if begin else None)


def _stored(project: Project, target: str, model: str) -> DeploymentRecord:
    path = _path(project, target, model)
    if not path.is_file():
        return DeploymentRecord(model, target)

    def whole(rollout: dict[str, Any] | None = None, **found: Any) -> DeploymentRecord:
        return DeploymentRecord(**found, rollout=Rollout(**rollout) if rollout else None)

    return read_as(path, whole)


def read_all(
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
        if after is not current:
            after = replace(after, revision=current.revision + 1)
        if after is not current or current.token != _stored(project, target, model).token:
            write_json(_path(project, target, model), asdict(after))
    return after


def commit(
    project: Project,
    model: str,
    targets: Iterable[str],
    decide: Callable[[dict[str, DeploymentRecord]], dict[str, Step]],
    pending: str | None = None,
) -> Plan | None:
    """Change the records of several targets at once, as `decide` makes steps of what they say.

    Nobody changes any of them meanwhile; what `decide` raises leaves all as they are, and so does
    an answer without steps, for which None is returned.
    """
    with lock(project, f"plan-{model}"), ExitStack() as held:
        before = read_plan(project, model)
        wanted = list(targets)
        for target in sorted({*wanted, *(before.steps if before else ())}):
            held.enter_context(lock(project, f"deployment-{target}-{model}"))
        states = {target: read(project, target, model) for target in wanted}
        steps = decide(states)
        if not steps:
            return None
        last = _kept(project, model, before) if before else None
        tokens = [last.token if last else 0, *(state.token for state in states.values())]
        # What an earlier plan has left undone is left to who carries this one out.
        undone = pending or (last.pending if last else None)
        made = Plan(max(tokens) + 1, now(), steps, pending=undone)
        write_json(_plan_path(project, model), asdict(made))
        return _kept(project, model, made)


def finish_plan(project: Project, model: str, token: int) -> None:
    """Note that nothing lacks the plan any more; nothing to note when a later one is in force."""
    with lock(project, f"plan-{model}"), ExitStack() as held:
        found = read_plan(project, model)
        if found and found.token == token:
            for target in sorted(found.steps):
                held.enter_context(lock(project, f"deployment-{target}-{model}"))
            done = replace(_kept(project, model, found), pending=None)
            write_json(_plan_path(project, model), asdict(done))


def _kept(project: Project, model: str, found: Plan) -> Plan:
    """Write the records as a plan makes them, whose locks the caller holds."""
    if found.kept:
        return found
    for target in found.steps:
        state = _stored(project, target, model)
        if (after := found.applied(state)) is not state:
            write_json(_path(project, target, model), asdict(after))
    done = replace(found, kept=True)
    write_json(_plan_path(project, model), asdict(done))
    return done


# --- quarantine --------------------------------------------------------------------------------


def quarantine(project: Project, model: str, number: int, reason: str) -> None:
    """Keep a release from being deployed, by whatever command, until it is lifted.

    What was before, and why that was lifted, stays in the file.
    """
    with lock(project, f"quarantine-{model}"):
        kept = _quarantine(project, model, number)
        _write(project, model, number, _again(kept, reason, now()))


def sync_quarantine(project: Project, model: str, number: int) -> None:
    """Let the file of a release say what the records do."""
    with lock(project, f"quarantine-{model}"):
        _keep(project, model, number)


def lift_quarantine(project: Project, model: str, number: int, reason: str) -> None:
    """Allow a quarantined release again. UserError without a reason, or when it is not one.

    A decision that sends it back later holds again, however long it was on its way here.
    """
    if not reason.strip():
        raise UserError("lifting a quarantine needs a reason, which is kept with the release")
    with lock(project, f"quarantine-{model}"):
        kept = _keep(project, model, number)
        if not kept or kept["lifted"]:
            raise UserError(f"release {number} of {model} is not quarantined")
        lift_reason = {"reason": reason, "at": now()}
        _write(project, model, number, {**kept, "lifted": lift_reason})


def quarantine_reason(project: Project, model: str, number: int) -> str | None:
    """Why a release is quarantined, None when it is not."""
    found = _quarantine(project, model, number)
    if decided := _unseen(project, model, number, found):
        found = _latest(decided)
    return None if not found or found.get("lifted") else f"{found['reason']} ({found['at']})"


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


def _path(project: Project, target: str, model: str) -> Path:
    return project.home / "deployments" / target / f"{model}.json"


def _quarantine_path(project: Project, model: str, number: int) -> Path:
    return project.home / "quarantine" / model / f"{number}.json"


def _plan_path(project: Project, model: str) -> Path:
    return project.home / "deployments" / f"{model}.json"


def _quarantine(project: Project, model: str, number: int) -> dict[str, Any]:
    """The file, empty when there is none."""
    path = _quarantine_path(project, model, number)
    return dict(read_json(path)) if path.is_file() else {}


def _write(project: Project, model: str, number: int, kept: dict[str, Any]) -> None:
    write_json(_quarantine_path(project, model, number), kept)


def _keep(project: Project, model: str, number: int) -> dict[str, Any]:
    """The file, brought to what the records say; the caller holds its lock."""
    kept = _quarantine(project, model, number)
    if decided := _unseen(project, model, number, kept):
        latest = _latest(decided)
        kept = _again(kept, latest["reason"], latest["at"])
        kept["seen"] = {**kept.get("seen", {}), **decided}
        _write(project, model, number, kept)
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
    for path in (project.home / "deployments").glob(f"*/{model}.json"):
        target = path.parent.name
        entry = read(project, target, model).quarantine.get(str(number))
        if entry and entry != seen.get(target):
            found[target] = entry
    return found


def _latest(decided: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    return max(decided.values(), key=lambda one: str(one["at"]))
