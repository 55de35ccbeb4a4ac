"""The studio as a web application: its pages behind its guard, served on loopback.

    serve(Project.find(), fleet)

Where the gateway of the first target has tokens, the studio asks for the same ones, and their roles
say what somebody may do. Without tokens anyone who can reach the port may use every
page, with the rights of the account that runs the studio.
"""

import asyncio
import os
from collections.abc import Callable
from functools import partial

import uvicorn
from fastapi import FastAPI

from adire_assets.config.fleet import FleetConfig, TokenConfig
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.monitoring import fleet_page
from adire_assets.ops import data_commit
from adire_assets.ops.data_upload import LARGEST_UPLOAD
from adire_assets.serving.connection import host_and_port
from adire_assets.serving.fleet import orphans
from adire_assets.serving.gateway import tokens
from adire_assets.serving.gateway.tokens import Bearer
from adire_assets.studio import sign_in
from adire_assets.studio.guard import LOGIN, Guard

STOP_SECONDS = 3  # for requests that are under way
RECONNECT_SECONDS = 60.0  # a page that is disconnected for longer reloads


def serve(project: Project, fleet: FleetConfig) -> None:
    """Serve the pages until the process is told to stop. UserError for a port that is taken."""
    orphans.require_free_ports({fleet.studio.port: "studio.port"})
    try:
        for line in data_commit.recover(project):
            print(line, flush=True)
    except (UserError, OSError) as error:  # publishing says it again; all else goes on
        print(error, flush=True)
    config = uvicorn.Config(
        application(project, fleet),
        host=fleet.studio.host,
        port=fleet.studio.port,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws_per_message_deflate=False,  # pictures are compressed already
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    asyncio.run(uvicorn.Server(config).serve())


def application(project: Project, fleet: FleetConfig) -> Guard:
    """The pages of a project behind their guard; once in a process, since NiceGUI has one set of
    pages. UserError when the keys of the tokens cannot be read."""
    # Before NiceGUI is imported, which would keep its files in the folder that it is called in.
    os.environ["NICEGUI_STORAGE_PATH"] = str(project.home / "studio")
    from nicegui import ui

    from adire_assets.studio import data_uploads, feedback, lineage, pages

    app = FastAPI(title="Adire Assets", openapi_url=None, docs_url=None, redoc_url=None)
    check = _check(project, next(iter(fleet.targets.values())).gateway.tokens)
    if check:
        app.router.routes.extend(sign_in.routes(check, secure=False))
    pages.register(project, app, signs_in=check is not None)
    ui.run_with(
        app,
        title="Adire Assets",
        dark=None,
        language="en-US",
        binding_refresh_interval=None,
        reconnect_timeout=RECONNECT_SECONDS,
        message_history_length=100,
        show_welcome_message=False,
    )
    port = fleet.studio.port
    return Guard(
        app,
        hosts=frozenset(host_and_port(host, port) for host in ("127.0.0.1", "localhost", "::1")),
        check=check,
        open=(LOGIN, fleet_page.PATH),  # numbers, for a Prometheus on this machine
        limits={
            lineage.ANSWER: lineage.LARGEST_ANSWER,
            feedback.PLACE: feedback.LARGEST_BODY,
            data_uploads.UPLOAD: LARGEST_UPLOAD,
        },
    )


def _check(project: Project, config: TokenConfig | None) -> Callable[[str], Bearer] | None:
    if config is None:
        return None
    keys = project.root / config.keys
    tokens.read_keys(keys)
    return partial(tokens.verify, keys, issuer=config.issuer, audience=config.audience)
