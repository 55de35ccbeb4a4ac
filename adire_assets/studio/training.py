"""The page of a model's training: the run, its loss, its samples, and what has changed since.

What Dagster does not answer is said once, where the run is told of; the other parts stay empty.
"""

import mimetypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, PlainTextResponse, Response
from nicegui import ui

from adire_assets.core.errors import UserError
from adire_assets.core.family import Family
from adire_assets.core.project import Project
from adire_assets.ops import training
from adire_assets.ops.training import Curve, RunView, View
from adire_assets.studio.frame import (
    Visitor,
    act,
    heading,
    in_thread,
    lines,
    quiet,
    shared,
    watched,
)
from adire_assets.studio.frame import sentence as mistake

SECONDS, SAMPLES_SECONDS, STATE_SECONDS = 2.0, 5.0, 10.0  # from one look to the next
SAMPLE = "/models/{model}/training/{run_id}/{step}/{place}"
NO_SAMPLES = (
    "None yet. Some kinds of model show samples at each validation; of the others, answers of the "
    "evaluation are shown here once the training is over."
)
FAINT = "rgba(128, 128, 128, 0.35)"
SERIES = (("Training", "#5b6bb8"), ("Validation", "#d97706"))
TO_A_SCREEN_READER = "The loss by step. The sentence before it tells the latest values."
SIGNS = {"now": "play_arrow", "done": "check", "failed": "close", "left out": "remove"}


@dataclass(frozen=True)
class SampleView:
    """One sample; `content` is a text, or the address of a picture."""

    heading: str
    name: str
    content: str
    is_picture: bool


@dataclass(frozen=True)
class Controls:
    """What can be pressed: Start, or Stop for the run of this id; a link to releases."""

    start: bool
    stop: str | None
    release: int | None


def serve_samples(project: Project, app: FastAPI) -> None:
    """Serve the pictures that trainings have shown."""

    @app.get(SAMPLE)
    async def sample(model: str, run_id: str, step: int, place: int) -> Response:
        try:
            found = await in_thread(training.samples_at, project, model, run_id, step)
        except (UserError, OSError) as error:
            return PlainTextResponse(f"{mistake(error)}\n", 404)
        if not 0 <= place < len(found) or found[place].kind != "picture":
            return PlainTextResponse("there is no such sample\n", 404)
        path = found[place].content
        return FileResponse(path, media_type=mimetypes.guess_type(path.name)[0])


async def fill(project: Project, model: str, plug: Family, visitor: Visitor) -> None:
    """The page."""
    page = _Page(project, model, visitor)
    with ui.card().classes("w-full"):
        heading("Run", 2)
        page.refresh = [
            watched(SECONDS, page.run, page.show_run),
            watched(SECONDS, page.controls, page.show_controls),
        ]
    with ui.card().classes("w-full"):
        heading("What has changed", 2)
        look = partial(shared, f"state {model}", STATE_SECONDS / 2, page.state)
        watched(STATE_SECONDS, look, lines)
    with ui.card().classes("w-full"):
        heading("Loss", 2)
        page.add_curve()
    with ui.card().classes("w-full"):
        heading("Samples", 2)
        watched(SAMPLES_SECONDS, page.samples, page.show_samples)


