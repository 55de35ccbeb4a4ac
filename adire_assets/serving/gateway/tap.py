"""A share of users' answers as they pass the gateway, for whoever judges them.

Envoy's tap filter sends whole requests and answers to the client that asks its admin port for them,
and to nobody else. Nothing is written anywhere, and when that client goes away the tapping ends.
Requests that name their release are left out: a rollout's own are among them.
"""

import base64
import http.client
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

from adire_assets.serving.gateway.config import MODEL_HEADER, RELEASE_HEADER, TAP
from adire_assets.serving.gateway.gateway import Gateway, GatewayDown
from adire_assets.serving.gateway.protocol import InferenceProtocol, all_protocols
from adire_assets.serving.release import model_named

LARGEST_ANSWER = 2**24  # bytes; a longer one is left out
ANSWERED_BY = "x-adire-release"  # header of an answer


@dataclass(frozen=True)
class Exchange:
    """A request and its answer, by a protocol. `request` and `content` are in the form of the
    protocol's client: what `serve.inputs` of the family gives, and what `serve.content` takes."""

    model: str
    release: int
    protocol: InferenceProtocol
    request: Mapping[str, Any]
    content: Any


def traces(gateway: Gateway, share: float) -> Iterator[bytes]:
    """What Envoy sends of requests and answers as they end, for `exchange`; `share` of them, in
    (0, 1]. Envoy holds what is not read, so read on. `GatewayDown` without a gateway, when it
    refuses, and when it ends."""
    gateway.require_ours()
    connection = http.client.HTTPConnection(*gateway.admin_address)
    try:
        connection.request("POST", "/tap", json.dumps(_asked(gateway, share)))
        answer = connection.getresponse()  # which comes with the first exchange
        if answer.status != 200:
            said = answer.read().decode(errors="replace").strip()
            raise GatewayDown(
                f"the gateway refuses its tap: {said}; one process at a time may have it, and only "
                "a gateway that was started with a sample_share has one"
            )
        yield from _read(answer)
    except (OSError, http.client.HTTPException) as error:
        raise GatewayDown(f"the gateway's tap ended: {error}; it is opened again") from None
    finally:
        connection.close()


def _asked(gateway: Gateway, share: float) -> dict[str, Any]:
    def header(name: str, **match: Any) -> dict[str, Any]:
        headers = [{"name": name, **match}]
        return {"http_request_headers_match": {"headers": headers}}

    rules = [
        header(MODEL_HEADER, present_match=True),
        header(RELEASE_HEADER, present_match=True, invert_match=True),
    ]
    million = {"numerator": round(share * 1_000_000), "denominator": "MILLION"}
    output = {
        # Another format of this sink ends Envoy.
        "sinks": [{"format": "JSON_BODY_AS_BYTES", "streaming_admin": {}}],
        "max_buffered_rx_bytes": gateway.config.maximum_request_bytes,
        "max_buffered_tx_bytes": LARGEST_ANSWER,
    }
    return {
        "config_id": TAP,
        "tap_config": {
            "match": {"and_match": {"rules": rules}},
            "tap_enabled": {"default_value": million},
            "output_config": output,
        },
    }


def _read(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """Objects of several lines each, one after the other; the last line of one is a brace."""
    lines: list[bytes] = []
    for line in answer:
        lines.append(line)
        if line.rstrip() == b"}":
            yield b"".join(lines)
            lines = []
    raise GatewayDown("the gateway has ended its tap; it is opened again")


def exchange(trace: bytes) -> Exchange | None:
    """What one of `traces` shows; None for what no protocol reads, such as an error, and for an
    answer that is too long."""
    parts = json.loads(trace)["http_buffered_trace"]
    request, answer = parts["request"], parts.get("response", {})
    if request.get("body", {}).get("truncated") or answer.get("body", {}).get("truncated"):
        return None
    asked, answered = _headers(request), _headers(answer)
    name, number = asked.get(MODEL_HEADER, ""), answered.get(ANSWERED_BY, "")
    protocol = _protocol(asked)
    if protocol is None or not protocol.read or not number.isdecimal():
        return None
    try:
        read = resolve_name(protocol.read)
        found = read((asked, _body(request)), (answered, _body(answer)))
    except (KeyError, ValueError, TypeError, IndexError, AttributeError):
        return None
    return Exchange(model_named(name), int(number), protocol, *found)


def _protocol(headers: Mapping[str, str]) -> InferenceProtocol | None:
    path = headers[":path"]
    grpc = headers.get("content-type", "").startswith("application/grpc")
    fitting = (p for p in all_protocols() if p.grpc == grpc and re.fullmatch(p.model_paths, path))
    return next(fitting, None)


def _headers(message: Mapping[str, Any]) -> dict[str, str]:
    return {one["key"]: one["value"] for one in message.get("headers", [])}


def _body(message: Mapping[str, Any]) -> bytes:
    return base64.b64decode(message.get("body", {}).get("as_bytes", ""))
