"""The studio's door: what comes in, and in which sentence the rest is refused."""

from collections.abc import Callable, Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocket, WebSocketDisconnect

from adire_assets.core.errors import UserError
from adire_assets.serving.gateway.tokens import Bearer
from adire_assets.studio.guard import COOKIE, LOCAL_USER, USER, Guard

ADA = Bearer("ada", frozenset({"designer"}), 9e9)
OWN = {"origin": "http://studio:3001"}


async def who(request: Request) -> PlainTextResponse:
    size = len(await request.body())
    user = request.scope[USER]
    return PlainTextResponse(f"{user.subject if user else None} {size}")


async def talk(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(socket.scope[USER].subject)
    await socket.close()


def check(token: str) -> Bearer:
    if token != "good":
        raise UserError("no good")
    return ADA


@pytest.fixture
def client() -> Iterator[TestClient]:
    with made(check) as found:
        yield found


def made(check: Callable[[str], Bearer] | None) -> TestClient:
    pages = Route("/{path:path}", who, methods=["GET", "POST"])
    guard = Guard(
        Starlette(routes=[WebSocketRoute("/socket", talk), pages]),
        hosts=frozenset({"studio:3001"}),
        check=check,
        open=("/login",),
        limits={"/data/": 1000, "/data/small": 10},
        limit=100,
    )
    return TestClient(guard, "http://studio:3001", raise_server_exceptions=False)


def test_a_session_is_the_token_in_a_cookie(client: TestClient) -> None:
    assert (client.get("/").status_code, client.get("/login").text) == (401, "None 0")
    led = client.get('/data/"x"', headers={"accept": "text/html"}, follow_redirects=False)
    assert (led.status_code, led.headers["location"]) == (303, "/login?next=/data/%22x%22")
    client.cookies.set(COOKIE, "bad")
    assert client.get("/").text == "sign in first\n"
    client.cookies.set(COOKIE, "good")
    assert client.get("/").text == "ada 0"


def test_without_tokens_whoever_is_on_this_machine_comes_in() -> None:
    with made(None) as client:
        assert client.get("/").text == f"{LOCAL_USER.subject} 0"


def test_another_name_and_other_sites_are_refused(client: TestClient) -> None:
    client.cookies.set(COOKIE, "good")
    assert client.get("/", headers={"host": "evil.example"}).status_code == 421
    for origin in ("https://evil.example", "http://studio:3002", "null"):
        assert client.get("/", headers={"origin": origin}).status_code == 403
        assert client.post("/", headers={"origin": origin}).status_code == 403
    assert client.post("/").text == "the Origin header is missing\n"
    assert client.post("/", headers=OWN).text == "ada 0"


def connected(client: TestClient, headers: dict[str, str]) -> WebSocketTestSession:
    return client.websocket_connect("ws://studio:3001/socket", headers=headers)


def test_so_are_their_websockets(client: TestClient) -> None:
    client.cookies.set(COOKIE, "good")
    for headers in ({}, {"origin": "https://evil.example"}):
        with (
            pytest.raises(WebSocketDisconnect),
            connected(client, headers),
        ):
            pass
    with connected(client, OWN) as socket:
        assert socket.receive_text() == "ada"
    client.cookies.clear()
    with pytest.raises(WebSocketDisconnect), connected(client, OWN):
        pass


@pytest.mark.parametrize(("path", "bound"), [("/x", 100), ("/data/x", 1000), ("/data/small", 10)])
@pytest.mark.parametrize("announced", [True, False])
def test_a_body_has_a_bound(client: TestClient, path: str, bound: int, announced: bool) -> None:
    client.cookies.set(COOKIE, "good")

    def body(size: int) -> bytes | Iterator[bytes]:
        return b"x" * size if announced else iter([b"x"] * size)

    assert client.post(path, content=body(bound), headers=OWN).text == f"ada {bound}"
    refused = client.post(path, content=body(bound + 1), headers=OWN)
    assert (refused.status_code, refused.text) == (
        413,
        f"the request is larger than {bound:,} bytes\n",
    )


def test_every_answer_says_what_a_browser_may_do_with_it(client: TestClient) -> None:
    for path in ("/", "/login"):
        headers = client.get(path).headers
        assert headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_nonsense_is_refused(client: TestClient) -> None:
    assert (
        client.get(
            "/",
            headers={
                "cookie": b"adire_session=\x80; ;;=",
            },
        ).status_code
        == 401
    )
    client.cookies.set(COOKIE, "good")
    assert client.post("/", headers={**OWN, "content-length": "-1"}).status_code == 413
