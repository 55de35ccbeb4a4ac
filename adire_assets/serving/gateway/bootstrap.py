"""What Envoy starts from: listener, filters that a request passes, limits, statistics."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adire_assets.config.fleet import GatewayConfig, SlotConfig
from adire_assets.serving.gateway.config import (
    RELEASE_HEADER,
    ROUTES,
    TYPES,
    address,
    http_options,
    mirror_name,
    part,
    protocols_of,
)
from adire_assets.serving.gateway.protocol import InferenceProtocol
from adire_assets.serving.gateway.traffic import LOG_SCOPE, UNANSWERED

LISTENER, MIRROR = "door", "mirror"
# Upper bounds of the latency histograms in ms; Envoy's own are too far apart for a p99.
BUCKETS = [
    *(0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 25, 30, 40, 50, 60, 75, 90, 110, 130, 160, 200, 250),
    *(300, 360, 430, 520, 620, 750, 900, 1100, 1300, 1600, 2000, 2500, 3000, 4000, 5000, 7500),
    *(10000, 15000, 20000, 30000, 60000, 120000, 300000),
    *(600_000, 1_200_000, 4_000_000),  # longer than the longest timeout: nothing lies beyond
]
FLUSH_SECONDS = 0.05  # latencies are read off after a flush, and a rollout looks often
READING, GATEWAY = (Path(__file__).with_name(name) for name in ("reading.lua", "gateway.lua"))


def bootstrap(
    gateway: GatewayConfig,
    slots: Mapping[str, SlotConfig],
    folder: Path,
    root: Path,
    identity: str,
) -> dict[str, Any]:
    """The static part; by the id of its node, `identity`, a gateway says whose it is.

    `folder` holds clusters.json and routes.json, which Envoy watches; paths of certificates and
    keys are below `root` or absolute.
    """
    protocols = protocols_of(slots.values())
    manager = _manager(LISTENER, folder, _filters(gateway, protocols, root)) | part("door")
    listener: dict[str, Any] = {
        "name": LISTENER,
        "address": address(gateway.host, gateway.port),
        "per_connection_buffer_limit_bytes": gateway.maximum_request_bytes,
        "filter_chains": [_chain(manager)],
    }
    if gateway.tls:
        socket = part("tls")
        certificate = {
            "certificate_chain": {"filename": str(root / gateway.tls.certificate)},
            "private_key": {"filename": str(root / gateway.tls.private_key)},
        }
        socket["typed_config"]["common_tls_context"]["tls_certificates"] = [certificate]
        listener["filter_chains"][0]["transport_socket"] = socket
    # Where the copies of requests go, inside of Envoy: a copy passes no filters on its way, and
    # without those of this listener nothing would count what it is answered.
    chain = _chain(_manager(MIRROR, folder, _counted(protocols)))
    mirror = {"name": MIRROR, "internal_listener": {}, "filter_chains": [chain]}
    found = part("bootstrap")
    found["node"]["id"] = identity
    found["stats_flush_interval"] = f"{FLUSH_SECONDS}s"
    found["stats_config"]["histogram_bucket_settings"] = [
        {"match": {"suffix": "upstream_rq_time"}, "buckets": BUCKETS},
        {"match": {"prefix": f"{LOG_SCOPE}.{UNANSWERED}"}, "buckets": BUCKETS},
    ]
    return {
        **found,
        "admin": {"address": address("127.0.0.1", gateway.admin_port)},
        "dynamic_resources": {"cds_config": _watched(folder / "clusters.json")},
        "static_resources": {
            "listeners": [listener, mirror],
            "clusters": [_to_mirror(one) for one in protocols],
        },
    }


def _manager(name: str, folder: Path, filters: list[dict[str, Any]]) -> dict[str, Any]:
    routes = {"route_config_name": ROUTES, "config_source": _watched(folder / "routes.json")}
    return {**part("manager"), "stat_prefix": name, "rds": routes, "http_filters": filters}


def _chain(manager: dict[str, Any]) -> dict[str, Any]:
    name = "envoy.filters.network.http_connection_manager"
    return {"filters": [{"name": name, "typed_config": manager}]}


def _to_mirror(protocol: InferenceProtocol) -> dict[str, Any]:
    name = mirror_name(protocol.suffix)
    address = {"envoy_internal_address": {"server_listener_name": MIRROR}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {
        "name": name,
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
        "typed_extension_protocol_options": http_options(grpc=protocol.grpc),
    }


def _watched(path: Path) -> dict[str, Any]:
    folder = {"path": str(path.parent)}
    source = {"path": str(path), "watched_directory": folder}
    return {"resource_api_version": "V3", "path_config_source": source}


# --- filters -----------------------------------------------------------------------------------


def _filters(
    gateway: GatewayConfig, protocols: Sequence[InferenceProtocol], root: Path
) -> list[dict[str, Any]]:
    """What a request passes, in order."""
    found = [_filter("grpc_web", "GrpcWeb")]
    if gateway.requests_per_minute:
        count = gateway.requests_per_minute
        bucket = {"max_tokens": count, "tokens_per_fill": count, "fill_interval": "60s"}
        # An entry without a value: a bucket of its own for every address.
        each = {"entries": [{"key": "remote_address"}], "token_bucket": bucket}
        limit = {**part("rate_limit"), "descriptors": [each]}
        found.append(_filter("local_ratelimit", "LocalRateLimit", **limit))
    if gateway.tokens:
        provider = {
            "issuer": gateway.tokens.issuer,
            "audiences": [gateway.tokens.audience],
            "local_jwks": {"filename": str(root / gateway.tokens.keys)},
            "require_expiration": True,
            "forward": False,
        }
        rules = [{"match": {"prefix": "/"}, "requires": {"provider_name": "tokens"}}]
        content = {"providers": {"tokens": provider}, "rules": rules}
        found.append(_filter("jwt_authn", "JwtAuthentication", **content))
    return [
        *found,
        # Before anything reads the body: it is held until the script knows the model.
        _filter("buffer", "Buffer", max_request_bytes=gateway.maximum_request_bytes),
        _filter("lua", "Lua", default_source_code=_script(gateway, protocols)),
        *_counted(protocols),
    ]


def _counted(protocols: Sequence[InferenceProtocol]) -> list[dict[str, Any]]:
    """The last filters: the gRPC codes of the release that the route has settled are counted."""
    methods = [one.methods for one in protocols if one.methods]
    services = [{"name": service, "method_names": [*names]} for service, names in methods]
    counted = {"individual_method_stats_allowlist": {"services": services}}
    return [_filter("grpc_stats", "FilterConfig", **counted), _filter("router", "Router")]


def _filter(name: str, message: str, **content: Any) -> dict[str, Any]:
    kind = f"{TYPES}extensions.filters.http.{name}.v3.{message}"
    return {"name": f"envoy.filters.http.{name}", "typed_config": {"@type": kind, **content}}


def _script(gateway: GatewayConfig, protocols: Sequence[InferenceProtocol]) -> dict[str, str]:
    """One Lua chunk that reads requests and names what they are about."""
    sticky = json.dumps(gateway.sticky_header or RELEASE_HEADER)
    paths = [READING, *(path for one in protocols for path in one.scripts), GATEWAY]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return {"inline_string": "\n".join([f"local STICKY_HEADER = {sticky}", *texts])}
