"""Going back: to an earlier release by hand, or on one target because another sent it back.

While the earlier release is still loaded in the other slot, going back is one change of the record
and one of the gateway's routes. A release that is left is quarantined first, so that no sensor
deploys it again, and taken out of its slot last.
"""

from collections.abc import Callable
from dataclasses import replace

from adire_assets.config import Project
from adire_assets.errors import UserError
from adire_assets.fleet_config import FleetConfig
from adire_assets.serving import record, release, routing, standby
from adire_assets.serving.gateway import GatewayDown
from adire_assets.serving.loading import Place
from adire_assets.serving.record import DeploymentRecord
from adire_assets.store import Store, lock

Progress = Callable[[str], None]


def rollback(
    project: Project,
    fleet: FleetConfig,
    model: str,
    to: int | None,
    reason: str,
    progress: Progress,
) -> list[DeploymentRecord]:
    """End a rollout that is under way, or go back from what is live, on every target.

    `to`: an earlier live release, by default the last one that is not quarantined. The release that
    is left is quarantined with `reason`. UserError, with nothing changed on that target, when there
    is nothing to go back to, or the earlier release does not load.
    """
    if not reason.strip():
        raise UserError("a rollback needs a reason, which is kept with the release that is left")
    with lock(project, f"rollout-{model}"):
        return [
            _end_rollout(project, fleet, state, reason, progress)
            if (state := record.read(project, target, model)).rollout and to is None
            else _back(project, fleet, state, to, reason, progress)
            for target in fleet.targets
        ]


def undo(
    project: Project,
    fleet: FleetConfig,
    target: str,
    model: str,
    reason: str,
    progress: Progress,
) -> DeploymentRecord:
    """Take the latest deployment on one target back; nothing is live after the very first."""
    state = record.read(project, target, model)
    origin = state.history[-1]["from"] if state.history else None
    if origin is None or record.quarantined(project, model, origin):
        return _leave(project, fleet, state, None, reason, progress)
    return _back(project, fleet, state, origin, reason, progress)


def _end_rollout(
    project: Project,
    fleet: FleetConfig,
    state: DeploymentRecord,
    reason: str,
    progress: Progress,
) -> DeploymentRecord:
    """Take a canary's traffic away; whoever carries it out finds it ended."""
    assert state.rollout
    canary = state.rollout
    record.quarantine(project, state.model, canary.number, reason)

    def ended(now: DeploymentRecord) -> DeploymentRecord:
        if now.rollout is None or now.rollout.number != canary.number:
            raise UserError(
                f"the rollout of release {canary.number} of {state.model} on {state.target} has "
                "just come to its end; look at `adire status`"
            )
        slots = {name: number for name, number in now.slots.items() if number != canary.number}
        last = record.ended(now.rollout, "rolled_back", reason)
        return replace(now, slots=slots, rollout=None, last_rollout=last)

    after = record.change(project, state.target, state.model, ended)
    _publish(project, fleet, state.target, progress)
    progress(f"release {canary.number} of {state.model} gets no request on {state.target} any more")
    standby.restock(project, fleet, state.target, state.model, progress)
    return after


def _back(
    project: Project,
    fleet: FleetConfig,
    state: DeploymentRecord,
    to: int | None,
    reason: str,
    progress: Progress,
) -> DeploymentRecord:
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
        state = _load(project, fleet, state, number, progress)
    return _leave(project, fleet, state, number, reason, progress)


def _leave(
    project: Project,
    fleet: FleetConfig,
    state: DeploymentRecord,
    number: int | None,
    reason: str,
    progress: Progress,
) -> DeploymentRecord:
    """Make `number` live; the release that was is quarantined, and at last taken away."""
    model, target, left = state.model, state.target, state.live
    assert left is not None
    record.quarantine(project, model, left, reason)
    verdict = release.read_record(project, model, number).verdict if number is not None else None

    def moved(now: DeploymentRecord) -> DeploymentRecord:
        if now.live != left or now.rollout:
            raise UserError(
                f"{model} was deployed by somebody else meanwhile: release {now.live} is live on "
                f"{target} since {now.since}; look at `adire status` and try again"
            )
        return replace(record.moved(now, number, "rollback", reason), verdict=verdict)

    record.change(project, target, model, moved)
    _publish(project, fleet, target, progress)
    progress(
        f"release {number} of {model} is live on {target}" if number else f"{model} is not live"
    )

    def without(now: DeploymentRecord) -> DeploymentRecord:
        held = {name: kept for name, kept in now.slots.items() if kept != left}
        return now if now.live == left or now.rollout else replace(now, slots=held)

    after = record.change(project, target, model, without)
    _publish(project, fleet, target, progress)
    standby.restock(project, fleet, target, model, progress)
    return after


def _load(
    project: Project,
    fleet: FleetConfig,
    state: DeploymentRecord,
    number: int,
    progress: Progress,
) -> DeploymentRecord:
    """Bring an earlier release into the slot that the live one is not in."""
    wanted = release.read_record(project, state.model, number)
    for part in (wanted.repository, wanted.base_model):
        Store(project).open(part)
    slot = standby.idle_slot(fleet, state)
    progress(f"release {number} of {state.model} is not loaded any more: loading it")
    place = Place(project, fleet, state.target, slot)
    with place.alone(state.model):
        place.put(wanted)
    return record.change(
        project,
        state.target,
        state.model,
        lambda now: replace(now, slots={**now.slots, slot: number}),
    )


def _publish(project: Project, fleet: FleetConfig, target: str, progress: Progress) -> None:
    try:
        routing.publish(project, fleet, target)
    except GatewayDown as down:
        progress(f"{down}; it will route as recorded")


def _earlier(project: Project, state: DeploymentRecord) -> int:
    for entry in reversed(state.history):
        number = entry["number"]
        known = number is not None and number != state.live
        if known and record.quarantined(project, state.model, number) is None:
            return int(number)
    raise UserError(
        f"there is no release of {state.model} to go back to on {state.target}: "
        f"{_listed(state)} were live, and all but {state.live} are quarantined"
    )


def _listed(state: DeploymentRecord) -> str:
    return ", ".join(str(n) for n in sorted({e["number"] for e in state.history if e["number"]}))
