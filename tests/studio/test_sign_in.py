"""From a token to a session and back."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from adire_assets.serving.gateway import tokens
from adire_assets.serving.gateway.tokens import Bearer
from adire_assets.studio import sign_in
from adire_assets.studio.guard import COOKIE, USER, Guard

CLAIMS = {"issuer": "adire", "audience": "adire"}
OWN = {"origin": "https://studio"}


async def who(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.scope[USER].subject)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokens.make_keys(tmp_path)
    return tmp_path


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    def check(token: str) -> Bearer:
        return tokens.verify(folder / "keys.json", token, **CLAIMS)

    pages = Starlette(
        routes=[*sign_in.routes(check, secure=True), Route("/{path:path}", who)],
    )
    guard = Guard(pages, frozenset({"studio"}), check, (sign_in.LOGIN,), {}, 10_000)
    with TestClient(guard, "https://studio", follow_redirects=False) as found:
        yield found


def test_who_signs_in_stays_so_until_signing_out(client: TestClient, folder: Path) -> None:
    token = tokens.issue(folder, "ada", **CLAIMS, days=1, roles=["designer"])
    assert client.get("/rate").status_code == 401
    assert "Your token" in client.get("/login?next=/rate").text
    sent = {"token": f" {token}\n", "next": "/rate"}
    done = client.post("/login", data=sent, headers=OWN)
    assert (done.status_code, done.headers["location"]) == (303, "/rate")
    cookie = done.headers["set-cookie"].lower()
    assert all(word in cookie for word in ("httponly", "samesite=strict", "secure", "max-age=86"))
    assert client.get("/rate").text == "ada"
    out = client.post("/logout", headers=OWN)
    assert out.headers["location"] == "/login"
    assert COOKIE not in client.cookies and client.get("/rate").status_code == 401


def test_what_is_no_token_signs_nobody_in(client: TestClient, folder: Path) -> None:
    late = tokens.issue(folder, "ada", **CLAIMS, days=-1)
    for token, why in {"x": "is not valid", late: "has expired", "": "is not valid"}.items():
        refused = client.post("/login", data={"token": token}, headers=OWN)
        assert refused.status_code == 401 and f"the token {why}" in refused.text
        assert "set-cookie" not in refused.headers


def test_nobody_is_signed_in_by_another_site(client: TestClient, folder: Path) -> None:
    token = tokens.issue(folder, "mallory", **CLAIMS, days=1)
    there = {"origin": "https://evil.example"}
    assert client.post("/login", data={"token": token}, headers=there).status_code == 403


@pytest.mark.parametrize(
    "to",
    ["//evil.example", "https://evil.example", "/\\evil.example", "evil", "/a\r\nset-cookie: x"],
)
def test_signing_in_leads_nowhere_else(client: TestClient, folder: Path, to: str) -> None:
    sent = {"token": tokens.issue(folder, "ada", **CLAIMS, days=1), "next": to}
    assert client.post("/login", data=sent, headers=OWN).headers["location"] == "/"


def test_what_somebody_sends_is_shown_as_text(client: TestClient) -> None:
    page = client.get('/login?next=/"><script>alert(1)</script>').text
    assert "<script>" not in page and "&lt;script&gt;" in page
