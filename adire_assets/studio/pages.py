"""The pages of the studio and their addresses.

Blocking reads run in a thread.
"""

from collections.abc import Awaitable, Callable
from functools import partial

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response
from nicegui import ui

from adire_assets.config.model import family_of, models
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family
from adire_assets.core.project import Project
from adire_assets.gates.report import pages as reports
from adire_assets.monitoring import fleet_page
from adire_assets.monitoring.watch import History
from adire_assets.studio import (
    asking,
    chat,
    data,
    data_uploads,
    feedback,
    generate,
    lineage,
    new_model,
    overview,
    rate,
    releases,
    training,
    watch,
)
from adire_assets.studio.frame import Visitor, frame, in_thread, lines, shared

# A report runs its own scripts, so it is sandboxed: it cannot call the studio.
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
)
SCRAPE_SECONDS = 1.0  # scrapes that are no further apart have the same page
FIRST_SECONDS = 30.0  # what a page may take that is the first to read a family's schema
Fill = Callable[[Project, str, Family, Visitor], Awaitable[None]]


def register(project: Project, app: FastAPI, *, signs_in: bool) -> None:
    """Serve the pages of `project`; `signs_in`: visitors can sign out."""

    @ui.page("/")
    def overview_page(request: Request) -> None:
        with frame(request, "Models", signs_in=signs_in):
            overview.fill(project)

    @ui.page("/lineage")
    def lineage_page(request: Request) -> None:
        with frame(request, "Lineage", signs_in=signs_in) as visitor:
            lineage.fill(project, visitor)

    @ui.page("/new-model")
    def new_model_page(request: Request) -> None:
        with frame(request, "New model", signs_in=signs_in) as visitor:
            new_model.fill(project, visitor)

    history = History()

    @ui.page("/watch")
    def watch_page(request: Request) -> None:
        with frame(request, "Watch", signs_in=signs_in):
            watch.fill(project, history)

    page = fleet_page.FleetPage(project)

    @app.get(fleet_page.PATH)
    async def metrics() -> PlainTextResponse:
        try:
            return PlainTextResponse(await shared("metrics", SCRAPE_SECONDS, page.lines))
        except UserError as error:
            return PlainTextResponse(f"{error}\n", status_code=503)

    async def of_model(request: Request, model: str, title: str, fill: Fill) -> None:
        """A page of one model, or the sentence that there is none."""
        try:
            plug = await in_thread(_family, project, model)
        except UserError as error:
            lines([error])
            return
        asks = "Chat" if plug.served.chat else "Generate"
        with frame(request, title or asks, model, asks, signs_in=signs_in) as visitor:
            await fill(project, model, plug, visitor)

    @ui.page("/models/{model}/generate", response_timeout=FIRST_SECONDS)
    async def generate_page(request: Request, model: str) -> None:
        await of_model(request, model, "", _ask)

    @ui.page("/models/{model}/releases", response_timeout=FIRST_SECONDS)
    async def releases_page(request: Request, model: str) -> None:
        await of_model(request, model, "Releases", releases.fill)

    @ui.page("/models/{model}/rate")
    async def rate_page(request: Request, model: str, release: int = 0, rater: str = "") -> None:
        fill = partial(rate.fill, number=release, rater=rater)
        await of_model(request, model, "Rate", fill)

    @ui.page("/models/{model}/feedback")
    async def feedback_page(request: Request, model: str) -> None:
        await of_model(request, model, "Feedback", feedback.fill)

    @ui.page("/models/{model}/training")
    async def training_page(request: Request, model: str) -> None:
        await of_model(request, model, "Training", training.fill)

    @ui.page("/models/{model}/data", response_timeout=FIRST_SECONDS)
    async def data_page(request: Request, model: str) -> None:
        await of_model(request, model, "Data", data.fill)

    lineage.serve_answers(project, app)
    data_uploads.serve_files(project, app)
    feedback.serve_feedback(project, app)
    training.serve_samples(project, app)

    @app.get("/models/{model}/releases/{number}/report")
    async def report(model: str, number: int) -> Response:
        try:
            path = await in_thread(_report, project, model, number)
        except UserError as error:
            return PlainTextResponse(f"{error}\n", 404)
        return FileResponse(path, headers={"content-security-policy": REPORT_POLICY})


async def _ask(project: Project, model: str, plug: Family, visitor: Visitor) -> None:
    page = chat.Page if plug.served.chat else generate.Page
    await asking.show_page(page, project, model, plug, visitor)


def _family(project: Project, model: str) -> Family:
    """The family of a model. UserError where there is no such model."""
    found, _ = models(project)
    if model not in found:
        raise UserError(f"there is no model {model}; models: {', '.join(found) or 'none'}")
    return family_of(project, model)


def _report(project: Project, model: str, number: int) -> str:
    _family(project, model)
    return str(reports.report(project, f"{model}@{number}", None))
