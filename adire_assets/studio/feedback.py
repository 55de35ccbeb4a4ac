"""What users say of answers: the dialog beside each answer, the endpoint for programs, and the page
with the figures and what a person should look at.

    POST /feedback   {"token": ..., "rating": 1 to 5, "flags": [...], "text": ..., "part": 0,
                      "attached": the saved answer, base64}

answers {"said": sentence}, or {"error": sentence} with a status of 400, 403, 408 or 500. What
the guard refuses has its sentence as plain text.
"""

import asyncio
import base64
import logging
import mimetypes
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from nicegui import ui
from pydantic import BaseModel, ConfigDict, ValidationError

from adire_assets.core.answer import Answer
from adire_assets.core.answer_token import FIELD
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family
from adire_assets.core.project import Project
from adire_assets.monitoring import feedback, feedback_review, feedback_watch
from adire_assets.monitoring.feedback import (
    FLAGS,
    HIGHEST,
    LOWEST,
    TEXT_CHARACTERS,
    Given,
)
from adire_assets.monitoring.feedback_review import OUTCOMES
from adire_assets.studio.frame import (
    TOO_SLOW,
    UPLOAD_SECONDS,
    Visitor,
    act,
    dialog_above,
    heading,
    in_thread,
    lines,
    quiet,
    sentence,
    shared,
    watched,
)
from adire_assets.studio.guard import LOCAL_USER, USER

PLACE = "/feedback"
LARGEST_BODY = 2 * feedback.LARGEST_FILE  # bytes; base64 takes a third more
AT_ONCE = 4
SECONDS = 5.0  # from one look of a page to the next
SHOWN = 50  # of the review list
GIVE, REVIEW = "give feedback", "review feedback"
CHANGE = "Change your rating"
ALL_ONE = (
    "Without tokens all visitors count as one user, local, and one user alone does not alarm "
    "(monitoring.feedback.minimum_users)."
)
LABELS = {1: "1, bad", 5: "5, good"}
OUTCOME_LABELS = dict(
    zip(
        OUTCOMES,
        (
            "Correction: the data says it better",
            "Exclusion: a file of the data is to be left out",
            "Prompt: evaluations should ask for it",
            "Nothing",
        ),
        strict=True,
    )
)
FOLLOWING = ThreadPoolExecutor(1, "feedback")  # a rollback may block it for minutes
_following: set[asyncio.Future[Any]] = set()
_waiting: set[str] = set()  # models whose next look has not begun


