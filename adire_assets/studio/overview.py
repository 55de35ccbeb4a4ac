"""The first page: each model in plain words, and how the processes are."""

from functools import partial

from nicegui import ui

from adire_assets.config.model import family_of, model_names, models
from adire_assets.core.project import Project
from adire_assets.ops import operations
from adire_assets.studio.frame import heading, lines, shared, watched

SECONDS = 5.0  # from one look at the processes to the next
DISABLED = "disabled"  # what `adire status` says of a model that is
# Of a model, beside where it is asked.
PAGES = (("Data", "data"), ("Training", "training"), ("Releases", "releases"))
View = tuple[dict[str, tuple[str, list[str]]], list[str]]


def fill(project: Project) -> None:
    """The page."""
    watched(SECONDS, partial(shared, "status", SECONDS / 2, partial(view, project)), _show)


def view(project: Project) -> View:
    """({model: (what it is asked for: Chat, Generate or nothing, what `adire status` says)}, the
    lines about all else)."""
    known, _ = models(project)
    asks = {name: "Chat" if family_of(project, name).served.chat else "Generate" for name in known}
    by_model: dict[str, tuple[str, list[str]]] = {}
    others: list[str] = []
    group = others
    for line in operations.status(project):
        name, colon, said = line.partition(": ")
        if colon and name in model_names(project):
            group = by_model.setdefault(name, (asks.get(name, ""), []))[1]
            line = said
        elif not line.startswith(" "):
            group = others
        group.append(line)
    return by_model, others


def _show(found: View) -> None:
    by_model, others = found
    disabled = [name for name, (_, said) in by_model.items() if said == [DISABLED]]
    for name in [one for one in by_model if one not in disabled]:
        with ui.card().classes("w-full"):
            heading(name, 2)
            lines(by_model[name][1])
            _links(name, by_model[name][0])
    if disabled:
        with ui.card().classes("w-full"):
            heading("Disabled models", 2)
            for name in disabled:
                with ui.row().classes("items-baseline"):
                    ui.label(name)
                    _links(name, by_model[name][0])
    with ui.card().classes("w-full"):
        heading("Processes and notes", 2)
        lines(others)


def _links(name: str, asks: str) -> None:
    """The pages of a model; none for one that cannot be read."""
    if not asks:
        return
    with ui.row():
        for text, place in ((asks, "generate"), *PAGES):
            link = ui.link(text, f"/models/{name}/{place}").classes("adire-link")
            link.props["aria-label"] = f"{name}: {text}"
