"""What becomes of the answer that an engine gives to one request: counted, marked, ended.

The head of an answer is kept until its first piece is there, so that whoever measures the time to
the head measures the time to the first token, and a request that fails before it can be asked again
elsewhere. A streamed answer that breaks ends with an event that says so, and its connection with no
end: an answer that only looks whole would be counted as one.
"""

import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, MutableMapping
from hashlib import sha256
from typing import Any

from adire_vllm import series, signing
from adire_vllm.last_words import broken_event
from adire_vllm.moderation import Words
from adire_vllm.releases import Release

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
EVENT, DONE = b"data: ", b"[DONE]"
RETRY = b"x-adire-retry"  # of an answer that is none: the gateway may ask another slot
UNANSWERED = "the server failed before it began to answer; ask again"
LEFT_OUT = "the answer was ended because it holds a word that this model may not say"


class Answer:
    """One answer on its way; `send` takes what the engine sends, `finish` what became of it.

    `begin` is called when the head of a stream has gone, and returns what is to be called at its
    end.
    """

    def __init__(
        self,
        release: Release,
        streamed: bool,
        words: Words,
        told: dict[str, Any],
        send: Send,
        begin: Callable[[], Callable[[], None]],
    ) -> None:
        self.release, self.streamed, self.words, self.told = release, streamed, words, told
        self._send, self._on_begin, self._on_end = send, begin, _nothing
        self.started = time.perf_counter()
        self.last: float | None = None  # when the last piece of a stream went out
        self.head: Message | None = None
        self.status = 0
        self.sent = self.ended = self.failed = self.cut_off = self.given_up = False
        self.tells_usage = True  # whether the client has asked for a stream's last event with it
        self.body = self.rest = b""
        self.text: dict[int, str] = {}  # of each answer in a stream
        self.digests: defaultdict[int, Any] = defaultdict(sha256)  # likewise
        self.pieces = 0  # with text

    @property
    def labels(self) -> tuple[str, str]:
        return self.release.model, str(self.release.number)

    async def send(self, message: Message) -> None:
        """Take one message of the engine's answer."""
        if message["type"] == "http.response.start":
            self.head, self.status = message, message["status"]
        elif self.failed or self.ended:
            return  # what comes after an end of ours
        elif self.streamed and self.status == 200:
            await self._piece(message.get("body", b""), bool(message.get("more_body")))
        else:
            self.body += message.get("body", b"")
            if not message.get("more_body"):
                await self._whole()

    async def finish(self) -> None:
        """Tell how it ended; break a stream off that has no end."""
        if self.sent and not self.ended and not self.given_up:
            await self._break_off()
        elif not self.sent and not self.given_up:
            self.status, self.ended = 503, True
            error = {"message": UNANSWERED, "type": "server_error", "code": self.status}
            body = json.dumps({"error": error}).encode()
            headers = [(b"content-type", b"application/json")]
            self.head = {"type": "http.response.start", "status": 503, "headers": headers}
            await self._begin(length=len(body))
            await self._send({"type": "http.response.body", "body": body})
        self._let_go()
        outcome = self._outcome()
        series.REQUESTS.labels(*self.labels, outcome).inc()
        if outcome == "answered":
            series.WHOLE.labels(*self.labels).observe(time.perf_counter() - self.started)
            if self.cut_off:
                series.CUT_OFF.labels(*self.labels).inc()

    def _outcome(self) -> str:
        if self.given_up and not self.ended:
            return "given_up"
        if not self.sent or self.status >= 500:
            return "failed"
        if self.status >= 400:
            return "refused"
        return "broken" if self.failed else "answered"

    # --- in one piece --------------------------------------------------------------------------

    async def _whole(self) -> None:
        assert self.head is not None
        body = self.body
        if self.status == 200:
            content = json.loads(body)
            self._count(content)
            for choice in content["choices"]:
                self._look_at(choice, choice.get("message", choice), "content")
                self._say(choice, choice.get("message", choice))
            body = json.dumps(self._with_provenance(content), ensure_ascii=False).encode()
        await self._begin(length=len(body))
        self.ended = True
        await self._send({"type": "http.response.body", "body": body})

    def _look_at(self, choice: dict[str, Any], holder: dict[str, Any], key: str) -> None:
        key = key if key in holder else "text"
        self.cut_off |= choice.get("finish_reason") == "length"
        if self.words.found_in(holder.get(key) or ""):
            series.MODERATED.labels(*self.labels, "answer").inc()
            if self.words.refuse:
                holder[key], choice["finish_reason"] = LEFT_OUT, "content_filter"
                choice["logprobs"] = None

    def _count(self, content: dict[str, Any]) -> None:
        made = (content.get("usage") or {}).get("completion_tokens") or 0
        series.MADE.labels(*self.labels, series.UNIT).inc(made)

    # --- streamed ------------------------------------------------------------------------------

    async def _piece(self, data: bytes, more: bool) -> None:
        whole = (self.rest + data).split(b"\n\n")
        self.rest = whole.pop()
        out = [event for event in whole if event]
        for place, event in enumerate(out):
            verdict = self._event(event)
            if verdict == "broken":
                await self._pass_on(out[:place])
                await self._break_off()
                return
            if verdict == "refused":
                # The engine is stopped before it tells how many tokens: a piece is mostly one.
                series.MADE.labels(*self.labels, series.UNIT).inc(self.pieces)
                await self._pass_on([*out[:place], self._stamped(_ending(event)), EVENT + DONE])
                await self._end()
                return
            if verdict == "last":
                out[place] = self._stamped(event)
            if verdict == "usage" and not self.tells_usage:
                out[place] = b""
        await self._pass_on([event for event in out if event])
        if not more and self.rest:  # half an event
            await self._break_off()
        elif not more:
            await self._end()

    def _event(self, event: bytes) -> str | None:
        content = event.removeprefix(EVENT)
        if not event.startswith(EVENT) or content == DONE:
            return None
        try:
            found = json.loads(content)
        except ValueError:
            return "broken"
        if "error" in found:
            return "broken"
        if found.get("usage") and not found.get("choices"):
            self._count(found)
            return "usage"
        last = None
        for choice in found.get("choices", ()):
            if choice.get("finish_reason"):
                last = "last"
            self.cut_off |= choice.get("finish_reason") == "length"
            piece = _text(choice.get("delta", choice))
            self.pieces += bool(piece)
            if self.words and piece:
                before = self.text.get(choice["index"], "")
                text = self.text[choice["index"]] = before + piece
                if self.words.found_in(text) and not self.words.found_in(before):
                    series.MODERATED.labels(*self.labels, "answer").inc()
                    if self.words.refuse:
                        return "refused"
            self._say(choice, choice.get("delta", choice))
        return last

    def _say(self, choice: dict[str, Any], holder: dict[str, Any]) -> None:
        """Count what a choice says as part of the answer that its token names."""
        self.digests[choice.get("index", 0)].update(_text(holder).encode())

    def _stamped(self, event: bytes) -> bytes:
        """The last event with text, which tells what an answer in one piece tells."""
        content = self._with_provenance(json.loads(event.removeprefix(EVENT)))
        return EVENT + json.dumps(content).encode()

    def _with_provenance(self, content: dict[str, Any]) -> dict[str, Any]:
        """The token names the answers that end here: all of them, or one of several in a stream."""
        fingerprint = self.release.content_hash[:16]
        ended = [choice.get("index", 0) for choice in content["choices"]]
        digests = [self.digests[index].hexdigest() for index in ended]
        signed = signing.told(self.release.model, self.release.number, digests)
        told = {**self.told, **signed}
        return {**content, "system_fingerprint": fingerprint, "provenance": told}

    async def _pass_on(self, events: list[bytes]) -> None:
        if not events:
            return
        now = time.perf_counter()
        if self.last is None:
            series.FIRST_TOKEN.labels(*self.labels).observe(now - self.started)
        elif not events[0].endswith(DONE):
            series.BETWEEN_TOKENS.labels(*self.labels).observe(now - self.last)
        self.last = now
        await self._begin()
        body = b"".join(event + b"\n\n" for event in events)
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _end(self) -> None:
        await self._begin()
        self.ended = True
        self._let_go()
        await self._send({"type": "http.response.body", "body": b""})

    async def _break_off(self) -> None:
        """An event that says so; the connection ends without the end of a body."""
        self.failed = True
        if not self.sent:
            return  # the head is not gone: this is a failure like any other
        body = broken_event()
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _begin(self, length: int | None = None) -> None:
        if self.sent:
            return
        assert self.head is not None
        self.sent = True
        own = {
            b"x-adire-release": str(self.release.number).encode(),
            b"x-adire-manifest": self.release.content_hash.encode(),
        }
        if self.status >= 500:
            own[RETRY] = b"1"
        if length is not None:
            own[b"content-length"] = str(length).encode()
        kept = [pair for pair in self.head.get("headers", []) if pair[0].lower() not in own]
        await self._send({**self.head, "headers": [*kept, *own.items()]})
        if length is None:
            self._on_end = self._on_begin()

    def _let_go(self) -> None:
        """Once; before the last piece of a whole stream, behind which another answer may begin."""
        end, self._on_end = self._on_end, _nothing
        end()


def _nothing() -> None: ...


def _text(holder: dict[str, Any]) -> str:
    """What a message, a piece of one or a completion says."""
    return str(holder.get("content") or holder.get("text") or "")


def _ending(event: bytes) -> bytes:
    """The last event of a stream that is ended for what it says."""
    content = json.loads(event.removeprefix(EVENT))
    for choice in content["choices"]:
        choice["finish_reason"] = "content_filter"
        choice["delta" if "delta" in choice else "text"] = {} if "delta" in choice else ""
    return EVENT + json.dumps(content).encode()
