"""Asking over OpenAI's interface: the body of a request without `model` goes in, the answer's
comes out, whole or event by event."""

import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from adire_assets.core.answer import Answer
from adire_assets.serving.connection import Endpoint, Unanswered, sentence

STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
RELEASE, MANIFEST = "x-adire-release", "x-adire-manifest"
BROKEN = "the answer broke off: the server failed while it was being written; ask again"
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


def ask(
    endpoint: Endpoint, model: str, request: Mapping[str, Any], release: int | None, timeout: float
) -> Answer:
    """`request`: `messages`, or a `prompt` as it is, and how to answer; in one piece.

    KeyError, ValueError or the like for an answer that is none of a release.
    """
    with _asked(endpoint, {**request, "model": model}, release, timeout) as answer:
        text = answer.read()
    content = json.loads(text)
    told = content["provenance"]
    return Answer(release=int(told["release"]), provenance=told, content=content)


def stream(
    endpoint: Endpoint, model: str, request: Mapping[str, Any], release: int | None, timeout: float
) -> Iterator[Answer]:
    """The answer in pieces, as the server sends them: the `content` of each is one event. The
    provenance is {model, release, release_hash}, and whole at the end; `timeout` is between two
    pieces.

    `Unanswered` also for an answer that breaks off; KeyError, ValueError or the like as for `ask`.
    """
    body = {**request, "model": model, "stream": True}
    with _asked(endpoint, body, release, timeout) as answer:
        number, content_hash = (_header(answer, name) for name in (RELEASE, MANIFEST))
        told: dict[str, Any] = {"model": model, "release": int(number)}
        told["release_hash"] = content_hash
        for line in answer:
            event = line.strip().removeprefix(b"data:").strip()
            if not event:
                continue
            if event == b"[DONE]":
                return
            content = json.loads(event)
            if "error" in content:
                raise _unanswered(endpoint, "ABORTED", _message(event))
            told = {**told, **content.get("provenance", {})}
            yield Answer(int(number), told, content)
    raise _unanswered(endpoint, "ABORTED", BROKEN)


def read(
    asked: tuple[Mapping[str, str], bytes], answered: tuple[Mapping[str, str], bytes]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(request, content as of `ask`) of a request and its answer as they went over the wire; an
    answer that came in pieces is put together. ValueError or the like when they are none."""
    request, (headers, body) = json.loads(asked[1]), answered
    if headers[":status"] != "200":
        raise ValueError("it was not answered")
    if not request.get("stream"):
        answer = json.loads(body)
        return request, {"choices": [_as_message(one) for one in answer["choices"]]}
    events = [line.removeprefix(b"data:").strip() for line in body.split(b"\n") if line.strip()]
    if events[-1] != b"[DONE]":
        raise ValueError("the answer broke off")
    choices = [choice for one in events[:-1] for choice in json.loads(one)["choices"]]
    if any(one["index"] for one in choices):
        raise ValueError("it has several answers, of which the pieces are mixed")
    text = "".join(one.get("text") or one.get("delta", {}).get("content") or "" for one in choices)
    return request, {"choices": [{"message": {"content": text}}]}


def _as_message(choice: Mapping[str, Any]) -> dict[str, Any]:
    """A choice of a chat, or of a completion in the same form."""
    return {"message": choice.get("message") or {"content": choice["text"]}}


@contextmanager
def _asked(
    endpoint: Endpoint, body: Mapping[str, Any], release: int | None, timeout: float
) -> Iterator[http.client.HTTPResponse]:
    """The head of an answer, whose body can be read inside."""
    data = json.dumps(body, ensure_ascii=False).encode()
    headers = {"content-type": "application/json", **endpoint.headers}
    if release is not None:
        headers["x-model-release"] = str(release)
    begun = False
    try:
        with closing(_connection(endpoint, timeout)) as connection:
            connection.request("POST", CHAT if "messages" in body else COMPLETION, data, headers)
            answer = connection.getresponse()
            if answer.status != 200:
                fallback = "INTERNAL" if answer.status >= 500 else "INVALID_ARGUMENT"
                status = STATUSES.get(answer.status, fallback)
                raise _unanswered(endpoint, status, _message(answer.read()))
            begun = True
            yield answer
    except TimeoutError as error:
        raise _unanswered(endpoint, "DEADLINE_EXCEEDED", str(error)) from None
    except (OSError, http.client.HTTPException) as error:
        if begun:
            raise _unanswered(endpoint, "ABORTED", BROKEN) from None
        said = f"cannot connect: {error or type(error).__name__}"
        raise _unanswered(endpoint, "UNAVAILABLE", said) from None


def _header(answer: http.client.HTTPResponse, name: str) -> str:
    found = answer.headers[name]
    if found is None:
        raise KeyError(name)
    return str(found)


def _unanswered(endpoint: Endpoint, status: str, message: str) -> Unanswered:
    return Unanswered(sentence(endpoint, f"StatusCode.{status}", message), status)


def _connection(endpoint: Endpoint, timeout: float) -> http.client.HTTPConnection:
    host, _, port = endpoint.address.rpartition(":")
    host = host.strip("[]")
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
    if endpoint.authority is not None:
        plain = socket.create_connection((host, int(port)), timeout)
        context = ssl.create_default_context(cafile=str(endpoint.authority))
        connection.sock = context.wrap_socket(plain, server_hostname=endpoint.name or host)
    return connection


def _message(text: bytes) -> str:
    """What a server or the gateway says is wrong."""
    try:
        error = json.loads(text)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return text.decode("utf-8", errors="replace")[:300]
