"""What Envoy is told from what each model has loaded: clusters and routes.

Pure functions from a fleet's description to Envoy's own configuration (protobuf JSON). Each loaded
release has two clusters for each protocol of its slot: with the other slots of this kind to fall
back to, and without (`-pinned`). gateway.lua reads from a request which model it is about and
copies that into the header `x-adire-model`, which every route to a slot matches, with
`x-model-release` for who wants one release only. An answer says in `x-adire-release` which release
the slot holds that it came from.
"""

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from adire_assets.config.fleet import GatewayConfig, SlotConfig
from adire_assets.serving.gateway.protocol import (
    NOT_FOUND,
    InferenceProtocol,
    all_protocols,
    protocols_named,
)
from adire_assets.serving.slot_server import server_of

TYPES = "type.googleapis.com/envoy."
RELEASE_HEADER, STAMP_HEADER = "x-model-release", "x-adire-release"
MODEL_HEADER = "x-adire-model"
NO_MODEL = "-"  # in that header: the request has been read and is about a server
GRPC = "application/grpc"
ROUTES = "routes"
STAMP = "adire"  # the metadata of an endpoint that say which release it holds


CIRCUITS = ("max_requests", "max_pending_requests", "max_connections", "max_retries")
CONSTANT = Path(__file__).with_name("envoy.yml")


@cache
def _parts() -> dict[str, Any]:
    return dict(YAML(typ="safe").load(CONSTANT))


def part(name: str) -> dict[str, Any]:
    """A part of Envoy's configuration from envoy.yml, which the caller may change."""
    return copy.deepcopy(_parts()[name])


@dataclass(frozen=True)
class ServedModel:
    """What the gateway must know of one model.

    `loaded`: release -> the slot that holds it; `weights`: release -> its share of the requests
    that name no release, in percent, adding up to 100 (empty: such requests are refused);
    `mirrored`: (release, percent of the requests that it gets a copy of).
    """

    model: str
    loaded: Mapping[int, str]
    weights: Mapping[int, int] = field(default_factory=dict)
    mirrored: tuple[int, int] | None = None


def cluster_name(model: str, number: int, suffix: str = "", *, pinned: bool = False) -> str:
    """The cluster of a release for the protocol with this suffix."""
    return f"{model}-{number}{'-pinned' if pinned else ''}{suffix}"


def any_suffix() -> str:
    """The pattern of the suffix of any protocol."""
    return f"({'|'.join(one.suffix for one in all_protocols())})"


def parse_cluster_name(name: str) -> tuple[bool, InferenceProtocol]:
    """Whether it is a pinned one, and its protocol. Model names have no hyphen."""
    found = re.fullmatch(rf"[a-z][a-z0-9_]*-[0-9]+(-pinned)?{any_suffix()}", name)
    assert found, name
    return bool(found[1]), next(one for one in all_protocols() if one.suffix == found[2])


def mirror_name(suffix: str) -> str:
    """The cluster that leads back into Envoy, where the copies of requests are routed by the same
    table, each to the release that its header names."""
    return f"mirror{suffix}"


def protocols_of(slots: Iterable[SlotConfig]) -> list[InferenceProtocol]:
    """What these slots are asked by."""
    return protocols_named(name for slot in slots for name in server_of(slot).protocols)


# --- clusters ----------------------------------------------------------------------------------


def clusters(
    gateway: GatewayConfig, slots: Mapping[str, SlotConfig], served: Iterable[ServedModel]
) -> list[dict[str, Any]]:
    """Every cluster of the routes, and for each protocol one that reaches whatever slot is up."""
    found = []
    for protocol in protocols_of(slots.values()):
        speaking = [slot for slot in slots.values() if protocol in protocols_of([slot])]
        found.append(_cluster(gateway, f"slots{protocol.suffix}", speaking, protocol, None, []))
    for one in served:
        held = {name: number for number, name in one.loaded.items()}
        for number, name in one.loaded.items():
            # The slot of the release first, then what may answer in its place.
            names = [name, *(other for other in slots if other != name)]
            names = [other for other in names if slots[other].server == slots[name].server]
            for protocol in protocols_of([slots[name]]):
                for pinned in (False, True):
                    behind = names[:1] if pinned else names
                    kind = cluster_name(one.model, number, protocol.suffix, pinned=pinned)
                    places = [slots[other] for other in behind]
                    stamps = [held.get(other) for other in behind]
                    found.append(_cluster(gateway, kind, places, protocol, one.model, stamps))
    return found


def _cluster(
    gateway: GatewayConfig,
    name: str,
    slots: Sequence[SlotConfig],
    protocol: InferenceProtocol,
    model: str | None,
    stamps: Sequence[int | None],
) -> dict[str, Any]:
    """One cluster: the first slot, and the others only when that one does not answer.

    `stamps` are the releases of `model` that the slots hold.
    """
    endpoints = []
    for priority, slot in enumerate(slots):
        endpoint: dict[str, Any] = {
            "endpoint": {
                "address": address(slot.host, protocol.port_of(slot)),
                "health_check_config": {"port_value": slot.http_port},
            }
        }
        if model and stamps[priority] is not None:
            endpoint["metadata"] = {"filter_metadata": {STAMP: {"release": stamps[priority]}}}
        endpoints.append({"priority": priority, "lb_endpoints": [endpoint]})
    limit = gateway.maximum_concurrent_requests
    health = server_of(slots[0]).health_path(model)
    return {
        **part("cluster"),
        "name": name,
        "type": "STRICT_DNS" if any(_is_name(slot.host) for slot in slots) else "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
        "typed_extension_protocol_options": http_options(grpc=protocol.grpc),
        "health_checks": [{**part("health_check"), "http_health_check": {"path": health}}],
        "circuit_breakers": {"thresholds": [dict.fromkeys(CIRCUITS, limit)]},
    }


