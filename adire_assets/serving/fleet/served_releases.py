"""Whether what runs serves what the records say: a real request for each release."""

from adire_assets.config.fleet import FleetConfig, fleet_file_name
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.serving import record, release
from adire_assets.serving.fleet import logs
from adire_assets.serving.fleet.programs import slot_program
from adire_assets.serving.fleet.slot_client import SlotClient, ask_for_sign
from adire_assets.serving.fleet.supervisor import log
from adire_assets.serving.gateway import routing
from adire_assets.serving.slot_server import server_of


class NotServed(UserError):
    """The processes run, and some of what the records name does not answer."""


def unserved_releases(project: Project, fleet: FleetConfig, target: str, name: str) -> list[str]:
    """A sentence for each release that a slot should hold, and does not answer with."""
    slot_client = SlotClient(project, fleet, target, name)
    found: list[str] = []
    for state in record.read_all(project, target, lambda model, error: found.append(str(error))):
        number = state.slots.get(name)
        coming = state.rollout and not state.rollout.loaded and state.rollout.slot == name
        if number is None or coming:
            continue
        try:
            slot_client.require_ours()
            slot_client.require_answer(release.read_record(project, state.model, number))
        except UserError as error:
            why = log_explanation(project, fleet, target, name, state.model) or f": {error}"
            found.append(
                f"slot {name} of {target} does not serve release {number} of {state.model}{why}"
            )
    return found


def log_explanation(
    project: Project, fleet: FleetConfig, target: str, name: str, model: str
) -> str:
    """What the log of a slot says about a model that it does not serve; "" when nothing."""
    config = fleet.targets[target].slots[name]
    if config.launch == "remote":
        return ""
    program = slot_program(target, name)
    why = logs.load_failure(project, program, server_of(config), model)
    return f": {why} (its log is {log(project, program)})" if why else ""


def require_live_answers(project: Project, fleet: FleetConfig, target: str) -> None:
    """UserError unless the gateway of a target answers with the live release of each model."""
    endpoint = routing.endpoint_of(project, fleet, target)
    for state in record.read_all(project, target):
        if state.live is None:
            continue
        wanted = release.read_record(project, state.model, state.live)
        answer = ask_for_sign(project, endpoint, wanted)
        if answer.provenance["release_hash"] != wanted.repository["content_hash"]:
            raise NotServed(
                f"the gateway of {target} at {endpoint.address} answers for release {state.live} "
                f"of {state.model} with other content than this project's; another project's fleet "
                f"may be behind that address: set other ports in {fleet_file_name()}"
            )
