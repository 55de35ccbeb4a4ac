"""A release on its way to its users, carried out by whoever holds the lease.

    loading -> checking -> [mirroring] -> serving 5 % -> 25 % -> 100 % -> live
                                                      \\-> as before

`begin` writes a rollout into the records of all targets at once; `carry_out` takes it from
wherever it stands to its end, or follows whoever does. Every step is written into the record before
the gateway is told, so a holder may die at any moment: once its lease has run out, the next caller
of `carry_out` goes on from there. Two never fight: a change by who no longer holds the lease is
refused.

A target waits until the one before it is live. When it sends the release back, those before it go
back too (`on_failure: rollback`) by the same plan, and those behind it never begin.
"""

from collections.abc import Callable
from dataclasses import replace

from adire_assets.config.fleet import FleetConfig
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.serving import record
from adire_assets.serving.rollout import rollback
from adire_assets.serving.rollout.controller import (
    Progress,
    Refusal,
    Report,
    RolloutController,
    where,
)
from adire_assets.serving.rollout.steps import new_rollout
from adire_assets.serving.rollout.watch import OpenJudge
from adire_assets.serving.state import DeploymentRecord, Step


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
            steps = {}
            for name, state in states.items():
                if state.live != number and state.rollout is None:
                    begun = new_rollout(project, fleet, name, state, number, list(missing))
                    steps[name] = Step(begin=begun)
                if state.live != number:
                    missing.append(name)
            return steps

        record.commit(project, model, fleet.targets, decide)
        return bool(missing)


def carry_out(
    project: Project,
    fleet: FleetConfig,
    model: str,
    *,
    open_judge: OpenJudge,
    progress: Progress,
    report: Report = lambda target, decision: None,
    refusal: Refusal = lambda release, software: None,
    follow: Callable[[], None] = lambda: None,
) -> None:
    """Take the rollouts of a model to their end, target by target, or follow whoever does.

    `refusal` is asked of each target's slot, before a request of a user comes to it. Then what
    the latest plan lacks outside the records is done (`rollback.finish`, which calls `follow`).
    """
    # Again, since a target that sends a release back may have one before it go back too.
    while any(record.read(project, target, model).rollout for target in fleet.targets):
        for target in fleet.targets:
            RolloutController(
                project, fleet, target, model, open_judge, progress, report, refusal
            ).run()
    rollback.finish(project, fleet, model, progress, follow)


def approve(project: Project, fleet: FleetConfig, model: str, reason: str) -> list[str]:
    """Let the rollouts that wait for a decision go on; a line for each. UserError without one."""
    if not reason.strip():
        raise UserError("going on needs a reason, which is kept with the rollout")
    said = []
    for target in fleet.targets:

        def approved(state: DeploymentRecord) -> DeploymentRecord:
            now = state.rollout
            if now is None or now.stage not in ("mirroring", "serving"):
                return state
            said.append(f"release {now.number} of {model} goes on from {where(now)} on {target}")  # noqa: B023
            return replace(state, rollout=replace(now, approved=True, reason=reason))

        record.change(project, target, model, approved)
    if not said:
        raise UserError(f"no release of {model} is waiting for a decision; look at `adire status`")
    return said
