"""A client of OpenAI's streams that costs little: it looks at the pieces when all have come.

    stream = Chats(address, model).ask()
    python -m benchmarks.chats ADDRESS MODEL CLIENTS SECONDS TOKENS   # one JSON line, see `main`

With `retry` it does what OpenAI's own client does: a request without the head of an answer is sent
again, a stream that has begun is not.
"""

import http.client
import json
import random
import sys
import threading
import time
from dataclasses import asdict, dataclass

PATH = "/v1/chat/completions"
TIMEOUT_SECONDS = 120.0
ATTEMPTS, LONGEST_PAUSE_SECONDS = 6, 5.0
AGAIN = (502, 503, 504)  # statuses that say that nothing was answered
END = b"\n\n"  # of an event


@dataclass(frozen=True)
class Stream:
    """What came of one request. Times are in seconds since it was first sent.

    `first` and `last`: when the first piece and the last one with a text had come; `tokens`: by the
    server's own count. `begun`: the head of an answer came; `told`: an event said what `error` is.
    """

    seconds: float
    first: float | None = None
    last: float | None = None
    tokens: int = 0
    release: int | None = None
    error: str | None = None
    begun: bool = False
    told: bool = False


class Chats:
    """Asks for one stream after the other over one connection."""

    def __init__(self, address: str, model: str, tokens: int = 32, retry: bool = False) -> None:
        self.model, self.tokens, self.attempts = model, tokens, ATTEMPTS if retry else 1
        self.connection = http.client.HTTPConnection(address, timeout=TIMEOUT_SECONDS)
        self.random = random.Random()

    def ask(self) -> Stream:
        """Read one stream to its end."""
        body = json.dumps(
            {
                "model": self.model,
                "messages": [{"role": "user", "content": self._question()}],
                "max_tokens": self.tokens,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )
        began = time.perf_counter()
        try:
            response = self._response(body)
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            return Stream(time.perf_counter() - began, error=repr(error))
        if response.status != 200:
            said = response.read().decode(errors="replace")[:300]
            return Stream(time.perf_counter() - began, error=f"{response.status} {said}")
        pieces: list[tuple[float, bytes]] = []
        broke = None
        try:
            while data := response.read1(2**16):
                pieces.append((time.perf_counter() - began, data))
        except (OSError, http.client.HTTPException) as error:
            broke = repr(error)
            self.connection.close()
        return _judged(pieces, response.headers["x-adire-release"], broke)

    def _response(self, body: str) -> http.client.HTTPResponse:
        """The head of an answer, asked for as often as is allowed."""
        for attempt in range(self.attempts):
            last = attempt == self.attempts - 1
            try:
                self.connection.request("POST", PATH, body, {"content-type": "application/json"})
                response = self.connection.getresponse()
                if last or response.status not in AGAIN:
                    return response
                response.read()
            except (OSError, http.client.HTTPException):
                self.connection.close()
                if last:
                    raise
            time.sleep(min(0.5 * 2**attempt, LONGEST_PAUSE_SECONDS))
        raise AssertionError("the last attempt returns or raises")

    def _question(self) -> str:
        return f"Write to Ada about order {self.random.randrange(10_000)}."


def _judged(
    pieces: list[tuple[float, bytes]], told_release: str | None, broke: str | None
) -> Stream:
    """A stream by its pieces: whole when it has a reason for its end, [DONE], and one release."""
    text = b"".join(data for _, data in pieces)
    *events, rest = text.split(END)
    models, finished, tokens, error = set(), None, 0, None
    for event in events:
        content = event.removeprefix(b"data: ")
        if content == b"[DONE]":
            continue
        found = json.loads(content)
        if "error" in found:
            error = str(found["error"]["message"])
            continue
        models.add(found["model"])
        tokens = (found.get("usage") or {}).get("completion_tokens", tokens)
        for choice in found["choices"]:
            finished = choice["finish_reason"] or finished
    told = error is not None
    whole = bool(finished) and events[-1:] == [b"data: [DONE]"] and not rest
    if len(models | {f"{name.partition('@')[0]}@{told_release}" for name in models}) > 1:
        error = f"mixed: {sorted(models)} under release {told_release}"
    elif not error and (broke or not whole):
        error = f"cut: {broke or text[-200:]!r}"
    spoken = [at for at, data in pieces if b'"delta"' in data or b'"text"' in data]
    return Stream(
        seconds=pieces[-1][0] if pieces else 0.0,
        first=pieces[0][0] if pieces else None,
        last=spoken[-1] if spoken else None,
        tokens=tokens,
        release=int(told_release) if told_release else None,
        error=error,
        begun=True,
        told=told,
    )


def main() -> None:
    """CLIENTS ask for SECONDS; {"cpu": this process's seconds, "streams": [[ended at, Stream]]}."""
    address, model, count, seconds, tokens = sys.argv[1:]
    streams: list[tuple[float, dict]] = []
    end = time.perf_counter() + float(seconds)

    def send() -> None:
        chats = Chats(address, model, int(tokens))
        while time.perf_counter() < end:
            stream = chats.ask()
            streams.append((time.perf_counter(), asdict(stream)))

    began = time.perf_counter()
    threads = [threading.Thread(target=send) for _ in range(int(count))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = [[at - began, stream] for at, stream in streams]
    print(json.dumps({"cpu": time.process_time(), "streams": told}))


if __name__ == "__main__":
    main()
