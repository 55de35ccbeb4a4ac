"""What all pages of the studio have in common: head, navigation, and how a button does its work.

Blocking work runs in a thread. A mistake is shown in its sentence, and the page stays as it was.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from nicegui import ui

from adire_assets.config import roles
from adire_assets.core.disk import refusal
from adire_assets.core.errors import UserError
from adire_assets.core.readers import reading
from adire_assets.serving.gateway.tokens import Bearer
from adire_assets.studio.guard import LOGOUT, USER

THREADS = ThreadPoolExecutor(16, "studio")
UPLOAD_SECONDS = 120.0  # in which the body of an upload must have come
TOO_SLOW = f"the upload did not end within {UPLOAD_SECONDS:.0f} s; send it again"
FAILED = "Internal error; see the studio's log (logs/studio.log of the fleet, or the terminal)."
_shared: dict[str, asyncio.Future[Any]] = {}
_ended: dict[str, float] = {}  # when each of these finished
INDIGO = {"primary": "#2f3e8f", "secondary": "#5b6bb8", "accent": "#2f3e8f", "dark": "#12162b"}
STYLE = """
<style>
body { font-family: system-ui, sans-serif; }
.nicegui-content { padding: 0; }
.adire-page { max-width: 76rem; margin: 0 auto; padding: 1rem; width: 100%; }
.adire-page > .q-card + .q-card { margin-top: 1rem; }
main h1 { font-size: 1.6rem; line-height: 1.3; font-weight: 600; margin: 0 0 .75rem; }
main h2, .q-dialog h2 {
  font-size: 1.15rem; line-height: 1.4; font-weight: 600; margin: 1rem 0 .25rem;
}
main h3 { font-size: 1rem; line-height: 1.4; font-weight: 600; margin: .5rem 0 .25rem; }
.body--dark .q-card { background: #1b2040; }
.adire-quiet { color: #2f3e8f; }
.body--dark .adire-quiet { color: #b9c4ff; }
.body--dark a.adire-link { color: #b9c4ff; }
a.adire-link { color: #2f3e8f; text-decoration: underline; }
a.adire-nav { color: #fff; padding: .35rem .5rem; border-radius: .25rem; }
a.adire-nav[aria-current=page] { background: #ffffff33; text-decoration: underline; }
.q-dialog .q-card h2 { margin-top: 0; }
.q-dialog .q-card { position: relative; z-index: 1; }
.q-notification .q-btn { color: inherit !important; }
:focus-visible { outline: 3px solid #e0a100; outline-offset: 2px; }
pre.adire-lines { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; margin: 0; }
</style>
"""


@dataclass(frozen=True)
class Visitor:
    """Who looks at a page."""

    bearer: Bearer

    @property
    def name(self) -> str:
        return self.bearer.subject

    def may(self, action: str) -> bool:
        """Whether somebody with these roles may do `action`."""
        return roles.may(self.bearer.roles, action)

    def require(self, action: str) -> None:
        """UserError for what the visitor may not do."""
        if not self.may(action):
            able = ", ".join(roles.PERMISSIONS[action])
            raise UserError(f"you may not {action}; roles that may: {able}")


@contextmanager
def frame(
    request: Request, title: str, model: str | None = None, asks: str = "", *, signs_in: bool
) -> Iterator[Visitor]:
    """A page with head and navigation; inside is its main part. `model`: whose page it is, and
    `asks` what it is asked for there; `signs_in`: whether the visitor can sign out."""
    visitor = Visitor(request.scope[USER])
    ui.page_title(f"{f'{model}: ' if model else ''}{title} - Adire Assets")
    ui.add_head_html(STYLE)
    ui.colors(**INDIGO)
    with ui.header().classes("items-center gap-x-4 gap-y-1 flex-wrap"):
        _link("Adire Assets", "/", request).classes("text-lg font-semibold")
        with ui.element("nav").props('aria-label="Pages"').classes("flex flex-wrap gap-1 grow"):
            for name, path in _paths(visitor, model, asks):
                _link(name, path, request)
        if signs_in:
            with ui.element("form").props(f'method="post" action="{LOGOUT}"'):
                ui.button(f"Sign out ({visitor.name})").props(
                    "flat dense no-caps type=submit"
                ).style("color: #fff")
    with ui.element("div").classes("adire-page"):
        heading(title if model is None else f"{model}: {title}", 1)
        yield visitor


def _paths(visitor: Visitor, model: str | None, asks: str) -> Iterator[tuple[str, str]]:
    if model:
        yield asks, f"/models/{model}/generate"
        yield "Data", f"/models/{model}/data"
        yield "Training", f"/models/{model}/training"
        yield "Releases", f"/models/{model}/releases"
        yield "Rate", f"/models/{model}/rate"
        yield "Feedback", f"/models/{model}/feedback"
    yield "Lineage", "/lineage"
    if visitor.may("declare a model"):
        yield "New model", "/new-model"
    yield "Watch", "/watch"


def _link(text: str, path: str, request: Request) -> ui.link:
    link = ui.link(text, path).classes("adire-nav no-underline")
    if request.url.path == path:
        link.props("aria-current=page")
    return link


def heading(text: str, level: int) -> None:
    with ui.element(f"h{level}"):
        ui.label(text)


def quiet(text: str, do: Callable[[], Any]) -> ui.button:
    """A button beside the one that matters most."""
    button = ui.button(text, on_click=do, color=None)
    return button.props("outline no-caps").classes("adire-quiet")


def lines(found: Any) -> None:
    """Lines of text, as the command line prints them."""
    with ui.element("pre").classes("adire-lines"):
        ui.label("\n".join(map(str, found))).style("white-space: pre-wrap")


async def in_thread(
    work: Callable[..., Any], *arguments: Any, pool: ThreadPoolExecutor = THREADS
) -> Any:
    """What `work` returns, which may block. Artifacts that it opens are held until its end."""

    def working() -> Any:
        with reading():
            return work(*arguments)

    return await asyncio.get_running_loop().run_in_executor(pool, working)


async def shared(key: str, seconds: float, work: Callable[[], Any]) -> Any:
    """What `work` returns in a thread; all pages that ask until `seconds` after it has ended have
    the same of it."""
    found = _shared.get(key)
    if found is None or (found.done() and time.monotonic() - _ended[key] > seconds):
        found = _shared[key] = asyncio.ensure_future(in_thread(work))
        found.add_done_callback(lambda _: _ended.__setitem__(key, time.monotonic()))
        _ended[key] = float("inf")
    return await asyncio.shield(found)


def watched(
    seconds: float, look: Callable[[], Awaitable[Any]], show: Callable[[Any], None]
) -> Callable[[], Awaitable[None]]:
    """A part of a page that is shown anew whenever `look` finds something else; the function that
    looks at once."""
    place = ui.column().classes("w-full")
    with place:
        ui.spinner(size="lg").props('aria-label="Loading"')
    last: list[Any] = []

    def replace(found: Any, fill: Callable[[], None]) -> None:
        if last != [found] and not place.is_deleted:
            last[:] = [found]
            place.clear()
            with place:
                fill()

    async def refresh() -> None:
        try:
            found = await look()
        except (UserError, OSError) as error:
            said = sentence(error)
            replace(said, lambda: lines([said]))
            return
        except Exception:
            replace(FAILED, lambda: lines([FAILED]))
            raise
        replace(found, lambda: show(found))

    ui.timer(seconds, refresh)
    return refresh


def sentence(error: UserError | OSError) -> str:
    """A mistake in its sentence."""
    return str(error) if isinstance(error, UserError) else refusal(error) or str(error)


def tell(error: UserError | OSError) -> None:
    """Show a mistake in its sentence, until it is closed."""
    ui.notify(sentence(error), type="negative", multi_line=True, timeout=0, close_button="Close")


async def act(
    visitor: Visitor,
    action: str,
    work: Callable[..., Any],
    *arguments: Any,
    pool: ThreadPoolExecutor = THREADS,
) -> Any | None:
    """What `work` returns, if the visitor may do `action`; None for what was refused, which is
    shown."""
    try:
        visitor.require(action)
        return await in_thread(work, *arguments, pool=pool)
    except (UserError, OSError) as error:
        tell(error)
        return None


@contextmanager
def dialog_above(page: ui.element, title: str) -> Iterator[ui.dialog]:
    """An open dialog with a heading; inside are its parts. It is gone when it is closed. `page` is
    the page's content: what is behind the dialog may be shown anew meanwhile."""
    with page, ui.dialog(value=True) as dialog, ui.card().classes("w-96"):
        dialog.props["aria-label"] = title
        dialog.props("transition-duration=0")
        heading(title, 2)
        yield dialog
    dialog.on("hide", dialog.delete)


def with_reason(title: str, text: str, do: Callable[[str], Awaitable[None]]) -> None:
    """Ask for the reason, without which nothing is done, and then `do(reason)`."""
    page = ui.context.client.content
    with dialog_above(page, title) as dialog:
        ui.label(text)
        reason = ui.textarea("Reason; it is kept in the record").props("autofocus")
        reason.classes("w-full")

        async def confirmed() -> None:
            said = (reason.value or "").strip()
            if not said:
                reason.props('error error-message="Say why"')
                return
            dialog.close()
            with page:
                await do(said)

        with ui.row().classes("w-full justify-end"):
            quiet("Cancel", dialog.close)
            ui.button(title, on_click=confirmed).props("no-caps")
