"""Rollouts and ways back as the fleet's description and a target's record have them."""

import time

from adire_assets.config.fleet import FleetConfig
from adire_assets.core.project import Project
from adire_assets.serving import record, release
from adire_assets.serving.rollout import standby
from adire_assets.serving.state import DeploymentRecord, Rollout, Step

ALL_REQUESTS = [100]


def new_rollout(
    project: Project,
    fleet: FleetConfig,
    target: str,
    state: DeploymentRecord,
    number: int,
    after: list[str],
) -> Rollout:
    """A rollout as the fleet's description has it; `after`: the targets that come first."""
    config = fleet.targets[target].rollout
    # There is nothing to share the requests with before the first release.
    steps = config.steps if config.strategy == "canary" and state.live is not None else ALL_REQUESTS
    return Rollout(
        number=number,
        origin=state.live,
        slot=standby.idle_slot(project, fleet, state, number),
        strategy=config.strategy,
        steps=list(steps),
        stage="waiting" if after else "loading",
        since=time.time(),
        after=after,
    )


def rollback_step(
    project: Project,
    fleet: FleetConfig,
    state: DeploymentRecord,
    to: int | None,
    reason: str,
) -> Step:
    """Leaves what is live for `to` (None: for nothing), which is loaded first where it is not."""
    if to is None:
        return Step(leave=state.live, reason=reason)
    if state.slot_of(to) is not None:
        verdict = release.read_record(project, state.model, to).verdict
        return Step(leave=state.live, to=to, verdict=verdict, reason=reason)
    slot = standby.idle_slot(project, fleet, state, to)
    begin = Rollout(
        to, state.live, slot, record.ROLLBACK, list(ALL_REQUESTS), since=time.time(), reason=reason
    )
    return Step(leave=state.live, to=to, reason=reason, begin=begin)


def previous_release(project: Project, state: DeploymentRecord) -> int | None:
    """What was live before the latest deployment, None when that may not be any more."""
    before = state.history[-1]["from"] if state.history else None
    if before is None or record.quarantine_reason(project, state.model, before):
        return None
    return int(before)
