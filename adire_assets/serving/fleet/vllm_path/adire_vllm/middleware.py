"""The door of an engine: an ASGI middleware that stands before all routes of a vLLM.

    GET  /adire/held              {held: {model: [releases]}, software, pid}
    POST /adire/reconcile         {model}: bring the engine to the slot's folder, see `engine`
    GET  /adire/ready/<model>     200 while a release of the model is served
    GET  /health, /metrics        vLLM's own, with the series of `series`
    GET  /v1/models               the models that are served, and each release
    POST /v1/chat/completions, /v1/completions

and nothing else: adapters come and go by the folder alone. The body of a request names a model
("letters") or a release ("letters@2"); the header x-model-release says which one is asked for. What
cannot be asked for is refused with one sentence, see `requests`, before it comes to the engine.
"""

import json
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from adire_vllm import requests, series
from adire_vllm.answers import RETRY, Answer, Message, Send
from adire_vllm.engine import App, Holder, software
from adire_vllm.last_words import Streams
from adire_vllm.launcher import DEVICE, SLOT
from adire_vllm.moderation import words_of
from adire_vllm.releases import Release, engine_for
from adire_vllm.requests import Refused

Receive = Callable[[], Awaitable[Message]]
LARGEST_BODY = 2**24  # bytes
PASSED_ON = ("/health", "/metrics")
ASKED = (requests.CHAT, requests.COMPLETION)


class Door:
    """One for each engine, which is started on the folder that the environment names."""

    def __init__(self, app: App) -> None:
        self.app = app
        slot = Path(os.environ[SLOT])
        engine = engine_for(slot)
        if engine is None:
            raise RuntimeError(f"{slot} holds no release to start an engine for")
        self.device = os.environ[DEVICE]
        self.holder, self.software = Holder(slot, engine), software(self.device)
        self.streams = Streams()
        self.busy = series.Busy()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] != "http":
            return
        elif scope["path"] in PASSED_ON and scope["method"] == "GET":
            self.busy.settle()
            await self.app(scope, receive, send)
        else:
            try:
                await self._answer(scope, receive, send)
            except Refused as refused:
                await _refuse(send, refused)

    async def _live(self, scope: Message, receive: Receive, send: Send) -> None:
        """Ready only when what the folder holds is loaded; what cannot be is told in the log."""

        async def sent(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self.holder.bring(self.app, scope, None)
            await send(message)

        await self.app(scope, receive, sent)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path in ASKED:
            _require(method, "POST")
            await self._ask(scope, receive, send)
        elif path == "/v1/models":
            _require(method, "GET")
            await _say(send, 200, {"object": "list", "data": self._cards()})
        elif path == "/adire/held":
            told = {"held": self.holder.numbers(), "software": self.software, "pid": os.getpid()}
            await _say(send, 200, told)
        elif path.startswith("/adire/ready/"):
            ready = self.holder.release(path.removeprefix("/adire/ready/"), None)
            await _say(send, 200 if ready else 503, {})
        elif path == "/adire/reconcile":
            _require(method, "POST")
            model = requests.read(await _body(receive)).get("model")
            if not isinstance(model, str):
                raise Refused("name the model that is to be brought to the slot's folder")
            await _say(send, 200, await self.holder.bring(self.app, scope, model))
        else:
            raise Refused(f"{path} is not served here", 404)

    async def _ask(self, scope: Message, receive: Receive, send: Send) -> None:
        body = requests.read(await _body(receive))
        release = self._release(body, scope)
        try:
            asked = requests.checked(scope["path"], body, release.limits)
            words = words_of(release.limits)
            if words.found_in(requests.texts(scope["path"], asked)):
                series.MODERATED.labels(release.model, str(release.number), "prompt").inc()
                if words.refuse:
                    raise Refused("the request holds a word that this model does not answer to")
        except Refused:
            series.REQUESTS.labels(release.model, str(release.number), "refused").inc()
            raise
        told = {
            **release.provenance,
            "device": self.device,
            "software": self.software,
            "request": {name: one for name, one in asked.items() if name != "model"},
        }
        streamed, begin = bool(asked.get("stream")), partial(self.streams.begin, receive)
        answer = Answer(release, streamed, words, told, send, begin)
        if streamed:  # whoever asked, how many tokens an answer has is counted
            answer.tells_usage = asked.get("stream_options", {}).get("include_usage", False)
            asked = {**asked, "stream_options": {"include_usage": True}}
        data = json.dumps({**asked, "model": release.name}, ensure_ascii=False).encode()
        given = False

        async def received() -> Message:
            nonlocal given
            if given:
                message = await receive()
                answer.given_up |= message["type"] == "http.disconnect"
                return message
            given = True
            return {"type": "http.request", "body": data, "more_body": False}

        try:
            with self.busy.answering(answer.labels):
                await self.app(_with_length(scope, len(data)), received, answer.send)
        finally:
            await answer.finish()

    def _release(self, body: dict[str, Any], scope: Message) -> Release:
        """The release that a request is for. `Refused` when it is not served here."""
        model, number = requests.model_of(body)
        headers = dict(scope["headers"])
        asked = headers.get(b"x-model-release", b"").decode("latin-1")
        # What the gateway's shares have chosen; the slot that stands in for another has no such.
        chosen = headers.get(b"x-adire-release", b"").decode("latin-1")
        if not asked and number is None and f"{model}@{chosen}" in self.holder.held:
            return self.holder.held[f"{model}@{chosen}"]
        if asked and not asked.isdigit():
            raise Refused(f"release {asked[:20]!r} of {model[:60]} does not exist", 404)
        found = self.holder.release(model, int(asked) if asked else number)
        if found is None:
            held = ", ".join(sorted(self.holder.held)) or "none"
            named = str(body["model"])[:60]
            # Another slot may have it.
            raise Refused(f"model {named!r} is not served here; served: {held}", 404, again=True)
        return found

    def _cards(self) -> list[dict[str, Any]]:
        names = [
            *self.holder.numbers(),
            *sorted(self.holder.held),
        ]
        return [
            {"id": name, "object": "model", "created": 0, "owned_by": "adire"} for name in names
        ]


def _require(method: str, wanted: str) -> None:
    if method != wanted:
        raise Refused(f"this path has the method {wanted}", 405)


async def _body(receive: Receive) -> bytes:
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused("the request has no end")
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > LARGEST_BODY:
            raise Refused(f"the request has more than {LARGEST_BODY} bytes", 413)
        if not message.get("more_body"):
            return b"".join(pieces)


def _with_length(scope: Message, length: int) -> Message:
    replaced = (b"content-length", b"transfer-encoding", b"content-type")
    kept = [pair for pair in scope["headers"] if pair[0] not in replaced]
    own = [(b"content-length", str(length).encode()), (b"content-type", b"application/json")]
    return {**scope, "headers": [*kept, *own]}


async def _refuse(send: Send, refused: Refused) -> None:
    error = {"message": str(refused), "type": "invalid_request_error", "code": refused.status}
    await _say(send, refused.status, {"error": error}, *[(RETRY, b"1")] * refused.again)


async def _say(send: Send, status: int, content: Any, *more: tuple[bytes, bytes]) -> None:
    body = json.dumps(content, ensure_ascii=False).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
