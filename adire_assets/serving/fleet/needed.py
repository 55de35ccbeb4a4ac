"""Which slots somebody needs: not everybody has every kind of server, and one that nobody asks
takes memory and a share of the cores.

A slot is needed when a model that is enabled, or was materialized here, is served by its kind of
server, or when a record says that it holds a release. Where there is no such model, the first kind
is there for the first one.
"""

from adire_assets.config.fleet import SERVERS, FleetConfig
from adire_assets.config.model import models
from adire_assets.core.project import Project
from adire_assets.serving import record
from adire_assets.serving.slot_server import kind_speaking


def needed(project: Project, fleet: FleetConfig) -> FleetConfig:
    """The fleet without the slots that nobody needs."""
    sound, _ = models(project)
    protocols = {
        one.served_as().protocols
        for name, one in sound.items()
        if one.enabled or project.records.list(f"references/latest/{name}")
    }
    kinds = {kind_speaking(one) for one in protocols} or {next(iter(SERVERS))}
    targets = {}
    for name, target in fleet.targets.items():
        held = {slot for state in record.read_all(project, name) for slot in state.slots}
        here = kinds | {target.slots[slot].server for slot in held if slot in target.slots}
        slots = {slot: one for slot, one in target.slots.items() if one.server in here}
        targets[name] = target.model_copy(update={"slots": slots})
    return fleet.model_copy(update={"targets": targets})
