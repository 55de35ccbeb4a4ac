"""How a page asks a served model: the form of its options, and the pieces of the answer."""

import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nicegui import ui

from adire_assets.config.fleet import load_fleet
from adire_assets.core.answer import Answer, RequestOption
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family
from adire_assets.core.project import Project
from adire_assets.serving import client, record
from adire_assets.serving.connection import Endpoint
from adire_assets.serving.gateway import routing
from adire_assets.serving.release import family_of_release, read_record
from adire_assets.studio.frame import Visitor, in_thread, lines

AT_ONCE = 64  # answers under way in the studio
PIECE_SECONDS = 120.0  # timeout of one piece
# Each waiting answer holds a thread; a pool of its own keeps buttons responsive.
WAITING = ThreadPoolExecutor(AT_ONCE, "asking")


async def show_page(
    page: Callable[[Project, str, Family, Visitor, dict[int, str]], Any],
    project: Project,
    model: str,
    plug: Family,
    visitor: Visitor,
) -> None:
    """Show a page that asks a model, or why this visitor cannot ask it now."""
    try:
        visitor.require("generate")
        served = await in_thread(releases_served, project, model)
    except UserError as error:
        lines([error])
        return
    page(project, model, plug, visitor, served)


@dataclass
class Asking:
    """One request under way; `cancelled` ends it after its next piece."""

    cancelled: bool = False

    async def answers(
        self, project: Project, model: str, request: Mapping[str, Any], release: int
    ) -> AsyncGenerator[Answer, None]:
        """The pieces of a release's answer as they come. UserError as for `client.stream`."""
        plug, endpoint = await in_thread(_asked, project, model, release)
        found = client.stream(endpoint, plug, model, request, release, PIECE_SECONDS)
        while (piece := await in_thread(self._next, found, pool=WAITING)) is not None:
            yield piece

    def _next(self, found: Iterator[Answer]) -> Answer | None:
        """The next piece; closes the connection of a cancelled request."""
        if self.cancelled:
            found.close()  # type: ignore[attr-defined]
            return None
        return next(found, None)


def _asked(project: Project, model: str, release: int) -> tuple[Family, Endpoint]:
    plug = family_of_release(project, read_record(project, model, release))
    return plug, routing.endpoint_of(project, load_fleet(project), first_target(project))


def first_target(project: Project) -> str:
    """The target that the studio asks."""
    return next(iter(load_fleet(project).targets))


def releases_served(project: Project, model: str) -> dict[int, str]:
    """{release: label} of the loaded releases, the live one first. UserError without any."""
    state = record.read(project, first_target(project), model)
    loaded = sorted(state.loaded, key=lambda number: (number != state.live, -number))
    if not loaded:
        raise UserError(f"no release of {model} is loaded yet; see the Releases page")
    return {number: f"{number}{' (live)' if number == state.live else ''}" for number in loaded}


def files_of(
    project: Project, answer: Answer, request: Mapping[str, Any]
) -> tuple[list[str], list[tuple[str, str, bytes]]]:
    """(warnings, [(name, description, content) of each file]) of an answer, as `adire generate`
    writes them."""
    model, number = answer.provenance["model"], answer.release
    plug = family_of_release(project, read_record(project, model, number))
    functions = plug.answers.functions
    with tempfile.TemporaryDirectory() as folder:
        paths = functions.files(Path(folder) / f"{model}-{number}{plug.served.suffix}", request)
        said = list(functions.save(answer, paths))
        count = len(said) - len(paths)
        told = [line.partition(": ")[2] for line in said[count:]]
        return said[:count], [
            (path.name, line, path.read_bytes()) for path, line in zip(paths, told, strict=True)
        ]


# --- the form ------------------------------------------------------------------------------------


def inputs_of(plug: Family) -> dict[str, Any]:
    """A field for each option of a request, by its name."""
    return {option.name: _field(option) for option in plug.served.options}


def filled_in(plug: Family, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the fields that have one."""
    found = {}
    for option in plug.served.options:
        value = fields[option.name].value
        if value not in (None, ""):
            found[option.name] = option.kind(value)
    return found


def _field(option: RequestOption) -> Any:
    label = option.name.replace("_", " ").capitalize()
    if option.kind is str:
        made: Any = ui.input(label).classes("w-64")
    else:
        step = 1 if option.kind is int else 0.1
        made = ui.number(label, min=option.lowest, max=option.highest, step=step).classes("w-40")
    made.props["hint"] = option.help
    return made