class Sent(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid", strict=True)
    token: str
    rating: int | None = None
    flags: list[str] = []
    text: str = ""
    part: int = 0
    model: str | None = None
    attached: str | None = None


# --- the endpoint --------------------------------------------------------------------------------


def serve_feedback(project: Project, app: FastAPI) -> None:
    """Take feedback, and give out what is attached to it."""
    turns = asyncio.Semaphore(AT_ONCE)

    @app.post(PLACE)
    async def give(request: Request) -> JSONResponse:
        try:
            Visitor(request.scope[USER]).require(GIVE)
        except UserError as error:
            return JSONResponse({"error": str(error)}, 403)
        user = request.scope[USER].subject
        async with turns:
            try:
                async with asyncio.timeout(UPLOAD_SECONDS):
                    body = await request.body()
            except TimeoutError:
                return JSONResponse({"error": TOO_SLOW}, 408)
            try:
                said = await in_thread(_sent, project, user, body)
            except (UserError, OSError) as error:
                status = 400 if isinstance(error, UserError) else 500
                return JSONResponse({"error": sentence(error)}, status)
        follow(project, said.given.model)
        return JSONResponse({"said": said.told()})

    @app.get("/models/{model}/feedback/{name}")
    async def attached(request: Request, model: str, name: str) -> Response:
        try:
            Visitor(request.scope[USER]).require(REVIEW)
        except UserError as error:
            return PlainTextResponse(f"{error}\n", 403)
        path = await in_thread(feedback.attachment, project, model, name)
        if path is None:
            return PlainTextResponse(f"nothing is attached to {name!r} of {model!r}\n", 404)
        policy = {"content-security-policy": "sandbox; default-src 'none'"}
        kind = _image_kind(path.name) or "text/plain"
        return FileResponse(path, media_type=kind, headers=policy)


def _image_kind(name: str) -> str | None:
    """The kind of a file that a browser shows by itself; None for another one."""
    kind = mimetypes.guess_type(name)[0] or ""
    return kind if kind.startswith("image/") else None


def _sent(project: Project, user: str, body: bytes) -> feedback.Kept:
    try:
        sent = Sent.model_validate_json(body)
        content = None if sent.attached is None else base64.b64decode(sent.attached, validate=True)
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"])) or "the body"
        raise UserError(f"{where}: {wrong['msg']}") from None
    except ValueError as error:
        raise UserError(f"attached is no base64: {error}") from None
    given = sent.model_dump(exclude={"token", "attached"})
    return kept(project, sent.token, user, content, **given)


def kept(
    project: Project, token: str, user: str, content: bytes | None, **given: Any
) -> feedback.Kept:
    """As `feedback.keep`, where `content` is that of the attached file."""
    if content is None:
        return feedback.keep(project, token, user, **given)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "answer"
        file.write_bytes(content)
        try:
            return feedback.keep(project, token, user, attached=file, **given)
        except UserError as error:
            raise UserError(str(error).replace(str(file), "the attached file")) from None


def follow(project: Project, model: str) -> None:
    """Look in the background at what the live release's feedback says now, one model at a time. A
    look that has not begun yet serves all who ask for it."""
    log = logging.getLogger("adire").warning
    if model in _waiting:
        return
    _waiting.add(model)

    def begin() -> None:
        _waiting.discard(model)
        feedback_watch.follow(project, model, log)

    async def look() -> None:
        try:
            await in_thread(begin, pool=FOLLOWING)
        except (UserError, OSError) as error:
            log(f"feedback on {model} cannot be followed: {sentence(error)}")

    running = asyncio.ensure_future(look())
    _following.add(running)
    running.add_done_callback(_following.discard)


# --- beside an answer ----------------------------------------------------------------------------


def button(
    project: Project,
    visitor: Visitor,
    plug: Family,
    answer: Answer,
    about: str,
    file: bytes | None,
    part: int = 0,
) -> None:
    """A button that asks what the visitor thinks of a part of an answer; `file` is it as it would
    be saved. None where the visitor may not say, or the answer cannot be rated."""
    token = answer.provenance.get(FIELD)
    if not token or not visitor.may(GIVE):
        return
    page = ui.context.client.content

    async def send(dialog: ui.dialog, fields: dict[str, Any]) -> None:
        given = {
            "rating": fields["rating"].value,
            "flags": [flag for flag in FLAGS if fields[flag].value],
            "text": fields["text"].value or "",
            "part": part,
        }
        content = file if fields["attach"].value else None
        work = partial(kept, project, token, visitor.name, content, **given)
        said = await act(visitor, GIVE, work)
        if said is None:
            return
        dialog.close()
        with page:
            ui.notify(said.told(), type="positive")
        opened.set_text(CHANGE)
        opened.props["aria-label"] = f"{CHANGE}: {about}"
        follow(project, said.given.model)

    def ask() -> None:
        with dialog_above(page, "Rate or report") as dialog:
            ui.label(about)
            if opened.text == CHANGE:
                ui.label("This replaces what you said before, and what you attached.")
            fields = _fields(plug, file is not None)
            with ui.row().classes("w-full justify-end"):
                quiet("Cancel", dialog.close)
                ui.button("Send", on_click=partial(send, dialog, fields)).props("no-caps")

    opened = quiet("Rate or report", ask)
    opened.props["aria-label"] = f"Rate or report: {about}"


def _fields(plug: Family, can_attach: bool) -> dict[str, Any]:
    options = {one: LABELS.get(one, str(one)) for one in range(LOWEST, HIGHEST + 1)}
    fields: dict[str, Any] = {}
    with ui.element("div").props('role=group aria-label="Rating"'):
        fields["rating"] = ui.radio(options).props("inline")
    with ui.element("div").props('role=group aria-label="What is wrong with it"'):
        for flag in FLAGS:
            fields[flag] = ui.checkbox(flag.capitalize())
    fields["text"] = ui.textarea("Remarks").classes("w-full")
    fields["text"].props(f"autogrow rows=2 maxlength={TEXT_CHARACTERS}")
    what = "whole conversation" if plug.served.chat else f"prompt and the {plug.answer}"
    fields["attach"] = ui.checkbox(f"Attach the {what}, to help mend it")
    fields["attach"].set_visibility(can_attach)
    return fields


# --- the page ------------------------------------------------------------------------------------


async def fill(project: Project, model: str, plug: Family, visitor: Visitor) -> None:
    """The page."""
    page = _Page(project, model, visitor)
    look = partial(shared, f"feedback {model}", SECONDS / 2, partial(_view, project, model))
    page.refresh = watched(SECONDS, look, page.show)


def _view(project: Project, model: str) -> tuple[list[str], list[Given]]:
    """(the figures, what is to be reviewed)."""
    given = feedback.all_given(project, model)
    said = [one.told() for one in feedback_review.figures(given)]
    said += [one.told() for one in feedback_watch.live_signals(project, model) if one.count]
    if damaged := feedback.damaged_lines(project, model):
        said.append(f"{damaged} damaged line(s) do not count")
    return said, feedback_review.to_review(project, model)


class _Page:
    """The page of one visitor, which is shown anew when there is more feedback."""

    refresh: Callable[[], Any]

    def __init__(self, project: Project, model: str, visitor: Visitor) -> None:
        self.project, self.model, self.visitor = project, model, visitor

    def show(self, found: tuple[list[str], list[Given]]) -> None:
        said, waiting = found
        heading("Releases", 2)
        lines(said or [f"Nobody has rated an answer of {self.model} yet."])
        if self.visitor.bearer == LOCAL_USER:
            ui.label(ALL_ONE).classes("text-sm")
        if not self.visitor.may(REVIEW):
            return
        heading("To review", 2)
        if not waiting:
            ui.label("Nothing.")
        for one in waiting[:SHOWN]:
            self.card(one)
        if len(waiting) > SHOWN:
            ui.label(f"{len(waiting) - SHOWN} more come up as these are reviewed.")

    def card(self, one: Given) -> None:
        with ui.card().classes("w-full"):
            rating = [] if one.rating is None else [f"rated {one.rating}"]
            heading(f"Release {one.release}: {', '.join([*rating, *one.flags]) or 'remarks'}", 3)
            ui.label(f"{one.user}, {one.at[:16].replace('T', ' ')} UTC").classes("text-sm")
            if one.text:
                ui.label(one.text).style("white-space: pre-wrap; overflow-wrap: anywhere")
            place = f"/models/{self.model}/feedback/{one.name}"
            if one.attached and _image_kind(one.attached):
                ui.image(place).classes("w-64").props('alt="The attached answer"')
            elif one.attached:
                link = ui.link("The attached answer", place, new_tab=True).classes("adire-link")
                link.props["aria-label"] = f"The attached answer of {one.name}"
            review = quiet("Review", partial(self.review, one))
            review.props["aria-label"] = f"Review {one.name}"

    def review(self, one: Given) -> None:
        """Ask what becomes of it."""
        page = ui.context.client.content
        with dialog_above(page, "Review") as dialog:
            with ui.element("div").props('role=group aria-label="What becomes of it"'):
                outcome = ui.radio(OUTCOME_LABELS, value=OUTCOMES[0])
            note = ui.textarea("The correction, the file, the prompt, or why nothing")
            note.classes("w-full").props(f"maxlength={TEXT_CHARACTERS}")

            async def done() -> None:
                given = one.name, one.at, outcome.value, note.value or "", self.visitor.name
                work = partial(feedback_review.review, self.project, self.model, *given)
                said = await act(self.visitor, REVIEW, work)
                if said is not None:
                    dialog.close()
                    with page:
                        ui.notify(said, type="positive")
                    await self.refresh()

            with ui.row().classes("w-full justify-end"):
                quiet("Cancel", dialog.close)
                ui.button("Done", on_click=done).props("no-caps")
