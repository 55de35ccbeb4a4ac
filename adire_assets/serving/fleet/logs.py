"""What a program of the fleet says in its log about why it does not serve."""

import re
from pathlib import Path

from adire_assets.config.fleet import SERVERS
from adire_assets.core.project import Project
from adire_assets.serving.fleet import supervisor
from adire_assets.serving.fleet.slot import STARTS
from adire_assets.serving.slot_server import SlotServer, server_named

TAIL = 2**18  # bytes of a log that are looked at
# Envoy's errors, and what a Python that dies ends with.
ERRORS = (r"\[(?:error|critical)\]", r"^\w*(?:Error|Exception)\b")
HEAD = re.compile(r"^\S+ [A-Z] \d+ \S+ |^\[[^\]]*\]\[\d+\]\[\w+\](?: ?\[[^\]]*\])* ?")


def load_failure(project: Project, program: str, server: SlotServer, model: str) -> str | None:
    """Why a slot did not load a model, since its last start; None: its log says nothing.

    `program` is the slot's, see `programs.slot_program`.
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
    path = supervisor.log(project, program)
    text = _tail(path) if path.is_file() else ""
    return [line.strip() for line in text.rpartition(STARTS)[2].splitlines() if line.strip()]


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - TAIL, 0))
        return file.read().decode("utf-8", errors="replace")


def _without_traceback(text: str) -> str:
    """Without the traceback behind the reason, whose line breaks are two characters."""
    return text.split("\\n\\nAt:")[0].replace("\\n", " ").strip().strip('"')
