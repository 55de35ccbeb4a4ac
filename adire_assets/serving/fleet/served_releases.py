"""Whether what runs serves what the records say, and what its log says about why it does not."""

import re

from adire_assets.config.fleet import SERVERS, FleetConfig, fleet_file_name
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.serving import record, release
from adire_assets.serving.fleet.slot import STARTS
from adire_assets.serving.fleet.slot_client import SlotClient, ask_for_signs
from adire_assets.serving.fleet.supervisor import log, slot_program
from adire_assets.serving.gateway import routing
from adire_assets.serving.slot_server import SlotServer, server_named, server_of

TAIL = 2**18  # bytes of a log that are looked at
# Envoy's errors, and what a Python that dies ends with.
ERRORS = (r"\[(?:error|critical)\]", r"^\w*(?:Error|Exception)\b")
HEAD = re.compile(r"^\S+ [A-Z] \d+ \S+ |^\[[^\]]*\]\[\d+\]\[\w+\](?: ?\[[^\]]*\])* ?")


class NotServed(UserError):
    """The processes run, and some of what the records name does not answer."""


def unserved_releases(project: Project, fleet: FleetConfig, target: str, name: str) -> list[str]:
    """A sentence for each release that a slot should hold, and does not answer with."""
    slot_client = SlotClient(project, fleet, target, name)
    found: list[str] = []
    for state in record.read_all(project, target, lambda model, error: found.append(str(error))):
        number = state.slots.get(name)
        if number is None or name == state.filling:
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
    why = load_failure(project, program, server_of(config), model)
    return f": {why} (its log is {log(project, program)})" if why else ""


def require_live_answers(project: Project, fleet: FleetConfig, target: str) -> None:
    """UserError unless the gateway of a target answers with the live release of each model."""
    endpoint = routing.endpoint_of(project, fleet, target)
    for state in record.read_all(project, target):
        if state.live is None:
            continue
        wanted = release.read_record(project, state.model, state.live)
        for answer in ask_for_signs(project, endpoint, wanted):
            if answer.provenance["release_hash"] != wanted.repository["content_hash"]:
                raise NotServed(
                    f"the gateway of {target} at {endpoint.address} answers for release "
                    f"{state.live} of {state.model} with other content than this project's; "
                    "another project's fleet may be behind that address: set other ports in "
                    f"{fleet_file_name()}"
                )


# --- logs --------------------------------------------------------------------------------------


def load_failure(project: Project, program: str, server: SlotServer, model: str) -> str | None:
    """Why a slot did not load a model, since its last start; None: its log says nothing.

    `program` is the slot's, see `slot_program`.
    """
    said = re.compile(rf"{server.load_failure(model)}|^{model} cannot be served: (.*)")
    found = [match for line in _lines(project, program) if (match := said.search(line))]
    return _without_traceback(found[-1][found[-1].lastindex or 0]) if found else None


def last_error(project: Project, program: str) -> str | None:
    """The last error in a program's log, else its last line; None for an empty log."""
    lines = _lines(project, program)
    errors = re.compile("|".join([*ERRORS, *(server_named(kind).error_line for kind in SERVERS)]))
    wrong = [line for line in lines if errors.search(line)] or lines
    return _without_traceback(HEAD.sub("", wrong[-1])) if wrong else None


def _lines(project: Project, program: str) -> list[str]:
    """The end of a log, since the program's last start where that can be told."""
    path, end = log(project, program), b""
    if path.is_file():
        with path.open("rb") as file:
            file.seek(max(file.seek(0, 2) - TAIL, 0))
            end = file.read()
    text = end.decode("utf-8", errors="replace").rpartition(STARTS)[2]
    return [line.strip() for line in text.splitlines() if line.strip()]


def _without_traceback(text: str) -> str:
    """Without the traceback behind the reason, whose line breaks are two characters."""
    return text.split("\\n\\nAt:")[0].replace("\\n", " ").strip().strip('"')
