"""What Envoy is told from what each model has loaded: clusters and routes.

Pure functions from a fleet's description to Envoy's own configuration (protobuf JSON). Each loaded
release has four clusters: gRPC and HTTP, each with the other slot to fall back to and without. A
request names its model in its body (gRPC) or path (HTTP). gateway.lua reads that and copies it into
the header `x-adire-model`, which every route to a slot matches, with `x-model-release` for who
wants one release only.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adire_assets.config.fleet import GatewayConfig, SlotConfig

TYPES = "type.googleapis.com/envoy."
SERVICE = "inference.GRPCInferenceService"
HEALTH = "/grpc.health.v1.Health/Check"
RELEASE_HEADER = "x-model-release"
MODEL_HEADER = "x-adire-model"
NO_MODEL = "-"  # in that header: the request has been read and is about a server
NOT_FOUND, RESOURCE_EXHAUSTED, UNIMPLEMENTED = 5, 8, 12  # gRPC's numbers
GRPC = "application/grpc"
ROUTES = "routes"
# Methods that clients may call: those about one model, with the field that names it ...
MODEL_METHODS = {
    "ModelInfer": ("model_name", "model_version"),
    "ModelReady": ("name", "version"),
    "ModelMetadata": ("name", "version"),
    "ModelConfig": ("name", "version"),
}
# ... and those about a server. Loading, shared memory, logging and tracing are not for clients, and
# streams, whose length nothing bounds, no model here needs.
SERVER_METHODS = ("ServerLive", "ServerReady", "ServerMetadata")


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


def cluster_name(model: str, number: int, *, http: bool = False, pinned: bool = False) -> str:
    """The cluster of a release. Model names have no hyphen, so this can be taken apart again."""
    return "-".join([model, str(number), *(["pinned"] if pinned else []), *(["http"] * http)])


def mirror_name(*, http: bool = False) -> str:
    """The cluster that leads back into Envoy, where the copies of requests are routed by the same
    table, each to the release that its header names."""
    return "mirror-http" if http else "mirror"


# --- clusters ----------------------------------------------------------------------------------


def clusters(
    gateway: GatewayConfig, slots: Mapping[str, SlotConfig], served: Iterable[ServedModel]
) -> list[dict[str, Any]]:
    """Every cluster of the routes, and two that reach whatever slot is up."""
    found = []
    for http in (False, True):
        kind = "slots-http" if http else "slots"
        health = "/v2/health/live"
        found.append(_cluster(gateway, kind, list(slots.values()), http, health))
    for one in served:
        for number, name in one.loaded.items():
            others = [slot for other, slot in slots.items() if other != name]
            for http in (False, True):
                for pinned in (False, True):
                    behind = [slots[name], *([] if pinned else others)]
                    kind = cluster_name(one.model, number, http=http, pinned=pinned)
                    health = f"/v2/models/{one.model}/ready"
                    found.append(_cluster(gateway, kind, behind, http, health))
    return found


def _cluster(
    gateway: GatewayConfig, name: str, slots: Sequence[SlotConfig], http: bool, health: str
) -> dict[str, Any]:
    """One cluster: the first slot, and the others only when that one does not answer."""
    endpoints = [
        {
            "priority": priority,
            "lb_endpoints": [
                {
                    "endpoint": {
                        "address": address(slot.host, slot.http_port if http else slot.grpc_port),
                        "health_check_config": {"port_value": slot.http_port},
                    }
                }
            ],
        }
        for priority, slot in enumerate(slots)
    ]
    limit = gateway.maximum_concurrent_requests
    protocol: dict[str, Any] = {"http_protocol_options" if http else "http2_protocol_options": {}}
    return {
        "name": name,
        "type": "STRICT_DNS" if any(_is_name(slot.host) for slot in slots) else "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
        "typed_extension_protocol_options": http_options(protocol),
        "health_checks": [
            {
                "timeout": "1s",
                "interval": "1s",
                "no_traffic_interval": "1s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "reuse_connection": False,  # else a killed server counts as healthy for a while
                "http_health_check": {"path": health},
            }
        ],
        "outlier_detection": {
            "interval": "0.5s",
            "base_ejection_time": "2s",
            "max_ejection_time": "10s",
            "max_ejection_percent": 100,
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 2,
            "consecutive_gateway_failure": 3,
            "enforcing_consecutive_gateway_failure": 100,
            "consecutive_5xx": 5,
            # A server whose stub has died is ready by its own word.
            "successful_active_health_check_uneject_host": False,
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_requests": limit,
                    "max_pending_requests": limit,
                    "max_connections": limit,
                    "max_retries": limit,
                }
            ]
        },
    }


def http_options(protocol: dict[str, Any]) -> dict[str, Any]:
    """That a cluster speaks this protocol."""
    kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {kind: {"@type": TYPES + kind.removeprefix("envoy."), "explicit_http_config": protocol}}


def _is_name(host: str) -> bool:
    return not all(part.isdecimal() for part in host.split(".")) and ":" not in host


def address(host: str, port: int) -> dict[str, Any]:
    """A socket address."""
    return {"socket_address": {"address": host, "port_value": port}}


# --- routes ------------------------------------------------------------------------------------


def routes(gateway: GatewayConfig, served: Iterable[ServedModel]) -> dict[str, Any]:
    """The route table: pinned releases, then shares, then what concerns no model, then refusals."""
    found: list[dict[str, Any]] = []
    for one in served:
        found += model_routes(gateway, one)
    retry = _retry()
    found += [
        {
            "match": _matching({"path": path}, NO_MODEL),
            "route": {"cluster": "slots", "retry_policy": retry, "timeout": "5s"},
        }
        for path in (HEALTH, *(f"/{SERVICE}/{method}" for method in SERVER_METHODS))
    ]
    found += [
        {
            "match": _matching({"path": path}, NO_MODEL),
            "route": {"cluster": "slots-http", "retry_policy": retry, "timeout": "5s"},
        }
        for path in ("/v2", "/v2/health/live", "/v2/health/ready")
    ]
    found += [
        _refusal(_grpc_method(method), "no such model is served here", NOT_FOUND)
        for method in MODEL_METHODS
    ]
    found.append(_refusal({"prefix": "/v2/models/"}, "no such model is served here"))
    unknown = "the gateway does not serve this method"
    found += [
        _refusal({"prefix": "/", "grpc": {}}, unknown, UNIMPLEMENTED),
        _refusal({"prefix": "/"}, unknown),
    ]
    return {
        "name": ROUTES,
        "validate_clusters": True,
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": found}],
    }


def model_routes(gateway: GatewayConfig, one: ServedModel) -> list[dict[str, Any]]:
    """The part of the table that is about one model."""
    timeout = f"{gateway.request_timeout_seconds}s"
    paths = f"/v2/models/{one.model}(/versions/[0-9]+)?(/infer|/ready|/config)?"
    kinds = [(_grpc_method(method), False) for method in MODEL_METHODS]
    kinds.append(({"safe_regex": {"regex": paths}}, True))
    found = []
    for match, http in kinds:
        refused = None if http else NOT_FOUND
        for number in one.loaded:
            pinned = _matching(match, one.model, {"string_match": {"exact": str(number)}})
            target = cluster_name(one.model, number, http=http, pinned=True)
            found.append({"match": pinned, "route": {"cluster": target, "timeout": timeout}})
        loaded = ", ".join(str(number) for number in sorted(one.loaded)) or "none"
        found.append(
            _refusal(
                _matching(match, one.model, {"present_match": True}),
                f"the release of {one.model} that was asked for is not loaded; loaded: {loaded}",
                refused,
            )
        )
        if not one.weights:
            nothing = f"no release of {one.model} is live"
            found.append(_refusal(_matching(match, one.model), nothing, refused))
            continue
        shares = [
            {"name": cluster_name(one.model, number, http=http), "weight": weight}
            for number, weight in one.weights.items()
            if weight
        ]
        route: dict[str, Any] = {
            "weighted_clusters": {"clusters": shares},
            "timeout": timeout,
            "retry_policy": _retry(),
        }
        if gateway.sticky_header:
            route["weighted_clusters"]["use_hash_policy"] = True
            route["hash_policy"] = [{"header": {"header_name": gateway.sticky_header}}]
        if one.mirrored:
            number, percent = one.mirrored
            route["request_mirror_policies"] = [
                {
                    "cluster": mirror_name(http=http),
                    "request_headers_mutations": [{"append": set_header(RELEASE_HEADER, number)}],
                    "runtime_fraction": {
                        "default_value": {"numerator": percent, "denominator": "HUNDRED"}
                    },
                }
            ]
        found.append({"match": _matching(match, one.model), "route": route})
    return found


def _grpc_method(method: str) -> dict[str, Any]:
    return {"path": f"/{SERVICE}/{method}"}


def _matching(
    match: dict[str, Any], model: str, release: dict[str, Any] | None = None
) -> dict[str, Any]:
    headers = [{"name": MODEL_HEADER, "string_match": {"exact": model}}]
    if release:
        headers.append({"name": RELEASE_HEADER, **release})
    return {**match, "headers": headers}


def _retry() -> dict[str, Any]:
    """Once more where nothing was answered, and then by the other slot."""
    return {
        # CANCELLED: a server that stops tells so the requests that it drops.
        "retry_on": "connect-failure,refused-stream,reset,unavailable,cancelled,retriable-headers",
        # NOT_FOUND: a Triton that is just starting knows no model yet. What is not loaded anywhere
        # never gets here.
        "retriable_headers": [{"name": "grpc-status", "string_match": {"exact": str(NOT_FOUND)}}],
        "num_retries": 3,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        "retry_priority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {
                "@type": TYPES
                + "extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                "update_frequency": 1,
            },
        },
    }


def _refusal(match: dict[str, Any], sentence: str, grpc: int | None = None) -> dict[str, Any]:
    """A route that is answered with this sentence: by gRPC's status `grpc`, else by 404."""
    if grpc is None:
        answer: dict[str, Any] = {"status": 404, "body": {"inline_string": sentence}}
        return {"match": match, "direct_response": answer}
    status = {"content-type": GRPC, "grpc-status": grpc, "grpc-message": sentence}
    return {
        "match": match,
        "direct_response": {"status": 200},
        "response_headers_to_add": [set_header(name, value) for name, value in status.items()],
    }


def set_header(name: str, value: object) -> dict[str, Any]:
    """That a header gets this value, whatever it had."""
    action = "OVERWRITE_IF_EXISTS_OR_ADD"
    return {"header": {"key": name, "value": str(value)}, "append_action": action}
