"""Brings a release live on every target; says how slots and routes differ from the records."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from adire_assets.config.fleet import FleetConfig, fleet_file_name
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.waiting import wait_until
from adire_assets.serving import record, release
from adire_assets.serving.fleet.served_releases import log_explanation
from adire_assets.serving.fleet.slot_client import SlotClient
from adire_assets.serving.fleet.supervisor import is_supervised
from adire_assets.serving.gateway import routing
from adire_assets.serving.gateway.gateway import GatewayDown
from adire_assets.serving.rollout import rollout, steps, together
from adire_assets.serving.rollout.controller import Callbacks
from adire_assets.serving.state import DeploymentRecord

GATEWAY_SECONDS = 30.0
Progress = Callable[[str], None]


@dataclass(frozen=True)
class TargetStatus:
    """A record, what each slot's server calls ready (None when it does not answer), and one
    sentence for each difference between them."""

    record: DeploymentRecord
    ready: dict[str, set[int] | None]
    differences: list[str]


def deploy(
    project: Project,
    fleet: FleetConfig,
    model: str,
    number: int,
    *,
    verify: Callable[[release.ReleaseRecord], None],
    callbacks: Callbacks,
) -> list[DeploymentRecord]:
    """Roll release `number` out on every target; the records at the end, in the fleet's order.

    They tell whether it is live or was sent back. `verify(record)` raises UserError to refuse it;
    UserError also when it is quarantined, does not load, or a gateway does not answer; what was
    live before then goes on serving. Where it is live already, what differs is mended. A plan that
    was left unfinished is finished first (see `rollout.finish`).
    """
    progress = callbacks.progress
    rollout.finish(project, fleet, model, progress, callbacks.follow)
    wanted = release.read_record(project, model, number)
    record.refuse_quarantined(project, model, number)
    verify(wanted)
    for target in fleet.targets:
        _require_gateway(project, fleet, target)
        state = record.read(project, target, model)
        if state.live == number and state.rollout is None:
            _mend(project, fleet, state, progress)
            together.bring_together(project, fleet, target, progress)
    # Again: a gateway may have been waited for, while an approval was taken back.
    if not rollout.begin(project, fleet, model, number, confirm=lambda: verify(wanted)):
        for target in fleet.targets:
            progress(f"release {number} of {model} is already live on {target}")
    rollout.carry_out(project, fleet, model, callbacks)
    states = [record.read(project, target, model) for target in fleet.targets]
    failed = [state for state in states if state.outcome_of(number) == "failed"]
    if failed:
        raise UserError(
            f"release {number} of {model} is not deployed on {failed[0].target}: "
            f"{(failed[0].last_rollout or {})['reason']}"
        )
    return states


def resolve_release(project: Project, fleet: FleetConfig, name: str) -> release.ReleaseRecord:
    """The release `model@N`, or the live one of `model`. UserError when there is none."""
    model, at, number = name.partition("@")
    if at and not number.isdecimal():
        raise UserError(f"{name}: a release is named like {model}@3, the live one {model}")
    wanted = int(number) if at else champion(project, fleet, model)
    if wanted is None:
        raise UserError(f"nothing of {model} is live; name a release, for example {model}@1")
    return release.read_record(project, model, wanted)


def target_statuses(project: Project, fleet: FleetConfig, model: str) -> list[TargetStatus]:
    """For each target: what should serve, what does, and how they differ."""
    return [_live(project, fleet, record.read(project, name, model)) for name in fleet.targets]


def champion(project: Project, fleet: FleetConfig, model: str) -> int | None:
    """The live release, None when there is none.

    With several targets the last one counts: what is live there has passed all.
    """
    return record.read(project, list(fleet.targets)[-1], model).live


def _live(project: Project, fleet: FleetConfig, state: DeploymentRecord) -> TargetStatus:
    model, target = state.model, state.target
    ready: dict[str, set[int] | None] = {}
    found = []
    for name in steps.slots_of(fleet, state):
        slot_client = SlotClient(project, fleet, target, name)
        try:
            slot_client.require_ours()
            ready[name] = slot_client.ready(model)
        except UserError as error:
            ready[name] = None
            if state.slots:
                found.append(f"slot {name}: {error}")
            continue
        serving, wanted = ready[name] or set(), state.slots.get(name)
        if name == state.filling:
            continue
        others = sorted(serving - {wanted})
        found += [f"slot {name} also holds release {number} of {model}" for number in others]
        if wanted is not None and wanted not in serving:
            said = log_explanation(project, fleet, target, name, model)
            found.append(f"slot {name} does not hold release {wanted} of {model}{said}")
        elif wanted is not None and name == state.active:
            try:
                slot_client.require_answer(release.read_record(project, model, wanted))
            except UserError as error:
                found.append(f"release {wanted} of {model} is live and does not answer: {error}")
    if state.revision:
        try:
            if not routing.is_published(project, fleet, target, model):
                found.append(f"the gateway of {target} does not route {model} as recorded")
        except UserError as error:
            found.append(str(error))
    if state.live is not None and (why := record.quarantine_reason(project, model, state.live)):
        found.append(f"release {state.live} of {model} is live and quarantined: {why}")
    if state.rollout and state.rollout.abandoned():
        found.append(
            f"nobody carries out the rollout of release {state.rollout.number} of {model}; the "
            f"sensor does, or `adire rollout watch {model}`"
        )
    return TargetStatus(state, ready, found)


def _mend(
    project: Project, fleet: FleetConfig, state: DeploymentRecord, progress: Progress
) -> None:
    """Bring slots and routes back to what the record says."""
    if not _live(project, fleet, state).differences:
        return
    assert state.active and state.live is not None
    wanted = release.read_record(project, state.model, state.live)
    slot_client = SlotClient(project, fleet, state.target, state.active)
    slot_client.wait()
    try:
        slot_client.require_answer(wanted)
    except UserError as error:
        progress(f"release {wanted.number} of {wanted.model} does not answer: {error}")
        progress(f"loading it again into slot {state.active} of {state.target}")

        def require() -> None:
            now = record.read(project, state.target, state.model)
            if (now.live, now.active) != (wanted.number, slot_client.name):
                raise UserError(
                    f"release {wanted.number} of {wanted.model} is not live in slot "
                    f"{slot_client.name} of {state.target} any more; look at `adire status`"
                )

        with slot_client.exclusive(state.model):
            slot_client.reload(wanted, require)
    steps.restore_standby(project, fleet, state.target, state.model, progress)
    routing.publish(project, fleet, state.target)


def _require_gateway(project: Project, fleet: FleetConfig, target: str) -> None:
    """A supervised gateway that was just killed comes back; any other must answer now."""
    gateway = routing.gateway_of(project, fleet, target)
    if not gateway.live():
        supervised = is_supervised(project, f"gateway-{target}")
        if not wait_until(gateway.live, GATEWAY_SECONDS if supervised else 0):
            with suppress(GatewayDown):
                gateway.require_ours()
            raise GatewayDown(
                f"the gateway of {target} does not answer at {gateway.address}; start the local "
                f"fleet with `adire up`, or correct the address in {fleet_file_name()}"
            )
