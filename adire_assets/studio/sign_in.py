"""Signing in to the studio and out again: a token becomes a session, see `studio.guard`."""

import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from adire_assets.core.errors import UserError
from adire_assets.serving.gateway.tokens import Bearer
from adire_assets.studio.guard import COOKIE, LOGIN, LOGOUT

_PAGES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)


def routes(check: Callable[[str], Bearer], *, secure: bool) -> list[Route]:
    """The routes /login and /logout. `check` tells who holds a token; `secure`: browsers send the
    cookie over HTTPS alone."""

    def page(next_: str, wrong: str = "", status: int = 200) -> Response:
        text = _PAGES.get_template("sign_in.html.j2").render(next=_own(next_), wrong=wrong)
        return HTMLResponse(text, status, headers={"cache-control": "no-store"})

    async def login(request: Request) -> Response:
        if request.method == "GET":
            return page(request.query_params.get("next", ""))
        body = (await request.body()).decode("ascii", "replace")
        sent = {name: values[0] for name, values in parse_qs(body).items()}
        try:
            bearer = check(sent.get("token", "").strip())
        except UserError as error:
            return page(sent.get("next", ""), str(error), 401)
        answer = RedirectResponse(_own(sent.get("next", "")), 303)
        answer.set_cookie(
            COOKIE,
            sent["token"].strip(),
            max_age=max(0, int(bearer.expires - time.time())),
            httponly=True,
            samesite="strict",
            secure=secure,
        )
        return answer

    async def logout(request: Request) -> Response:
        answer = RedirectResponse(LOGIN, 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=secure)
        return answer

    return [Route(LOGIN, login, methods=["GET", "POST"]), Route(LOGOUT, logout, methods=["POST"])]


def _own(path: str) -> str:
    """A path of the studio to go on to; whatever else was asked for becomes its first page."""
    plain = path.startswith("/") and not path.startswith("//") and path.isprintable()
    return path if plain and "\\" not in path else "/"
