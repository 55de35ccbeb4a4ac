"""Going back to an earlier release by hand, and finishing what any plan has left undone.

A rollback is one plan over all targets (see `record.commit`): from the moment that it is written,
all records say what it decides. Where the earlier release is still loaded that is all but the
gateway's routes; where it is not, the plan begins a rollout of it that loads it first. A process
that dies anywhere in between leaves a pending plan, which `finish` brings to its end.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from adire_assets.config.fleet import FleetConfig
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.store import Store
from adire_assets.serving import record, release
from adire_assets.serving.gateway import routing
from adire_assets.serving.gateway.gateway import GatewayDown
from adire_assets.serving.rollout import standby
from adire_assets.serving.rollout.controller import RolloutController
from adire_assets.serving.rollout.steps import previous_release, rollback_step
from adire_assets.serving.state import DeploymentRecord, Step

if TYPE_CHECKING:
    from adire_assets.serving.rollout.replay import Judge

Progress = Callable[[str], None]


def rollback(
    project: Project,
    fleet: FleetConfig,
    model: str,
    to: int | None,
    reason: str,
    progress: Progress,
    follow: Callable[[], None] = lambda: None,
) -> list[DeploymentRecord]:
    """End a rollout that is under way, or go back from what is live, on every target at once.

    `to`: an earlier live release, by default the last one that is not quarantined. The release that
    is left is quarantined with `reason`. UserError, with nothing changed anywhere, when there is
    nothing to go back to on a target; UserError also when the earlier release does not load on one,
    which stays as it was. `follow` is called when all records and routes are as decided.

    A rollback that was left unfinished is finished; then only a named release is gone back to.
    """
    if not reason.strip():
        raise UserError("a rollback needs a reason, which is kept with the release that is left")
    if (left := record.read_plan(project, model)) and left.pending:
        progress(f"finishing what was begun at {left.at}: {left.pending}")
        states = finish(project, fleet, model, progress, follow)
        if to is None or all(state.live == to for state in states):
            return states

    plan = record.commit(
        project,
        model,
        fleet.targets,
        lambda states: _steps(project, fleet, states, to, reason),
        pending=f"{model} goes back{f' to release {to}' if to else ''}: {reason}",
    )
    assert plan
    for target, step in plan.steps.items():
        _publish(project, fleet, target, progress)
        _tell(model, target, step, progress)
    states = finish(project, fleet, model, progress, follow)
    for state in states:
        wanted = plan.steps.get(state.target)
        last = state.last_rollout
        if (
            wanted
            and wanted.begin
            and last
            and (last["number"], last["outcome"])
            == (
                wanted.to,
                "failed",
            )
        ):
            raise UserError(
                f"release {wanted.to} of {model} did not load on {state.target}, where release "
                f"{state.live} is still live: {last['reason']}"
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
            controller = RolloutController(
                project, fleet, target, model, _no_judge, progress, lambda *_: None
            )
            controller.run(only=record.ROLLBACK)
        for number in {step.leave for step in plan.steps.values() if step.leave is not None}:
            record.sync_quarantine(project, model, number)
        for target in fleet.targets:
            standby.restore_standby(project, fleet, target, model, progress)
        follow()
        record.finish_plan(project, model, plan.token)
    return [record.read(project, target, model) for target in fleet.targets]


def _no_judge() -> AbstractContextManager["Judge"]:
    """What goes back is not judged again."""
    raise UserError("a release that was live before is not judged again")


def _steps(
    project: Project,
    fleet: FleetConfig,
    states: dict[str, DeploymentRecord],
    to: int | None,
    reason: str,
) -> dict[str, Step]:
    """What a rollback makes of the records. UserError when it leads nowhere."""
    coming = {state.rollout.number for state in states.values() if state.rollout}
    if not coming or to is not None:
        return {name: _back(project, fleet, one, to, reason) for name, one in states.items()}
    # A release that is on its way is taken away wherever it has got to, and nothing else is.
    steps = {}
    for name, state in states.items():
        if state.rollout:
            steps[name] = Step(leave=state.rollout.number, reason=reason)
        elif state.live in coming:
            steps[name] = rollback_step(
                project, fleet, state, previous_release(project, state), reason
            )
    return steps


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
    if state.slot_of(number) is None:
        wanted = release.read_record(project, model, number)
        for part in (wanted.repository, wanted.base_model):
            Store(project).open(part)
    return rollback_step(project, fleet, state, number, reason)


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