class _Page:
    """The page of one visitor. Its parts are shown anew one by one, so that neither the keyboard
    nor the curve loses its place."""

    refresh: list[Callable[[], Any]]

    def __init__(self, project: Project, model: str, visitor: Visitor) -> None:
        self.project, self.model, self.visitor = project, model, visitor
        self.busy = False

    async def view(self) -> View:
        work = partial(training.view, self.project, self.model)
        found: View = await shared(f"training {self.model}", SECONDS / 2, work)
        return found

    def state(self) -> list[str]:
        return list(training.state(self.project, self.model))

    # --- the run ---------------------------------------------------------------------------------

    async def run(self) -> RunView | None:
        return (await self.view()).run

    def show_run(self, run: RunView | None) -> None:
        if run is None:
            ui.label("No run yet.")
            return
        ui.label(run.sentence)
        if run.problems:
            lines(run.problems)
        with ui.element("ul").props('aria-label="Steps"').classes("flex flex-wrap gap-2"):
            for what, how in run.parts:
                with ui.element("li").classes("flex items-center gap-1"):
                    ui.icon(SIGNS.get(how, "schedule")).props('aria-hidden="true"')
                    ui.label(f"{what}: {how}").classes("font-semibold" if how == "now" else "")
        lines(run.said)

    async def controls(self) -> Controls | None:
        try:
            run = (await self.view()).run
        except UserError:
            return None  # said by `run`
        if run is None:
            return Controls(True, None, None)
        return Controls(not run.under_way, run.id if run.can_stop else None, run.release)

    def show_controls(self, found: Controls | None) -> None:
        if found is None:
            return
        with ui.row().classes("items-center gap-4"):
            if self.visitor.may("train"):
                if found.stop:
                    quiet("Stop", partial(self.stop, found.stop))
                if found.start:
                    ui.button("Start", on_click=self.start).props("no-caps")
            if found.release is not None:
                text = f"Release {found.release}: verdict, gates and report"
                ui.link(text, f"/models/{self.model}/releases").classes("adire-link")

    async def start(self) -> None:
        await self.do(training.start, self.project, self.model, self.visitor.name)

    async def stop(self, run_id: str) -> None:
        await self.do(training.stop, self.project, self.model, run_id, self.visitor.name)

    async def do(self, work: Callable[..., str], *arguments: Any) -> None:
        if self.busy:  # a second click while the first one is answered
            return
        self.busy = True
        try:
            # The button may be shown anew meanwhile.
            with ui.context.client.content:
                said = await act(self.visitor, "train", work, *arguments)
                if said is not None:
                    ui.notify(said, type="positive", timeout=8000)
        finally:
            self.busy = False
        for look in self.refresh:
            await look()

    # --- the curve -------------------------------------------------------------------------------

    def add_curve(self) -> None:
        """A sentence and a chart, whose points are added in place."""
        sentence = ui.label("No training yet.")
        chart = ui.echart(_options(), renderer="svg").classes("w-full h-64")
        chart.props["role"], chart.props["aria-label"] = "img", TO_A_SCREEN_READER
        last: list[tuple[Curve | None, str | None]] = []

        async def refresh() -> None:
            try:
                view = await self.view()
            except UserError:
                return  # said by `run`
            curve = view.curve
            if last == [(curve, view.trouble)] or chart.is_deleted:
                return
            last[:] = [(curve, view.trouble)]
            sentence.set_text(view.trouble or (curve.sentence() if curve else "No training yet."))
            chart.set_visibility(bool(curve and curve.loss))
            points = (curve.loss, curve.validation) if curve else ((), ())
            for series, found in zip(chart.options["series"], points, strict=True):
                series["data"] = [list(point) for point in found]
            chart.options["xAxis"]["max"] = (curve and curve.steps) or "dataMax"
            chart.update()

        chart.set_visibility(False)
        ui.timer(SECONDS, refresh)

    # --- samples ---------------------------------------------------------------------------------

    async def samples(self) -> tuple[SampleView, ...]:
        try:
            curve = (await self.view()).curve
        except UserError:
            return ()  # said by `run`
        work = partial(self.find_samples, curve)
        wait = SAMPLES_SECONDS / 2
        found: tuple[SampleView, ...] = await shared(f"samples {self.model}", wait, work)
        return found

    def find_samples(self, curve: Curve | None) -> tuple[SampleView, ...]:
        """Those of the training's validations; where it has shown none, of the evaluation."""
        if curve is None:
            return ()
        found = []
        for step, shown in training.shown(self.project, self.model, curve):
            for place, one in enumerate(shown):
                is_picture = one.kind == "picture"
                told = {"model": self.model, "run_id": curve.run_id, "step": step, "place": place}
                content = SAMPLE.format(**told) if is_picture else str(one.content)
                found.append(SampleView(f"Step {step:,}", one.name, content, is_picture))
        if found:
            return tuple(found)
        for sample in training.evaluated(self.project, self.model, curve):
            answer = sample.adapter.show()
            is_picture = not isinstance(answer, str)
            content = answer if isinstance(answer, str) else answer.uri
            found.append(SampleView("Evaluation", sample.prompt, content, is_picture))
        return tuple(found)

    def show_samples(self, found: tuple[SampleView, ...]) -> None:
        if not found:
            ui.label(NO_SAMPLES)
        for title in dict.fromkeys(one.heading for one in found):
            heading(title, 3)
            with ui.row().classes("gap-4"):
                for one in (one for one in found if one.heading == title):
                    with ui.column().classes("w-64 gap-1"):
                        ui.label(one.name).classes("text-sm")
                        if one.is_picture:
                            ui.image(one.content).classes("w-64").props["alt"] = (
                                f"{one.name}, {title}"
                            )
                        else:
                            lines(one.content.splitlines())


def _options() -> dict[str, Any]:
    """An empty chart, in the colours of the page around it."""
    axis = {
        "type": "value",
        "axisLabel": {"color": "currentColor"},
        "nameTextStyle": {"color": "currentColor"},
        "splitLine": {"lineStyle": {"color": FAINT}},
    }
    line = {"type": "line", "showSymbol": False, "data": []}
    return {
        "animation": False,
        "grid": {"left": 8, "right": 16, "top": 36, "bottom": 24, "containLabel": True},
        "legend": {"top": 0, "textStyle": {"color": "currentColor"}},
        "tooltip": {"trigger": "axis"},
        "xAxis": {**axis, "name": "step", "nameLocation": "middle", "nameGap": 24},
        "yAxis": {**axis, "scale": True},
        "series": [
            {**line, "name": name, "itemStyle": {"color": colour}, "lineStyle": {"color": colour}}
            for name, colour in SERIES
        ],
    }
