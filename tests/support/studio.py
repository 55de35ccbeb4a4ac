"""The studio as a process of its own, and a browser that opens its pages."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from adire_assets.config.fleet import FleetConfig
from adire_assets.core.project import Project
from adire_assets.core.waiting import wait_until
from tests.support.fleets import write_fleet
from tests.support.ports import listens

CHROMIUM = shutil.which("chromium")
START_SECONDS = 60.0
WIDE, NARROW = 1280, 390

# The bar that Quasar shows while something is loaded is no part of a page.
IDLE = """() => [...document.querySelectorAll(".q-loading-bar")]
    .every((bar) => getComputedStyle(bar).opacity === "0")"""

expect.set_options(timeout=30_000)  # the machine may be busy
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")


@contextmanager
def running_studio(project: Project, fleet: FleetConfig) -> Iterator[str]:
    """`adire studio` of a project, whose fleet file this writes; its URL."""
    write_fleet(project, fleet)
    project.home.mkdir(parents=True, exist_ok=True)
    log = project.home / "studio.log"
    environment = {
        **os.environ,
        "ADIRE_PROJECT": str(project.root),
        "ADIRE_HOME": str(project.home),
    }
    environment.pop("PYTEST_CURRENT_TEST", None)  # with it, NiceGUI behaves in another way
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "adire_assets.cli", "studio"],
            cwd=project.root,
            env=environment,
            stdout=said,
            stderr=said,
        )
        try:
            port = fleet.studio.port
            listening = wait_until(
                lambda: listens(port), START_SECONDS, alive=lambda: process.poll() is None
            )
            assert listening, log.read_text()
            yield f"http://127.0.0.1:{port}"
            served = log.read_text()
        finally:
            process.terminate()
            process.wait(60)
    assert "Traceback" not in served, served


@contextmanager
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()


@contextmanager
def opened(
    browser: Browser,
    url: str,
    *,
    width: int = WIDE,
    dark: bool = False,
    token: str | None = None,
    known: str = "-",
) -> Iterator[Page]:
    """A page of a visitor of his own; afterwards it must have had no error but those `known`."""
    scheme = "dark" if dark else "light"
    context = browser.new_context(
        base_url=url, viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    if token:
        sign_in(page, token)
    try:
        yield page
    finally:
        _close(context)
    assert not [one for one in wrong if not known or known not in one], wrong


def sign_in(page: Page, token: str) -> None:
    page.goto("/login")
    page.get_by_label("Your token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("/")


def visit(page: Page, path: str) -> None:
    """Open a page, and wait until its buttons reach the studio."""
    page.goto(path)
    page.wait_for_function("() => window.socket?.connected")


def _close(context: BrowserContext) -> None:
    for page in context.pages:
        page.close()
    context.close()


def serious_faults(page: Page) -> list[str]:
    """What axe-core calls serious or critical, with where it is."""
    page.wait_for_function(IDLE)
    return [
        f"{one['id']}: {one['help']}: {[_told(node) for node in one['nodes']]}"
        for one in Axe().run(page).response["violations"]
        if one["impact"] in ("serious", "critical")
    ]


def _told(node: dict[str, Any]) -> str:
    why = [check["message"] for check in node["any"][:1]]
    return f"{node['html'][:200]} {why}"
