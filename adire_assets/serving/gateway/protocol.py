"""The plug of an inference protocol: how requests for a model, and their answers, look on the wire.

A protocol is a module, named in `PROTOCOLS`. A slot server says which ones it speaks
(`serving.slot_server`), a family which ones its releases are asked by, and the gateway opens
those of its slots. docs/serving.md says what the gateway does with each of the fields.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from adire_assets.config.fleet import SlotConfig

PROTOCOLS = {
    "kserve-grpc": "adire_assets.serving.gateway.protocols.kserve:GRPC",
    "kserve-http": "adire_assets.serving.gateway.protocols.kserve:HTTP",
    "kserve-stream": "adire_assets.serving.gateway.protocols.kserve:STREAM",
    "openai": "adire_assets.serving.gateway.protocols.openai:HTTP",
}


@dataclass(frozen=True)
class Outcome:
    """What one of Envoy's counters of a cluster shows about a release: each of its counts is so
    many answers, so many failures of the server, so many mistakes of the client, so many requests
    that the gateway refused because the release was `full`."""

    statistic: str  # a regular expression of its name, behind that of the cluster
    answered: int = 0
    failed: int = 0
    refused: int = 0
    full: int = 0


# gRPC's codes that are the server's fault; clients of every protocol report one by these names.
# What a client got wrong (INVALID_ARGUMENT, NOT_FOUND, ...) is not.
SERVER_FAULTS = {
    2: "UNKNOWN",
    4: "DEADLINE_EXCEEDED",
    10: "ABORTED",
    13: "INTERNAL",
    14: "UNAVAILABLE",
    15: "DATA_LOSS",
}
NOT_FOUND, RESOURCE_EXHAUSTED = 5, 8


def grpc_outcomes() -> tuple[Outcome, ...]:
    """By the status of an answer. RESOURCE_EXHAUSTED is the gateway's, which had too many."""
    faults, code = "|".join(map(str, SERVER_FAULTS)), r"grpc\..*\."
    return (
        Outcome(f"{code}0", answered=1),
        Outcome(f"{code}({faults})", answered=1, failed=1),
        Outcome(f"{code}{RESOURCE_EXHAUSTED}", full=1),
        Outcome(f"{code}[0-9]+", refused=1),
    )


HTTP_OUTCOMES = (
    Outcome("upstream_rq_2xx", answered=1),
    Outcome("upstream_rq_5xx", answered=1, failed=1),
    Outcome("upstream_rq_4xx", refused=1),
    # What the gateway refused because it was full is among the 5xx, to Envoy.
    Outcome("upstream_rq_(active|pending)_overflow", answered=-1, failed=-1, full=1),
)


@dataclass(frozen=True)
class InferenceProtocol:
    """`suffix` ends the names of its clusters: "", or "-" and a word. `port` is the key of a slot
    that has its port. With `grpc` it is spoken over HTTP/2, and refusals have gRPC's statuses.

    `scripts` are in Lua: which model and release a request names, and what cannot be read (see
    gateway.lua). Only a request that they have named a model for reaches a slot. `model_paths` is a
    regular expression of the paths about one model, `server_paths` are those about a server.

    `outcomes` say whose fault it is how an answer ended; the first that fits a counter decides. An
    answer that breaks off in the middle is the server's in every protocol.
    A request without an answer is sent to the other slot, for as long as no byte of an answer has
    been passed on; so is one whose answer begins with one of the headers `retriable`.
    `answers` is a script in Lua that tells what an answer shows on its way through, as metadata of
    its request: `streamed`, when it comes in pieces, the first with its first token; `inter_token`,
    the mean time from one token to the next in microseconds; `cut_off`, 1 when it ended because it
    was as long as allowed, 0 when it ended otherwise.
    With `streams`, the timeout of a request is between two pieces of its answer.
    `methods` are (service, methods) of gRPC whose statuses are counted.
    `client` is "module:function" of (endpoint, model, request, release, timeout) -> Answer, which
    raises `connection.Unanswered`. This project asks by the client of a family's first protocol, so
    what `serve.inputs` of the family gives and its `serve.content` takes is in that one's form.
    `stream` is "module:function" likewise, which gives an Answer for each piece as it comes, in the
    form that `serve.piece` takes; without, this project asks for answers in one piece.
    `read` is "module:function" of (headers, body) of a request and of its answer, as they went over
    the wire -> (request, content) in the form of the client; KeyError, ValueError or the like when
    they are none. Without, answers of this protocol are not sampled.
    """

    name: str
    suffix: str
    port: str
    grpc: bool
    model_paths: str
    server_paths: tuple[str, ...]
    scripts: tuple[Path, ...]
    outcomes: tuple[Outcome, ...]
    retriable: Mapping[str, str] = field(default_factory=dict)
    answers: Path | None = None
    streams: bool = False
    methods: tuple[str, tuple[str, ...]] | None = None
    client: str = ""
    stream: str = ""
    read: str = ""

    def port_of(self, slot: SlotConfig) -> int:
        return int(getattr(slot, self.port))


@cache
def protocol(name: str) -> InferenceProtocol:
    found: Any = resolve_name(PROTOCOLS[name])
    assert isinstance(found, InferenceProtocol) and found.name == name
    return found


def all_protocols() -> list[InferenceProtocol]:
    return [protocol(name) for name in PROTOCOLS]


def protocols_named(names: Iterable[str]) -> list[InferenceProtocol]:
    """Those of these names, each once, in the order of `PROTOCOLS`."""
    wanted = set(names)
    return [protocol(name) for name in PROTOCOLS if name in wanted]
