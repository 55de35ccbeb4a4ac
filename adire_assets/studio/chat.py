"""The page that talks with a language model, with one release or two side by side."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

from nicegui import ui

from adire_assets.core.answer_token import FIELD
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family
from adire_assets.core.project import Project
from adire_assets.studio import feedback
from adire_assets.studio.asking import Asking, files_of, filled_in, inputs_of
from adire_assets.studio.frame import Visitor, in_thread, lines, quiet, sentence, tell

TEXT_CHARACTERS = 100_000
ABOUT_CHARACTERS = 60  # of a question, where its answer is rated
Conversations = dict[int, list[dict[str, str]]]  # the turns so far, by release


class Page:
    """The conversation of one visitor's page; beside it that with a second release."""

    def __init__(
        self, project: Project, model: str, plug: Family, visitor: Visitor, served: dict[int, str]
    ) -> None:
        self.project, self.model, self.plug, self.visitor = project, model, plug, visitor
        self.asking: list[Asking] = []
        self.said: Conversations = {}
        with ui.row().classes("w-full items-end gap-4 mb-6"):
            first = next(iter(served))
            self.release = ui.select(served, label="Release", value=first, on_change=self.forget)
            others = {0: "none"} | served
            self.beside = ui.select(others, label="Compare with", value=0, on_change=self.forget)
            self.fields = inputs_of(plug)
        self.release.classes("w-32")
        self.beside.classes("w-32")
        with ui.element("section").props('aria-label="Conversation"').classes("w-full"):
            self.turns = ui.column().classes("w-full")
        with ui.element("form").classes("w-full").on("submit.prevent", self.send):
            self.turn = ui.textarea("Message").classes("w-full")
            self.turn.props(f"autogrow rows=2 maxlength={TEXT_CHARACTERS}")
            self.turn.on("keydown.ctrl.enter", self.send)
            with ui.row().classes("items-center"):
                self.button = ui.button("Send").props("type=submit no-caps")
                self.stop = quiet("Stop", self.cancel)
                quiet("New conversation", self.forget)
                self.status = ui.label().props("role=status")
        self.stop.set_enabled(False)
        ui.context.client.on_delete(self.cancel)

    async def send(self) -> None:
        said = (self.turn.value or "").strip()
        if self.asking or not said:
            return
        try:
            self.visitor.require("generate")
        except UserError as error:
            tell(error)
            return
        self.turn.set_value("")
        wanted = list(dict.fromkeys([self.release.value, self.beside.value or self.release.value]))
        self.asking = [Asking() for _ in wanted]
        self.at_work(True)
        try:
            with self.turns:
                with ui.card().classes("self-end"):
                    lines([said])
                with ui.row().classes("w-full items-start"):
                    cards = [ui.card().classes("grow") for _ in wanted]
            await asyncio.gather(
                *(
                    self.answer(card, asking, number, said)
                    for card, asking, number in zip(cards, self.asking, wanted, strict=True)
                )
            )
        finally:
            self.asking = []
            if not self.turns.is_deleted:
                self.at_work(False)

    def at_work(self, now: bool) -> None:
        self.button.set_enabled(not now)
        self.stop.set_enabled(now)
        self.status.set_text("Writing" if now else "Done")

    async def answer(self, card: ui.card, asking: Asking, number: int, said: str) -> None:
        """One release's answer; a turn that failed is not part of the conversation."""
        conversations = self.said
        asked = [*conversations.get(number, []), {"role": "user", "content": said}]
        request = {**filled_in(self.plug, self.fields), "prompt": said, "messages": asked}
        with card:
            ui.label(f"Release {number}").classes("text-sm")
            shown = ui.label().style("white-space: pre-wrap")
        text, last = "", None
        try:
            async with aclosing(
                asking.answers(self.project, self.model, request, number)
            ) as pieces:
                async for piece in pieces:
                    text, last = text + piece.content, piece
                    if card.is_deleted:
                        asking.cancelled = True
                    else:
                        shown.set_text(text)
        except (UserError, OSError) as error:
            if not card.is_deleted:
                with card:
                    lines([sentence(error)])
            return
        if text:
            conversations[number] = [*asked, {"role": "assistant", "content": text}]
        if last and FIELD in last.provenance:
            whole = replace(last, content=text)
            _, [(_, _, content)] = await in_thread(files_of, self.project, whole, request)
            if card.is_deleted:
                return
            about = f"the answer of release {number} to {said[:ABOUT_CHARACTERS]!r}"
            with card:
                feedback.button(self.project, self.visitor, self.plug, whole, about, content)

    def forget(self) -> None:
        self.cancel()
        self.said = {}
        self.turns.clear()

    def cancel(self) -> None:
        for asking in self.asking:
            asking.cancelled = True