def http_options(*, grpc: bool) -> dict[str, Any]:
    """That a cluster speaks HTTP/2, as gRPC does, or HTTP/1.1."""
    protocol: dict[str, Any] = {"http2_protocol_options" if grpc else "http_protocol_options": {}}
    kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {kind: {"@type": TYPES + kind.removeprefix("envoy."), "explicit_http_config": protocol}}


def _is_name(host: str) -> bool:
    return not all(part.isdecimal() for part in host.split(".")) and ":" not in host


def address(host: str, port: int) -> dict[str, Any]:
    """A socket address."""
    return {"socket_address": {"address": host, "port_value": port}}


# --- routes ------------------------------------------------------------------------------------


def routes(
    gateway: GatewayConfig, slots: Mapping[str, SlotConfig], served: Iterable[ServedModel]
) -> dict[str, Any]:
    """The route table: pinned releases, then shares, then what concerns no model, then refusals."""
    found = [route for one in served for route in model_routes(gateway, slots, one)]
    protocols = protocols_of(slots.values())
    for protocol in protocols:
        route = {"cluster": f"slots{protocol.suffix}", "retry_policy": _retry(protocol)}
        found += [
            {"match": _matching({"path": path}, NO_MODEL), "route": {**route, "timeout": "5s"}}
            for path in protocol.server_paths
        ]
    for protocol in protocols:
        found.append(_refusal(protocol, _paths(protocol), "no such model is served here"))
    found.append(_refusal(None, {"prefix": "/"}, "the gateway does not serve this method"))
    return {
        "name": ROUTES,
        "validate_clusters": True,
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": found}],
        "response_headers_to_add": [
            set_header(STAMP_HEADER, f"%UPSTREAM_METADATA({STAMP}:release)%")
        ],
    }


def model_routes(
    gateway: GatewayConfig, slots: Mapping[str, SlotConfig], one: ServedModel
) -> list[dict[str, Any]]:
    """The part of the table that is about one model."""
    holding = [slots[name] for name in one.loaded.values()]
    found = []
    for protocol in protocols_of(holding or slots.values()):
        match, suffix = _paths(protocol), protocol.suffix
        limit = f"{gateway.request_timeout_seconds}s"
        time = {"timeout": "0s", "idle_timeout": limit} if protocol.streams else {"timeout": limit}
        for number in one.loaded:
            pinned = _matching(match, one.model, {"string_match": {"exact": str(number)}})
            target = cluster_name(one.model, number, suffix, pinned=True)
            found.append({"match": pinned, "route": {"cluster": target, **time}})
        loaded = ", ".join(str(number) for number in sorted(one.loaded)) or "none"
        found.append(
            _refusal(
                protocol,
                _matching(match, one.model, {"present_match": True}),
                f"the release of {one.model} that was asked for is not loaded; loaded: {loaded}",
            )
        )
        if not one.weights:
            nothing = f"no release of {one.model} is live"
            found.append(_refusal(protocol, _matching(match, one.model), nothing))
            continue
        shares = [
            {"name": cluster_name(one.model, number, suffix), "weight": weight}
            for number, weight in one.weights.items()
            if weight
        ]
        route: dict[str, Any] = {
            "weighted_clusters": {"clusters": shares},
            **time,
            "retry_policy": _retry(protocol),
        }
        if gateway.sticky_header:
            route["weighted_clusters"]["use_hash_policy"] = True
            route["hash_policy"] = [{"header": {"header_name": gateway.sticky_header}}]
        if one.mirrored:
            number, percent = one.mirrored
            route["request_mirror_policies"] = [
                {
                    "cluster": mirror_name(suffix),
                    "request_headers_mutations": [{"append": set_header(RELEASE_HEADER, number)}],
                    "runtime_fraction": {
                        "default_value": {"numerator": percent, "denominator": "HUNDRED"}
                    },
                }
            ]
        found.append({"match": _matching(match, one.model), "route": route})
    return found


def _paths(protocol: InferenceProtocol) -> dict[str, Any]:
    return {"safe_regex": {"regex": protocol.model_paths}}


def _matching(
    match: dict[str, Any], model: str, release: dict[str, Any] | None = None
) -> dict[str, Any]:
    headers = [{"name": MODEL_HEADER, "string_match": {"exact": model}}]
    if release:
        headers.append({"name": RELEASE_HEADER, **release})
    return {**match, "headers": headers}


def _retry(protocol: InferenceProtocol) -> dict[str, Any]:
    headers = [
        {"name": name, "string_match": {"exact": value}}
        for name, value in protocol.retriable.items()
    ]
    return {**part("retry"), "retriable_headers": headers}


def _refusal(
    protocol: InferenceProtocol | None, match: dict[str, Any], sentence: str
) -> dict[str, Any]:
    """A route that is answered with this sentence, by NOT_FOUND or 404."""
    if protocol is None or not protocol.grpc:
        answer: dict[str, Any] = {"status": 404, "body": {"inline_string": sentence}}
        return {"match": match, "direct_response": answer}
    status = {"content-type": GRPC, "grpc-status": NOT_FOUND, "grpc-message": sentence}
    return {
        "match": match,
        "direct_response": {"status": 200},
        "response_headers_to_add": [set_header(name, value) for name, value in status.items()],
    }


def set_header(name: str, value: object) -> dict[str, Any]:
    """That a header gets this value, whatever it had."""
    action = "OVERWRITE_IF_EXISTS_OR_ADD"
    return {"header": {"key": name, "value": str(value)}, "append_action": action}
