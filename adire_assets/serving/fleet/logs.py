"""What a program of the fleet says in its log about why it does not serve."""

import re
from pathlib import Path

from adire_assets.core.project import Project
from adire_assets.serving.fleet import supervisor
from adire_assets.serving.fleet.slot import STARTS

TAIL = 2**18  # bytes of a log that are looked at
# Triton's errors, Envoy's, and what a Python that dies ends with.
ERROR = re.compile(r"^\S+ [EF] \d+ |\[(?:error|critical)\]|^\w*(?:Error|Exception)\b")
HARMLESS = "CudaDriverHelper has not been initialized"  # each Triton without a GPU says so
HEAD = re.compile(r"^\S+ [A-Z] \d+ \S+ |^\[[^\]]*\]\[\d+\]\[\w+\](?: ?\[[^\]]*\])* ?")


def load_failure(project: Project, program: str, model: str) -> str | None:
    """Why a slot's Triton did not load a model, since the slot's last start; None: it says nothing.

    `program` is the slot's, see `programs.slot_program`.
    """
    name = re.escape(model)
    said = re.compile(
        rf"(?:load failed for model '{name}': |failed to load '{name}' |^{name} cannot be served: )"
        r"(?:version \d+(?: is at \w+ state)?: )?(?:Internal: )?(.*)"
    )
    found = [match[1] for line in _lines(project, program) if (match := said.search(line))]
    return _without_traceback(found[-1]) if found else None


def last_error(project: Project, program: str) -> str | None:
    """The last error in a program's log, else its last line; None for an empty log."""
    lines = _lines(project, program)
    wrong = [line for line in lines if ERROR.search(line) and HARMLESS not in line] or lines
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
    """Triton writes a Python traceback behind the reason, its line breaks as two characters."""
    return text.split("\\n\\nAt:")[0].replace("\\n", " ").strip().strip('"')
