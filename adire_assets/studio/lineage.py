"""The page of lineage: what an answer was made from, and what uses a file of the data."""

import asyncio
import re
import tempfile
from functools import partial
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse
from nicegui import events, ui

from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.ops import operations
from adire_assets.ops.takedown import take_down
from adire_assets.ops.uses import uses
from adire_assets.studio.frame import (
    TOO_SLOW,
    UPLOAD_SECONDS,
    Visitor,
    act,
    heading,
    in_thread,
    lines,
    quiet,
    tell,
    with_reason,
)

ANSWER, LARGEST_ANSWER = "/lineage/answer", 2**26  # where an answer is sent to; bytes
SEND = f"""async (event) => {{
  const file = event.target.files[0]
  if (!file) return
  const place = "{ANSWER}?name=" + encodeURIComponent(file.name)
  try {{
    const answer = await fetch(place, {{method: "POST", body: file}})
    emit(answer.ok, await answer.text())
  }} catch (error) {{
    emit(false, "the upload failed: " + error.message)
  }}
}}"""
AT_ONCE = 2  # files that are traced


def serve_answers(project: Project, app: FastAPI) -> None:
    """Take the file of an answer and tell what it was made from."""

    turns = asyncio.Semaphore(AT_ONCE)

    @app.post(ANSWER)
    async def trace(request: Request, name: str = "") -> PlainTextResponse:
        # Only its ending is the visitor's.
        ending = re.search(r"\.[A-Za-z0-9]{1,8}$", name)
        async with turns:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / f"answer{ending[0] if ending else ''}"
                try:
                    async with asyncio.timeout(UPLOAD_SECONDS):
                        with file.open("wb") as written:
                            async for chunk in request.stream():
                                written.write(chunk)
                except TimeoutError:
                    return PlainTextResponse(TOO_SLOW, 408)
                try:
                    found = await in_thread(_traced, project, file)
                except UserError as error:
                    return PlainTextResponse(str(error).replace(str(file), "the file"), 400)
        return PlainTextResponse("\n".join(found))


def fill(project: Project, visitor: Visitor) -> None:
    """The page."""
    heading("From an answer", 2)
    with ui.element("label").classes("block"):
        ui.label("An image or a text that a served model has made")
        file = ui.element("input").props("type=file").classes("my-2")
    traced = ui.column().classes("w-full")

    def told(event: events.GenericEventArguments) -> None:
        good, text = event.args
        if not good:
            tell(UserError(text))
            return
        traced.clear()
        with traced, ui.card().classes("w-full"):
            lines(text.splitlines())

    file.on("change", told, js_handler=SEND)
    heading("From the data", 2)
    what = ui.input("A file of the data, or FILE:LINE for a record").classes("w-full max-w-xl")
    buttons = ui.row()
    found = ui.column().classes("w-full")

    def named() -> str:
        if not (name := (what.value or "").strip()):
            raise UserError("name a file of the data by its path below the project")
        return name

    def show(said: list[str]) -> None:
        found.clear()
        with found, ui.card().classes("w-full"):
            lines(said)

    async def look() -> None:
        try:
            show(await in_thread(_used, project, named()))
        except UserError as error:
            tell(error)

    def ask() -> None:
        try:
            name = named()
        except UserError as error:
            tell(error)
            return

        async def take(reason: str) -> None:
            work = partial(_taken_down, project, name, visitor.name)
            said = await act(visitor, "take data down", work, reason)
            if said is not None:
                show(said)

        text = f"Future datasets leave out {name}. Releases trained on it are quarantined."
        with_reason("Take it down", text, take)

    what.on("keydown.enter", look)
    with buttons:
        ui.button("Find its uses", on_click=look).props("no-caps")
        if visitor.may("take data down"):
            quiet("Take it down", ask)


def _traced(project: Project, file: Path) -> list[str]:
    return [one.replace(str(file), "the answer") for one in operations.trace(project, file)]


def _used(project: Project, what: str) -> list[str]:
    return list(uses(project, what))


def _taken_down(project: Project, what: str, by: str, reason: str) -> list[str]:
    return list(take_down(project, what, reason, by))
