"""The page that generates: a prompt and its options, previews, and a gallery with provenance.

With two releases chosen, both get the same seeds, side by side. Images stay on the page until it is
closed; a saved one contains its provenance.
"""

import asyncio
import base64
import json
import mimetypes
import secrets
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from nicegui import ui

from adire_assets.core.answer import Answer, Progress
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family
from adire_assets.core.project import Project
from adire_assets.studio import feedback
from adire_assets.studio.asking import Asking, files_of, filled_in, inputs_of
from adire_assets.studio.frame import Visitor, in_thread, lines, quiet, sentence, tell

KEPT_BYTES = 2**25  # of the images in a page's gallery
PREVIEWS = 8  # of an image, at most
FIRST_SEEDS = 2**31 - 65  # an image of a request has the seed + its place
PROMPT_CHARACTERS = 10_000
TEXT_CHARACTERS = 200  # of an image's description


class Page:
    """The form and the gallery of one visitor's page."""

    def __init__(
        self, project: Project, model: str, plug: Family, visitor: Visitor, served: dict[int, str]
    ) -> None:
        self.project, self.model, self.plug, self.visitor = project, model, plug, visitor
        self.asking: list[Asking] = []
        self.kept: list[tuple[ui.row, int]] = []  # rows of the gallery with their bytes
        with ui.element("form").classes("w-full").on("submit.prevent", self.generate):
            self.prompt = ui.textarea("Prompt").classes("w-full")
            self.prompt.props(f"autogrow rows=2 maxlength={PROMPT_CHARACTERS}")
            self.prompt.on("keydown.ctrl.enter", self.generate)
            with ui.row().classes("w-full items-end gap-4 mb-6"):
                first = next(iter(served))
                self.release = ui.select(served, label="Release", value=first).classes("w-32")
                others = {0: "none"} | served
                self.beside = ui.select(others, label="Compare with", value=0).classes("w-32")
                self.fields = inputs_of(plug)
            with ui.row().classes("items-center"):
                self.button = ui.button("Generate").props("type=submit no-caps")
                self.stop = quiet("Stop", self.cancel)
                self.stop.set_enabled(False)
                self.status = ui.label().props("role=status")
        with ui.element("section").props('aria-label="Gallery"').classes("w-full"):
            self.gallery = ui.column().classes("w-full")
        ui.context.client.on_delete(self.cancel)

    async def generate(self) -> None:
        if self.asking:
            return
        try:
            self.visitor.require("generate")
            request = self.request()
        except UserError as error:
            tell(error)
            return
        wanted = list(dict.fromkeys([self.release.value, self.beside.value or self.release.value]))
        self.asking = [Asking() for _ in wanted]
        self.at_work(True)
        try:
            with self.gallery, ui.row().classes("w-full items-start gap-4") as row:
                cards = [ui.card() for _ in wanted]
            row.move(target_index=0)
            kept = await asyncio.gather(
                *(
                    self.generate_into(card, asking, number, request)
                    for card, asking, number in zip(cards, self.asking, wanted, strict=True)
                )
            )
            self.keep(row, sum(kept))
        finally:
            self.asking = []
            if not self.gallery.is_deleted:
                self.at_work(False)

    def at_work(self, now: bool) -> None:
        self.button.set_enabled(not now)
        self.stop.set_enabled(now)
        self.status.set_text("Generating" if now else "Done")

    def keep(self, row: ui.row, size: int) -> None:
        """Keep a row in the gallery, and as many of those before it as it has room for."""
        self.kept.append((row, size))
        while len(self.kept) > 1 and sum(size for _, size in self.kept) > KEPT_BYTES:
            oldest, _ = self.kept.pop(0)
            if not oldest.is_deleted:
                oldest.delete()

    def request(self) -> dict[str, Any]:
        """What is asked for. UserError for an empty prompt."""
        prompt = (self.prompt.value or "").strip()
        if not prompt:
            raise UserError("enter a prompt")
        return {
            "prompt": prompt,
            "seed": secrets.randbelow(FIRST_SEEDS),
            **filled_in(self.plug, self.fields),
        }

    async def generate_into(
        self, card: ui.card, asking: Asking, number: int, request: dict[str, Any]
    ) -> int:
        """Show an answer as it comes into being; the bytes of its images."""
        with card:
            title = ui.label(f"Release {number}").classes("font-semibold")
            bar = ui.linear_progress(0, show_value=False).props('aria-label="Progress"')
            preview = ui.image().classes("w-64").props('alt="Preview"')
        functions = self.plug.answers.functions
        asked = functions.with_previews(request, PREVIEWS)
        whole = None
        try:
            async with aclosing(asking.answers(self.project, self.model, asked, number)) as answers:
                async for answer in answers:
                    now: Progress = await in_thread(functions.progress, answer.content)
                    if now.content is not None:
                        whole = replace(answer, content=now.content)
                    if card.is_deleted:
                        asking.cancelled = True
                    elif whole is None:
                        bar.set_value(now.share)
                        if now.picture:
                            preview.set_source(_data("x.jpeg", now.picture))
            if whole:
                warnings, files = await in_thread(files_of, self.project, whole, request)
        except (UserError, OSError) as error:
            if not card.is_deleted:
                title.set_text(f"Release {number} failed")
                with card:
                    lines([sentence(error)])
            return 0
        finally:
            if not card.is_deleted:
                bar.delete()
                preview.delete()
        if card.is_deleted or whole is None:
            if not card.is_deleted:
                title.set_text(f"Release {number}: stopped")
            return 0
        with card:
            title.delete()
            self.show(whole, warnings, files, request)
        return sum(len(content) for _, _, content in files)

    def show(
        self,
        answer: Answer,
        warnings: list[str],
        files: list[tuple[str, str, bytes]],
        request: dict[str, Any],
    ) -> None:
        for place, (name, told, content) in enumerate(files):
            data = _data(name, content)
            image = ui.image(data).classes("w-64")
            image.props["alt"] = request["prompt"][:TEXT_CHARACTERS]
            ui.label(told).classes("text-sm")
            with ui.row().classes("gap-1"):
                quiet("Save", partial(_download, data, name))
                quiet("Use this seed", partial(self.use_seed, request["seed"] + place))
                feedback.button(self.project, self.visitor, self.plug, answer, told, content, place)
        for one in warnings:
            ui.label(one).classes("w-64")
        with ui.expansion("Provenance").classes("w-64"):
            lines(json.dumps(answer.provenance, indent=1, ensure_ascii=False).splitlines())

    def use_seed(self, seed: int) -> None:
        self.fields["seed"].set_value(seed)
        self.prompt.run_method("focus")

    def cancel(self) -> None:
        for asking in self.asking:
            asking.cancelled = True


def _data(name: str, content: bytes) -> str:
    """A file of this name as a URL that contains it."""
    return f"data:{mimetypes.guess_type(name)[0]};base64,{base64.b64encode(content).decode()}"


def _download(data: str, name: str) -> None:
    ui.download(base64.b64decode(data.partition(",")[2]), name)
