"""The page of a model's data: what comes, what goes, texts, publishing, and earlier versions.

What it sends and is sent beside this is `data_uploads`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nicegui import events, ui

from adire_assets.core.errors import UserError
from adire_assets.core.family import Family
from adire_assets.core.project import Project
from adire_assets.ops import data_draft, data_publish
from adire_assets.ops.data_draft import Draft, Place
from adire_assets.ops.data_publish import Version
from adire_assets.studio.data_uploads import ACTION, PICTURE, POOL, UPLOAD, in_pool
from adire_assets.studio.frame import (
    Visitor,
    act,
    heading,
    lines,
    quiet,
    sentence,
    tell,
    with_reason,
)

SHOWN = 60  # rows, and how many more a click shows
SEND = f"""async (event) => {{
  const field = event.target, files = [...field.files]
  for (const [number, file] of files.entries()) {{
    const path = file.webkitRelativePath.split("/").slice(1).join("/") || file.name
    let good = false, text
    try {{
      const place = "{UPLOAD}?model=MODEL&name=" + encodeURIComponent(path)
      const answer = await fetch(place, {{method: "POST", body: file}})
      good = answer.ok
      text = await answer.text()
    }} catch (error) {{
      text = path + ": the upload failed: " + error.message
    }}
    emit(number + 1, files.length, good, text)
  }}
  field.value = ""
}}"""


@dataclass(frozen=True)
class View:
    """What the page shows: the visitor's draft, the files of the data with their MD5 and texts, and
    its versions, or why there are none. `pinned`: all files of the data."""

    draft: Draft
    pinned: dict[str, str]
    there: dict[str, str]
    texts: dict[str, str]
    versions: list[Version]
    remark: str


def view(place: Place, known: View | None = None) -> View:
    """What is known of a model's data and of somebody's draft; the versions of `known`, as long as
    its data are the same."""
    there = data_draft.pinned(place)
    versions, remark = [], ""
    if known and known.versions and known.pinned == there:
        versions = known.versions
    else:
        try:
            versions = data_publish.versions(place.project, place.model)
        except UserError as error:
            remark = str(error)
        there = data_draft.pinned(place)  # a change that was cut short is completed by now
    items = {name: md5 for name, md5 in there.items() if place.functions.is_item(name)}
    try:
        texts = data_draft.texts(place)
    except UserError as error:
        texts, remark = {}, f"{remark}\n{error}".strip()
    return View(data_draft.read(place), there, items, texts, versions, remark)


async def fill(project: Project, model: str, plug: Family, visitor: Visitor) -> None:
    """The page."""
    body = ui.column().classes("w-full")
    with body:
        ui.spinner(size="lg").props('aria-label="Loading"')

    async def first() -> None:
        try:
            place = await in_pool(data_draft.place, project, model, visitor.name)
            found = await in_pool(view, place)
        except (UserError, OSError) as error:
            body.clear()
            with body:
                lines([sentence(error)])
            return
        if not body.is_deleted:
            body.clear()
            with body:
                _Page(place, visitor).build(found)

    ui.timer(0, first, once=True)  # git may take longer than a page has to appear


class _Page:
    """The page of one visitor."""

    def __init__(self, place: Place, visitor: Visitor) -> None:
        self.place, self.visitor, self.busy = place, visitor, False
        self.may = visitor.may(ACTION)
        self.rows, self.open = {"new": SHOWN, "there": SHOWN}, False
        self.said: list[str] = []  # by the uploads since the last check

    def build(self, found: View) -> None:
        if self.may:
            heading("Add files", 2)
            ui.label(f"Takes {self.place.functions.TAKES}; also a zip of them.")
            with ui.row().classes("gap-x-8"):
                self.field("Choose or drop files here", "multiple")
                self.field("Choose a folder", "webkitdirectory")
            self.status = ui.label().props('role=status aria-live="polite"')
        self.body = ui.column().classes("w-full")
        self.show(found)

    def field(self, label: str, how: str) -> None:
        with ui.element("label").classes("block"):
            ui.label(label)
            field = ui.element("input").props(f"type=file {how}").classes("my-2 max-w-full")
        field.on("change", self.sent, js_handler=SEND.replace("MODEL", self.place.model))

    async def sent(self, event: events.GenericEventArguments) -> None:
        """A file was sent, perhaps the last one."""
        number, count, good, text = event.args
        self.status.set_text(f"{number} of {count} files sent")
        if not good:
            self.said.append(str(text).strip())
        if number != count:
            return
        said, self.said = self.said, []
        await self.do("Checking", data_draft.check, self.place, _silent)
        if said:
            tell(UserError("\n".join(said[:20])))

    async def do(self, doing: str, work: Callable[..., Any], *arguments: Any) -> Any | None:
        """Let the button's work be done, and show what is there then."""
        if self.busy:
            tell(UserError("the page is at work; wait until it is done"))
            return None
        if self.may:
            self.status.set_text(f"{doing} ...")
        self.busy = True
        try:
            found = await act(self.visitor, ACTION, work, *arguments, pool=POOL)
        finally:
            self.busy = False
        if not self.body.is_deleted:
            if self.may:
                self.status.set_text("" if found is None else "Done")
            await self.refresh()
        return found

    async def refresh(self) -> None:
        try:
            self.show(await in_pool(view, self.place, self.found))
        except (UserError, OSError) as error:
            tell(error)

    def show(self, found: View) -> None:
        self.found = found
        self.body.clear()
        with self.body:
            if self.may:
                self.show_draft(found)
            self.show_data(found)
            self.show_versions(found)

    # --- the draft -------------------------------------------------------------------------------

    def show_draft(self, found: View) -> None:
        draft = found.draft
        if draft.is_empty and not draft.refused:
            return
        heading("Your change", 2)
        files = len({one["file"] for one in draft.items})
        ui.label(
            f"{len(draft.items)} new in {files} files, {len(draft.removed)} removed, "
            f"{len({*draft.texts} - {one['file'] for one in draft.items})} other texts changed."
        )
        if draft.unchecked:
            ui.label(f"{len(draft.unchecked)} files are not checked yet.")
            quiet("Check", partial(self.do, "Checking", data_draft.check, self.place, _silent))
        if draft.refused:
            with ui.card().classes("w-full"):
                heading(f"Not taken: {len(draft.refused)}", 3)
                lines(f"{name}: {why}" for name, why in draft.refused[: -SHOWN - 1 : -1])
        if draft.consequences or draft.whole:
            with ui.card().classes("w-full"):
                heading("Consequences", 3)
                lines([*draft.consequences[:SHOWN], *filter(None, [draft.whole])])
        if draft.items:
            self.listed("New", "new", draft.items, lambda one: self.new_row(found, one))
        for name in draft.unchecked:
            with ui.row().classes("items-center"):
                ui.label(f"{name} (not checked)")
                self.button("Remove", name, data_draft.drop, name)
        with ui.row():
            if not draft.is_empty:
                ui.button("Publish", on_click=self.publish).props("no-caps")
            if draft.items and self.place.functions.TEXT:
                propose = partial(data_draft.propose_texts, self.place, _silent)
                text = f"Propose {self.place.functions.TEXT.lower()}s"
                quiet(text, partial(self.do, "Looking at the files", propose))
            quiet("Discard", self.discard)

    def listed(self, title: str, kind: str, found: list[Any], row: Callable[[Any], None]) -> None:
        """A heading and the first rows; a button shows more."""
        heading(title, 3)
        with ui.element("ul").classes("w-full").props(f'aria-label="{title}"'):
            for one in found[: self.rows[kind]]:
                with ui.element("li").classes("flex flex-wrap items-center gap-4 py-2 w-full"):
                    row(one)
        if (more := len(found) - self.rows[kind]) > 0:

            async def further() -> None:
                self.rows[kind] += SHOWN
                await self.refresh()

            quiet(f"Show more ({more})", further)

    def new_row(self, found: View, one: Mapping[str, Any]) -> None:
        name, line = one["file"], one["line"]
        self.picture(one["picture"], name)
        with ui.column().classes("grow gap-0 min-w-0"):
            ui.label(name if line is None else f"{name}:{line}").style("overflow-wrap: anywhere")
            if one["text"]:
                ui.label(one["text"]).classes("text-sm").style("overflow-wrap: anywhere")
            if one["note"]:
                ui.label(one["note"]).classes("text-sm")
            self.text(name, found.draft.texts.get(name, ""), first=False)
        self.button(
            "Remove", name if line is None else f"{name}:{line}", data_draft.drop, name, line
        )

    def picture(self, md5: str, name: str) -> None:
        if md5 and (self.place.pictures / f"{md5}.jpg").is_file():
            shown = ui.element("img").classes("w-20 h-20").style("object-fit: cover")
            shown.props["src"] = f"{PICTURE}/{self.place.model}/{md5}"
            shown.props["alt"] = name
            shown.props["loading"] = "lazy"

    def text(self, name: str, value: str, first: bool) -> None:
        """The field of a file's text, where files have one; `first`: of an empty draft."""
        label = self.place.functions.TEXT
        if not label:
            return
        if not self.may:
            ui.label(value).classes("text-sm")
            return
        field = ui.input(label, value=value).classes("w-full").props("maxlength=1000 dense")
        field.props["aria-label"] = f"{label} of {name}"

        async def keep() -> None:
            words = (self.place, name, field.value)
            await act(self.visitor, ACTION, data_draft.set_text, *words, pool=POOL)
            if first and not self.body.is_deleted:  # now there is something to publish
                await self.refresh()

        field.on("change", keep)

    def button(self, title: str, about: str, work: Callable[..., Any], *arguments: Any) -> None:
        made = quiet(title, partial(self.do, title, work, self.place, *arguments))
        made.props["aria-label"] = f"{title}: {about}"

    def publish(self) -> None:
        async def do(reason: str) -> None:
            project, model, by = self.place.project, self.place.model, self.visitor.name
            work = data_publish.publish
            said = await self.do("Publishing", work, project, model, by, reason, _silent)
            if said:
                ui.notify(said, type="positive", multi_line=True, timeout=8000)

        text = f"Your change becomes a version of the data of {self.place.model}."
        with_reason("Publish", text, do)

    async def discard(self) -> None:
        await self.do("Discarding", data_draft.discard, self.place)

    # --- what is there ---------------------------------------------------------------------------

    def show_data(self, found: View) -> None:
        heading("Data", 2)
        if found.remark:
            lines([found.remark])

        def turned(event: events.ValueChangeEventArguments) -> None:
            self.open = event.value

        title = f"{len(found.there)} files"
        with ui.expansion(title, value=self.open, on_value_change=turned).classes("w-full"):
            self.listed(
                "In the data", "there", [*found.there.items()], lambda one: self.row(found, *one)
            )

    def row(self, found: View, name: str, md5: str) -> None:
        self.picture(md5, name)
        gone = name in found.draft.removed
        with ui.column().classes("grow gap-0 min-w-0"):
            ui.label(f"{name} (goes)" if gone else name).style("overflow-wrap: anywhere")
            if not gone:
                said = found.draft.texts.get(name, found.texts.get(name, ""))
                self.text(name, said, first=found.draft.is_empty)
        if self.may:
            title = "Keep" if gone else "Remove"
            self.button(title, name, data_draft.remove, name, not gone)

    def show_versions(self, found: View) -> None:
        heading("Versions", 2)
        with ui.element("ul").classes("w-full").props('aria-label="Versions"'):
            for one in found.versions:
                with ui.element("li").classes("flex flex-wrap items-center gap-4 py-1"):
                    ui.label(one.told()).style("overflow-wrap: anywhere")
                    if self.may and not one.current:
                        back = quiet("Go back", partial(self.go_back, one))
                        back.props["aria-label"] = f"Go back: {one.commit[:12]}"

    def go_back(self, one: Version) -> None:
        async def do(reason: str) -> None:
            project, model, by = self.place.project, self.place.model, self.visitor.name
            words = (project, model, one.commit, by, reason, _silent)
            said = await self.do("Going back", data_publish.go_back, *words)
            if said:
                ui.notify(said, type="positive", multi_line=True, timeout=8000)

        text = f"The data of {one.commit[:12]} ({one.reason}) becomes the newest version."
        with_reason("Go back", text, do)


def _silent(message: str, shown: Path | None = None, **numbers: float) -> None:
    """The page shows the outcome."""
