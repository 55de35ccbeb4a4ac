"""What stands before every page of the studio: who asks, from where, and how much.

An ASGI middleware. It refuses, with one sentence:

- a Host that is not the studio's: a site whose name resolves to this machine could reach it (DNS
  rebinding);
- a request or websocket from another Origin (a page on another port of this host is same-site, so
  the browser sends the cookie), and a changing request without an Origin;
- a body larger than the route allows, counted while it arrives;
- a request without a session, where tokens are configured; a browser that opens a page is led to
  where one signs in.

A session is the user's token in a cookie that scripts cannot read and that other sites' pages do
not send. The server keeps no session state, so there is nothing to fixate. It ends with the token,
which is checked with each request and with each message of an open websocket. A program sends the
token in the header Authorization instead, as it does to the gateway; it needs no Origin then.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from starlette.requests import cookie_parser

from adire_assets.config.roles import ROLES
from adire_assets.core.errors import UserError
from adire_assets.serving.gateway.tokens import Bearer

COOKIE = "adire_session"
LOGIN, LOGOUT = "/login", "/logout"
ASK_FOR_ROLES = "ask for one that has: `adire auth token NAME --role ROLE`"
USER = "adire.user"  # the scope's key whose value is the `Bearer`
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
HEADERS = {
    # NiceGUI compiles its templates in the browser and has inline scripts and styles.
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; "
        "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "same-origin",  # with none, a form is sent with the Origin null
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
LOCAL_USER = Bearer("local", frozenset(ROLES), float("inf"))  # on loopback, as at the command line
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Guard:
    """The middleware.

    `hosts`: the values of Host that are the studio's; `check` tells who holds a token (UserError:
    it is no good), None where nobody needs one; `open`: paths without a session, the first is where
    one signs in; `limits`: bytes of a body by the beginning of the path, the longest that fits;
    `limit` for all else.
    """

    app: App
    hosts: frozenset[str]
    check: Callable[[str], Bearer] | None
    open: tuple[str, ...]
    limits: Mapping[str, int]
    limit: int = 2**20

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = _headers(scope)
        try:
            self._refuse_strangers(scope, headers)
            body = _Body(receive, _with_headers(send), self._bound(scope["path"]))
            body.refuse_announced(headers.get("content-length", "0"))
            user = self._user(scope, headers)
        except Refused as refused:
            await _answer(scope, receive, send, refused)
            return

        async def next_message() -> Message:
            message = await body.receive()
            if scope["type"] == "websocket":
                try:
                    self._user(scope, headers)
                except Refused:
                    return {"type": "websocket.disconnect", "code": 1008}
            return message

        try:
            await self.app({**scope, USER: user}, next_message, body.send)
        except RuntimeError:
            # Starlette's middleware raises where a browser goes away before it has its answer.
            if not body.gone:
                raise

    def _refuse_strangers(self, scope: Scope, headers: Mapping[str, str]) -> None:
        if headers.get("host") not in self.hosts:
            raise Refused(421, "unknown host; open the studio as http://127.0.0.1 with its port")
        origin = headers.get("origin")
        safe = scope["type"] == "http" and scope["method"] in SAFE_METHODS
        # Browsers send it with every websocket and with everything that is not safe.
        if origin is not None and origin.partition("://")[2] != headers["host"]:
            raise Refused(403, "cross-site request refused")
        # No site can have a browser send this header elsewhere: a program sends it.
        if origin is None and not safe and _bearer(headers) is None:
            raise Refused(403, "the Origin header is missing")

    def _bound(self, path: str) -> int:
        fitting = [begin for begin in self.limits if path.startswith(begin)]
        return self.limits[max(fitting, key=len)] if fitting else self.limit

    def _user(self, scope: Scope, headers: Mapping[str, str]) -> Bearer | None:
        if self.check is None:
            return LOCAL_USER
        try:
            token = _bearer(headers)
            if token is None:
                token = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
            found = self.check(token)
        except UserError:
            if scope["path"] in self.open:
                return None
            opens = scope["type"] == "http" and scope["method"] == "GET"
            page = opens and "text/html" in headers.get("accept", "")
            wanted = quote(scope["path"], safe="/")
            place = f"{self.open[0]}?next={wanted}" if page else ""
            raise Refused(303 if page else 401, "sign in first", place) from None
        if found.roles.isdisjoint(ROLES) and scope["path"] not in (*self.open, LOGOUT):
            raise Refused(403, f"the token of {found.subject} has no studio role; {ASK_FOR_ROLES}")
        return found


class Refused(Exception):
    """A request that is answered by a status and a sentence, or led to another `place`."""

    def __init__(self, status: int, sentence: str, place: str = "") -> None:
        super().__init__(sentence)
        self.status, self.place = status, place


class _Body:
    """The body of a request on its way to a page, up to `bound` bytes. Beyond these the page sees
    that the client has gone, and whatever it answers becomes a refusal."""

    def __init__(self, receive: Receive, send: Send, bound: int) -> None:
        self._receive, self._send, self.bound = receive, send, bound
        self.seen, self.answered, self.gone = 0, False, False

    def refuse_announced(self, length: str) -> None:
        if not length.isdecimal() or int(length) > self.bound:
            raise self._refusal()

    def _refusal(self) -> Refused:
        return Refused(413, f"the request is larger than {self.bound:,} bytes")

    async def receive(self) -> Message:
        message = await self._receive()
        self.gone = self.gone or message["type"] == "http.disconnect"
        self.seen += len(message.get("body", b""))
        return message if self.seen <= self.bound else {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.seen <= self.bound:
            await self._send(message)
        elif not self.answered:
            self.answered = True
            await _refuse(self._send, self._refusal())


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _bearer(headers: Mapping[str, str]) -> str | None:
    """The token that a program sends, as it does to the gateway."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return sent


async def _answer(scope: Scope, receive: Receive, send: Send, refused: Refused) -> None:
    if scope["type"] == "websocket":
        await receive()  # its connect
        await send({"type": "websocket.close", "code": 1008, "reason": str(refused)})
        return
    await _refuse(_with_headers(send), refused)


async def _refuse(send: Send, refused: Refused) -> None:
    head = [(b"content-type", b"text/plain; charset=utf-8")]
    if refused.place:
        head.append((b"location", refused.place.encode()))
    await send({"type": "http.response.start", "status": refused.status, "headers": head})
    await send({"type": "http.response.body", "body": f"{refused}\n".encode()})
