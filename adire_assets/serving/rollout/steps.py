"""What slots are to hold: a release on its way, the one before, or a second copy of the live one.

A slot that is killed costs no request as long as the other one has something to answer with. A
quarantined release stands by in no slot: it would answer whoever asks for it by number.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from adire_assets.config.fleet import FleetConfig, fleet_file_name
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.serving import record, release
from adire_assets.serving.fleet.slot_client import SlotClient
from adire_assets.serving.gateway import routing
from adire_assets.serving.gateway.gateway import GatewayDown
from adire_assets.serving.slot_server import slots_speaking
from adire_assets.serving.state import DeploymentRecord, Rollout, Step

ALL_REQUESTS = [100]


def new_rollout(
    project: Project, fleet: FleetConfig, state: DeploymentRecord, number: int, after: list[str]
) -> Rollout:
    """A rollout as the fleet's description has it; `after`: the targets that come first."""
    config = fleet.targets[state.target].rollout
    # There is nothing to share the requests with before the first release.
    steps = config.steps if config.strategy == "canary" and state.live is not None else ALL_REQUESTS
    return Rollout(
        number=number,
        origin=state.live,
        slot=idle_slot(project, fleet, state, number),
        strategy=config.strategy,
        steps=list(steps),
        stage="waiting" if after else "loading",
        since=time.time(),
        after=after,
    )


def rollback_step(
    project: Project, fleet: FleetConfig, state: DeploymentRecord, to: int | None, reason: str
) -> Step:
    """Leaves what is live for `to` (None: for nothing), which is loaded first where it is not."""
    if to is None:
        return Step(leave=state.live, reason=reason)
    if to in state.loaded:
        verdict = release.read_record(project, state.model, to).verdict
        return Step(leave=state.live, to=to, verdict=verdict, reason=reason)
    slot = idle_slot(project, fleet, state, to)
    begin = Rollout(to, state.live, slot, record.ROLLBACK, list(ALL_REQUESTS), reason=reason)
    begin = replace(begin, since=time.time())
    return Step(leave=state.live, to=to, reason=reason, begin=begin)


def back_to_previous(
    project: Project, fleet: FleetConfig, state: DeploymentRecord, reason: str
) -> Step:
    """To what was live before the latest deployment; to nothing when that may not be any more."""
    before = state.history[-1]["from"] if state.history else None
    if before is not None and record.quarantine_reason(project, state.model, before):
        before = None
    return rollback_step(project, fleet, state, before, reason)


def idle_slot(project: Project, fleet: FleetConfig, state: DeploymentRecord, number: int) -> str:
    """The slot of the record's target that does not serve, of those that can serve this release;
    the first before anything is live. UserError when there are none."""
    wanted = release.read_record(project, state.model, number)
    target = fleet.targets[state.target]
    names = list(target.slots)
    # What a release of an earlier version is asked by, the one kind of server that there is speaks.
    if wanted.family or len({slot.server for slot in target.slots.values()}) > 1:
        protocols = release.family_of_release(project, wanted).protocols
        names = slots_speaking(target.slots, protocols)
        if not names:
            raise UserError(
                f"release {number} of {state.model} is asked by {', '.join(protocols)}, which no "
                f"slot of {state.target} speaks; give it two slots of another `server` in "
                f"{fleet_file_name()}"
            )
        if state.active in target.slots and state.active not in names:
            raise UserError(
                f"release {number} of {state.model} is asked by {', '.join(protocols)}, which the "
                f"live release {state.live} is not, so that clients of one cannot ask the other; "
                "give it a model of its own, or first take what is live away with "
                f'`adire rollback {state.model} --reason "..."`'
            )
    return next(name for name in names if name != state.active)


def without_quarantined(project: Project, state: DeploymentRecord) -> DeploymentRecord:
    """The record without quarantined standby releases. The live release and a rollout keep their
    slots; the controller ends the rollout."""
    filled = state.rollout.slot if state.rollout and state.rollout.stage != "waiting" else None
    kept = {
        name: number
        for name, number in state.slots.items()
        if number == state.live
        or name == filled
        or not record.quarantine_reason(project, state.model, number)
    }
    return state if kept == state.slots else replace(state, slots=kept)


def withdraw_quarantined(
    project: Project, fleet: FleetConfig, model: str, progress: Callable[[str], None]
) -> None:
    """Take quarantined releases of a model out of the slots in which they stand by, on all targets.

    First out of the records, then out of the routes, then out of the slots. What does not answer is
    reported, and fails nothing.
    """
    for target in record.targets(project, model):
        record.change(project, target, model, lambda state: without_quarantined(project, state))
        if target not in fleet.targets:
            progress(f"{target} is not in {fleet_file_name()}: what its slots hold is unknown")
            continue
        try:
            routing.publish(project, fleet, target)
        except GatewayDown as down:
            progress(f"{down}; it will route as recorded")
        except UserError as error:
            progress(f"the gateway of {target} does not route as recorded: {error}")
        try:
            restore_standby(project, fleet, target, model, progress)
        except UserError as error:
            progress(f"the slots of {target} are not as recorded: {error}")


def restore_standby(
    project: Project, fleet: FleetConfig, target: str, model: str, progress: Callable[[str], None]
) -> None:
    """Bring the slots to what is recorded, with a copy of the live release where nothing is.

    A rollout that is under way has its slot for itself. What fails here is told, and costs nothing
    but the copy.
    """

    def stocked(state: DeploymentRecord) -> DeploymentRecord:
        state = without_quarantined(project, state)
        if state.live is None or state.rollout:
            return state
        idle = idle_slot(project, fleet, state, state.live)
        if idle in state.slots:
            return state
        return replace(state, slots={**state.slots, idle: state.live})

    state = record.change(project, target, model, stocked)
    if state.rollout:
        return
    for name in slots_of(fleet, state):
        try:
            bring(project, fleet, target, model, name)
        except UserError as error:
            progress(f"slot {name} of {target} is not as recorded: {error}")


def slots_of(fleet: FleetConfig, state: DeploymentRecord) -> list[str]:
    """The slots that may hold something of a model: of the kind that does, all before one does."""
    slots = fleet.targets[state.target].slots
    kinds = {slots[name].server for name in state.slots if name in slots}
    return [name for name, slot in slots.items() if not kinds or slot.server in kinds]


def bring(project: Project, fleet: FleetConfig, target: str, model: str, name: str) -> None:
    """Have a slot hold what is recorded; nothing during a rollout. UserError when it cannot."""
    slot_client = SlotClient(project, fleet, target, name)
    with slot_client.exclusive(model):
        # Read here: while this waited for the slot, another release may have begun to come.
        state = record.read(project, target, model)
        if state.rollout:
            return
        number = state.slots.get(name)

        def require() -> None:
            now = record.read(project, target, model)
            if now.rollout or now.slots.get(name) != number:
                raise UserError("what it should hold has changed meanwhile")

        slot_client.wait()  # one that was just killed has started with what was recorded then
        ready = slot_client.ready(model)
        if number is None:
            for left in ready:
                require()
                slot_client.unload(model, left)
        elif ready != {number}:
            slot_client.load(release.read_record(project, model, number), require)
