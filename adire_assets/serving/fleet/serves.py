"""Whether what runs serves what the records say: a real request for each release."""

from adire_assets.config.fleet import FleetConfig, fleet_file_name
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.serving import record, release
from adire_assets.serving.fleet import logs
from adire_assets.serving.fleet.loading import Place, evaluated
from adire_assets.serving.fleet.programs import slot_program
from adire_assets.serving.fleet.supervisor import log
from adire_assets.serving.gateway import routing


class NotServed(UserError):
    """The processes run, and some of what the records name does not answer."""


def unserved(project: Project, fleet: FleetConfig, target: str, name: str) -> list[str]:
    """A sentence for each release that a slot should hold, and does not draw with."""
    place = Place(project, fleet, target, name)
    found: list[str] = []
    for state in record.all_on(project, target, lambda model, error: found.append(str(error))):
        number = state.slots.get(name)
        coming = state.rollout and not state.rollout.loaded and state.rollout.slot == name
        if number is None or coming:
            continue
        try:
            place.require_ours()
            place.require_answer(release.read_record(project, state.model, number))
        except UserError as error:
            why = explained(project, fleet, target, name, state.model) or f": {error}"
            found.append(
                f"slot {name} of {target} does not serve release {number} of {state.model}{why}"
            )
    return found


def explained(project: Project, fleet: FleetConfig, target: str, name: str, model: str) -> str:
    """What the log of a slot says about a model that it does not serve; "" when nothing."""
    if fleet.targets[target].slots[name].launch == "remote":
        return ""
    program = slot_program(target, name)
    why = logs.not_loaded(project, program, model)
    return f": {why} (its log is {log(project, program)})" if why else ""


def require_answers(project: Project, fleet: FleetConfig, target: str) -> None:
    """UserError unless the gateway of a target answers with the live release of each model."""
    from adire_assets.serving.client import generate  # numpy: not in every Dagster process

    door = routing.door_of(project, fleet, target)
    for state in record.all_on(project, target):
        if state.live is None:
            continue
        wanted = release.read_record(project, state.model, state.live)
        asked = evaluated(project, wanted)[0]
        answer = generate(
            door,
            state.model,
            asked["prompt"],
            seed=asked["seed"],
            num_inference_steps=1,
            release=state.live,
        )
        if answer.provenance["release_hash"] != wanted.repository["content_hash"]:
            raise NotServed(
                f"the gateway of {target} at {door.address} answers for release {state.live} of "
                f"{state.model} with other content than this project's; another project's fleet "
                f"may be behind that address: set other ports in {fleet_file_name()}"
            )
