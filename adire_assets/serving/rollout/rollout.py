"""Rollouts and rollbacks, carried out by the process that holds the lease.

    loading -> checking -> [mirroring] -> serving 5 % -> 25 % -> 100 % -> live
                                                      \\-> as before

`begin` writes a rollout into the records of all targets at once; `carry_out` takes it from
wherever it stands to its end, or follows whoever does. Every step is written into the record before
the gateway changes, so a holder may die at any moment: once its lease has run out, the next caller
of `carry_out` continues from there. Two never interfere: a change by a former holder is refused.

A target waits until the one before it is live. When it sends the release back, those before it go
back too (`on_failure: rollback`) by the same plan, and those behind it never begin.

A rollback is one plan over all targets (see `record.commit`): from the moment that it is written,
all records say what it decides. Where the earlier release is still loaded that is all but the
gateway's routes; where it is not, the plan begins a rollout of it that loads it first. A process
that dies anywhere in between leaves a pending plan, which `finish` brings to its end.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from adire_assets.config.fleet import FleetConfig
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.store import Store
from adire_assets.serving import record, release
from adire_assets.serving.gateway import routing
from adire_assets.serving.gateway.gateway import GatewayDown
from adire_assets.serving.rollout import steps, together
from adire_assets.serving.rollout.controller import Callbacks, RolloutController
from adire_assets.serving.rollout.replay import Judge
from adire_assets.serving.state import DeploymentRecord, Step

Progress = Callable[[str], None]


def begin(
    project: Project,
    fleet: FleetConfig,
    model: str,
    number: int,
    confirm: Callable[[], None] = lambda: None,
) -> bool:
    """Write the rollout of a release into the record of each target that does not serve it.

    False when there is none to do. A rollout of the same release that is under way stays as it is;
    UserError when it is another's. `confirm` may raise to refuse it at the last moment.
    """
    # Taking an approval back holds this lock too, and looks whether a rollout has begun.
    with project.locks.acquire(f"rollout-{model}"):
        record.refuse_quarantined(project, model, number)
        confirm()
        missing: list[str] = []

        def decide(states: dict[str, DeploymentRecord]) -> dict[str, Step]:
            record.refuse_quarantined(project, model, number)
            for name, state in states.items():
                if state.rollout and state.rollout.number != number:
                    raise UserError(
                        f"release {state.rollout.number} of {model} is on its way on {name} "
                        f"({state.rollout.stage}, {state.rollout.percent} %); wait for its end, or "
                        f'end it with `adire rollback {model} --reason "..."`'
                    )
            begun = {}
            for name, state in states.items():
                if state.live != number and state.rollout is None:
                    begin = steps.new_rollout(project, fleet, state, number, list(missing))
                    begun[name] = Step(begin=begin)
                if state.live != number:
                    missing.append(name)
            return begun

        record.commit(project, model, fleet.targets, decide)
        return bool(missing)


def carry_out(project: Project, fleet: FleetConfig, model: str, callbacks: Callbacks) -> None:
    """Take the rollouts of a model to their end, target by target, or follow whoever does.

    `callbacks.refusal` is asked of each target's slot, before a request of a user comes to it. Then
    what the latest plan lacks outside the records is done (see `finish`).
    """
    # Again, since a target that sends a release back may have one before it go back too.
    while any(record.read(project, target, model).rollout for target in fleet.targets):
        for target in fleet.targets:
            RolloutController(project, fleet, target, model, callbacks).run()
    finish(project, fleet, model, callbacks.progress, callbacks.follow)


def approve(
    project: Project, fleet: FleetConfig, model: str, reason: str, only: int | None = None
) -> list[str]:
    """Let the rollouts that wait for a decision go on, of release `only` where it is given; a line
    for each. UserError without one."""
    if not reason.strip():
        raise UserError("going on needs a reason, which is kept with the rollout")
    said = []
    for target in fleet.targets:

        def approved(state: DeploymentRecord) -> DeploymentRecord:
            now = state.rollout
            if now is None or now.stage not in ("mirroring", "serving"):
                return state
            if only not in (None, now.number):
                return state
            said.append(f"release {now.number} of {model} goes on from {now.where} on {target}")  # noqa: B023
            return replace(state, rollout=replace(now, approved=True, reason=reason))

        record.change(project, target, model, approved)
    if not said:
        raise UserError(f"no release of {model} is waiting for a decision; look at `adire status`")
    return said


# --- the way back ------------------------------------------------------------------------------


def rollback(
    project: Project,
    fleet: FleetConfig,
    model: str,
    to: int | None,
    reason: str,
    progress: Progress,
    follow: Callable[[], None] = lambda: None,
    only: int | None = None,
    leaving: int | None = None,
) -> list[DeploymentRecord]:
    """End a rollout that is under way, or go back from what is live, on every target at once.

    `to`: an earlier live release, by default the last one that is not quarantined. The release that
    is left is quarantined with `reason`. UserError, with nothing changed anywhere, when there is
    nothing to go back to on a target; UserError also when the earlier release does not load on one,
    or is quarantined while it does; that target stays as it was. `follow` is called when all
    records and routes are as decided.

    With `only`, it only ends the rollout of that release; UserError when there is none. With
    `leaving`, it only goes back from that release; UserError when it is not live everywhere, or a
    rollout is under way.

    A rollback that was left unfinished is finished; then only a named release is gone back to.
    """
    if not reason.strip():
        raise UserError("a rollback needs a reason, which is kept with the release that is left")
    if (left := record.read_plan(project, model)) and left.pending:
        progress(f"finishing what was begun at {left.at}: {left.pending}")
        states = finish(project, fleet, model, progress, follow)
        if only is leaving is None and (to is None or all(state.live == to for state in states)):
            return states

    def decide(states: dict[str, DeploymentRecord]) -> dict[str, Step]:
        coming = {state.rollout.number for state in states.values() if state.rollout}
        if only is not None and only not in coming:
            raise UserError(
                f"release {only} of {model} is no longer in a rollout; see `adire status`"
            )
        if leaving is not None and (coming or {one.live for one in states.values()} != {leaving}):
            raise UserError(
                f"release {leaving} of {model} is not the one that is live on all targets, or a "
                "rollout is under way; see `adire status`"
            )
        if not coming or to is not None:
            return {name: _back(project, fleet, one, to, reason) for name, one in states.items()}
        # A release that is on its way is taken away wherever it has got to, and nothing else is.
        return {
            name: Step(leave=state.rollout.number, reason=reason)
            if state.rollout
            else steps.back_to_previous(project, fleet, state, reason)
            for name, state in states.items()
            if state.rollout or state.live in coming
        }

    pending = f"{model} goes back{f' to release {to}' if to else ''}: {reason}"
    plan = record.commit(project, model, fleet.targets, decide, pending)
    assert plan
    for target, step in plan.steps.items():
        _publish(project, fleet, target, progress)
        _tell(model, target, step, progress)
    states = finish(project, fleet, model, progress, follow)
    for state in states:
        wanted = plan.steps.get(state.target)
        if wanted and wanted.begin and state.outcome_of(wanted.to) == "failed":
            raise UserError(
                f"release {wanted.to} of {model} did not come back on {state.target}, where "
                f"release {state.live} is still live: {(state.last_rollout or {})['reason']}"
            )
    return states


def finish(
    project: Project,
    fleet: FleetConfig,
    model: str,
    progress: Progress,
    follow: Callable[[], None] = lambda: None,
) -> list[DeploymentRecord]:
    """Do what a pending plan lacks outside the records; the records.

    Anybody may, at any time and several at once: all of it is read from the records again.
    """
    plan = record.read_plan(project, model)
    if plan and plan.pending:
        for target in fleet.targets:
            _publish(project, fleet, target, progress)
        for target in fleet.targets:
            callbacks = Callbacks(_no_judge, progress)
            RolloutController(project, fleet, target, model, callbacks).run(only=record.ROLLBACK)
        for number in {step.leave for step in plan.steps.values() if step.leave is not None}:
            record.sync_quarantine(project, model, number)
        for target in fleet.targets:
            steps.restore_standby(project, fleet, target, model, progress)
            together.bring_together(project, fleet, target, progress)
        follow()
        record.finish_plan(project, model, plan.token)
    return [record.read(project, target, model) for target in fleet.targets]


def _no_judge(evaluation: Path) -> AbstractContextManager[Judge]:
    """What goes back is not judged again."""
    raise UserError("a release that was live before is not judged again")


def _back(
    project: Project, fleet: FleetConfig, state: DeploymentRecord, to: int | None, reason: str
) -> Step:
    model, target = state.model, state.target
    if state.live is None:
        raise UserError(f"nothing of {model} is live on {target}")
    if state.rollout:
        raise UserError(
            f"release {state.rollout.number} of {model} is on its way on {target}; end that first: "
            f'`adire rollback {model} --reason "..."` without --to'
        )
    number = _earlier(project, state) if to is None else to
    if number == state.live:
        raise UserError(f"release {number} of {model} is the one that is live")
    if number not in {entry["number"] for entry in state.history}:
        raise UserError(
            f"release {number} of {model} was never live on {target}, so there is no way back to "
            f"it; releases that were: {_listed(state)}"
        )
    record.refuse_quarantined(project, model, number)
    if number not in state.loaded:
        wanted = release.read_record(project, model, number)
        for part in (wanted.repository, wanted.base_model):
            Store(project).open(part)
    return steps.rollback_step(project, fleet, state, number, reason)


def _tell(model: str, target: str, step: Step, progress: Progress) -> None:
    if step.begin:
        progress(f"release {step.to} of {model} is not loaded any more on {target}: loading it")
    elif step.to is not None:
        progress(f"release {step.to} of {model} is live on {target}")
    else:
        progress(f"release {step.leave} of {model} gets no request on {target} any more")


def _publish(project: Project, fleet: FleetConfig, target: str, progress: Progress) -> None:
    try:
        routing.publish(project, fleet, target)
    except GatewayDown as down:
        progress(f"{down}; it will route as recorded")


def _earlier(project: Project, state: DeploymentRecord) -> int:
    for entry in reversed(state.history):
        number = entry["number"]
        known = number is not None and number != state.live
        if known and record.quarantine_reason(project, state.model, number) is None:
            return int(number)
    if {entry["number"] for entry in state.history} <= {None, state.live}:
        raise UserError(
            f"there is no release of {state.model} to go back to on {state.target}: "
            f"{state.live} is the first that was live there"
        )
    raise UserError(
        f"there is no release of {state.model} to go back to on {state.target}: "
        f"{_listed(state)} were live, and all but {state.live} are quarantined"
    )


def _listed(state: DeploymentRecord) -> str:
    return ", ".join(str(n) for n in sorted({e["number"] for e in state.history if e["number"]}))
