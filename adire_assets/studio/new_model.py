"""The page that declares a new model: a form over the YAML schema, the file, and its commit.

What is checked is what is shown, and what is shown is what is written.
"""

import re
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from typing import Any

from nicegui import ui

from adire_assets.core.errors import UserError
from adire_assets.core.family import family_names
from adire_assets.core.project import Project
from adire_assets.ops import new_model
from adire_assets.ops.new_model import Key
from adire_assets.studio.frame import (
    Visitor,
    act,
    heading,
    in_thread,
    lines,
    quiet,
    sentence,
    with_reason,
)

# Beside the required keys, what a newcomer decides first.
FIRST = (
    "description",
    "base_model.revision",
    "training.max_train_steps",
    "training.learning_rate",
    "training.rank",
)
# As checks tell it: a key, or an entry of its list, mostly behind a path and a line.
MISTAKE = re.compile(r"(?:^|(?<=: ))(?P<key>[a-z_]\w*(?:\.[a-z_]\w*)*)(?:\.\d+)*: ")
DECLARE = "declare a model"


def fill(project: Project, visitor: Visitor) -> None:
    """The page."""
    try:
        visitor.require(DECLARE)
    except UserError as error:
        lines([error])
        return
    _Page(project, visitor)


def mistakes_in(line: str) -> Iterator[tuple[str, str]]:
    """What may be a key in a line that tells a mistake, with what is said after it."""
    for found in MISTAKE.finditer(line):
        yield found["key"], line[found.end() :]


class _Page:
    """The form of one visitor, and the file that it makes."""

    def __init__(self, project: Project, visitor: Visitor) -> None:
        self.project, self.visitor = project, visitor
        self.fields: dict[str, Any] = {}
        self.required: list[str] = []
        self.edits = 0  # by which a check that ends late is known
        names = family_names()
        with ui.row().classes("w-full items-end gap-4"):
            self.name = ui.input("Name", on_change=self.forget).classes("w-64")
            self.name.props["hint"] = "lower-case letters, digits and _, a letter first"
            self.family = ui.select(
                names, label="Family", value=names[0], on_change=self.choose_family
            ).classes("w-48")
        self.form = ui.column().classes("w-full mt-4")
        ui.button("Check", on_click=self.check).props("no-caps").classes("mt-4")
        self.found = ui.column().classes("w-full").props("aria-live=polite")
        self.choose_family()

    # --- the form --------------------------------------------------------------------------------

    def choose_family(self) -> None:
        """The form of the chosen family; what was filled in stays where the keys are the same."""
        before = {name: field.value for name, field in self.fields.items()}
        self.forget()
        self.fields = {}
        self.form.clear()
        keys = new_model.keys_of(self.family.value)
        self.required = [key.name for key in keys if key.required]
        first = [key for key in keys if key.required or key.name in FIRST]
        first.sort(key=lambda key: not key.required)
        others = [key for key in keys if key not in first]
        with self.form:
            with ui.row().classes("w-full gap-x-4 gap-y-6"):
                for key in first:
                    self.field(key)
            by_section = sorted(others, key=lambda key: key.section)
            for section, found in groupby(by_section, key=lambda key: key.section):
                members = [*found]
                with ui.expansion(section or "other keys of the file").classes("w-full"):
                    if section:
                        ui.label(members[0].about).classes("text-sm mb-2")
                    with ui.row().classes("w-full gap-x-4 gap-y-6"):
                        for key in members:
                            self.field(key)
        for name, value in before.items():
            if name in self.fields and value:
                self.fields[name].set_value(value)

    def field(self, key: Key) -> None:
        label = f"{key.name} (required)" if key.required else key.name
        if key.choices:
            made: Any = ui.select([*key.choices], label=label, on_change=self.forget)
            made.props("clearable")
        else:
            made = ui.input(label, on_change=self.forget)
        default = f"default {key.default}" if key.default else ""
        made.props["hint"] = "; ".join(one for one in (default, key.help) if one)
        made.classes("w-80 max-w-full")
        self.fields[key.name] = made

    def chosen(self) -> dict[str, str]:
        """The keys that were filled in."""
        found = {name: field.value for name, field in self.fields.items() if field.value}
        return {"family": self.family.value, **found}

    def forget(self) -> None:
        """What was checked is no longer what the form says."""
        self.edits += 1
        self.found.clear()
        for field in self.fields.values():
            if field.props.get("error"):
                field.props(remove="error error-message")

    # --- what becomes of it ----------------------------------------------------------------------

    async def check(self) -> None:
        self.forget()
        edits = self.edits
        name = (self.name.value or "").strip()
        try:
            text, changes = await in_thread(self.checked, name, self.chosen())
        except (UserError, OSError) as error:
            if edits == self.edits:
                self.show_mistakes(sentence(error))
            return
        if edits != self.edits:
            return
        with self.found:
            heading(f"configs/models/{name}.yaml", 2)
            with ui.card().classes("w-full"):
                lines(text.splitlines())
            heading("What writing it changes", 2)
            with ui.card().classes("w-full"):
                lines(changes)
            with ui.row().classes("mt-2") as buttons:
                write = partial(self.write, name, text, buttons)
                ui.button("Write the file", on_click=write).props("no-caps")

    def checked(self, name: str, chosen: dict[str, str]) -> tuple[str, list[str]]:
        text = new_model.yaml_text(chosen)
        new_model.check(self.project, name, text)
        return text, new_model.difference(self.project, name, text)

    def show_mistakes(self, said: str) -> None:
        found = said.splitlines()
        for line in found:
            told = ((self.fields_of(key), what) for key, what in mistakes_in(line))
            fields, what = next((one for one in told if one[0]), ([], ""))
            for field in fields:
                field.props["error"] = True
                field.props["error-message"] = what
                field.update()
        with self.found, ui.element("div").props("role=alert"):
            lines(found)

    def fields_of(self, key: str) -> list[Any]:
        """The field of a key; of a section that lacks them, those that must be filled in."""
        if key in self.fields:
            return [self.fields[key]]
        inside = [name for name in self.required if name.startswith(f"{key}.")]
        return [self.fields[name] for name in inside if not self.fields[name].value]

    async def write(self, name: str, text: str, buttons: ui.row) -> None:
        path = await act(self.visitor, DECLARE, new_model.write, self.project, name, text)
        if path is None or buttons.is_deleted:
            return
        buttons.clear()
        with buttons:
            ui.label(
                f"configs/models/{name}.yaml is written. Next, put files into its data folder and "
                "publish them."
            )
            what = f"configs/models/{name}.yaml, by {self.visitor.name}"
            committed = partial(self.commit, name, buttons)
            quiet("Commit", partial(with_reason, "Commit", what, committed))

    async def commit(self, name: str, buttons: ui.row, reason: str) -> None:
        by = self.visitor.name
        said = await act(self.visitor, DECLARE, new_model.commit, self.project, name, reason, by)
        if said is not None and not buttons.is_deleted:
            buttons.clear()
            with buttons:
                ui.label(said)
