"""Models on one base answer from one slot, so that their requests share its engine's passes.

A rollout takes a model into the other slot. Once it has ended there and no other is under way of a
model that shares the engine, a model that most others have left follows them, or comes back: the
other slot gets a copy of its release, then its requests, and the first one what was live before.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from adire_assets.config.fleet import FleetConfig
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.serving import record
from adire_assets.serving.gateway import routing
from adire_assets.serving.gateway.gateway import GatewayDown
from adire_assets.serving.rollout import steps
from adire_assets.serving.state import DeploymentRecord


def bring_together(
    project: Project, fleet: FleetConfig, target: str, progress: Callable[[str], None]
) -> None:
    """Have the models of each engine answer from the slot where most of them do, of equally many
    the first. What fails here is told, and costs nothing but the company."""
    states = record.read_all(project, target)
    engines: dict[str, list[DeploymentRecord]] = defaultdict(list)
    for state in states:
        number = state.rollout.number if state.live is None and state.rollout else state.live
        if known := state.usual.get(str(number)):
            engines[known["engine"]].append(state)
    for sharing in engines.values():
        if any(state.rollout for state in sharing):
            continue
        active = Counter(state.active for state in sharing)
        home = max(fleet.targets[target].slots, key=lambda name: active[name])
        for state in sharing:
            if state.active != home and home in steps.slots_of(fleet, state):
                _move(project, fleet, state, home, progress)


def _move(
    project: Project,
    fleet: FleetConfig,
    seen: DeploymentRecord,
    home: str,
    progress: Callable[[str], None],
) -> None:
    target, model, before = seen.target, seen.model, seen.slots.get(home)

    def is_as_seen(now: DeploymentRecord) -> bool:
        return (now.live, now.active, now.rollout) == (seen.live, seen.active, None)

    def brought(now: DeploymentRecord, **fields: Any) -> DeploymentRecord:
        # `before` may have been quarantined since it was seen.
        return steps.without_quarantined(project, replace(now, **fields))

    def holding(number: int | None) -> Callable[[DeploymentRecord], DeploymentRecord]:
        def change(now: DeploymentRecord) -> DeploymentRecord:
            others = {name: held for name, held in now.slots.items() if name != home}
            slots = others if number is None else {**others, home: number}
            return brought(now, slots=slots) if is_as_seen(now) else now

        return change

    def moved(now: DeploymentRecord) -> DeploymentRecord:
        if not is_as_seen(now) or now.slots.get(home) != now.live or now.active is None:
            return now
        kept = now.slots if before is None else {**now.slots, now.active: before}
        return brought(now, active=home, slots=kept)

    record.change(project, target, model, holding(seen.live))
    try:
        steps.bring(project, fleet, target, model, home)
    except UserError as error:
        record.change(project, target, model, holding(before))
        progress(f"{model} stays in slot {seen.active} of {target}: {error}")
        return
    if record.change(project, target, model, moved).active != home:
        return
    with suppress(GatewayDown):  # it will route as recorded
        routing.publish(project, fleet, target)
        progress(f"release {seen.live} of {model} answers from slot {home} of {target}")
        steps.restore_standby(project, fleet, target, model, progress)
