"""What Envoy starts from: listener, filters that a request passes, limits, statistics."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adire_assets.config.fleet import GatewayConfig, SlotConfig
from adire_assets.serving.gateway.config import (
    GRPC,
    RELEASE_HEADER,
    ROUTES,
    TYPES,
    address,
    http_options,
    mirror_name,
    protocols_of,
    set_header,
)
from adire_assets.serving.gateway.protocol import RESOURCE_EXHAUSTED, InferenceProtocol
from adire_assets.serving.gateway.traffic import BROKEN, LOG_SCOPE, UNANSWERED

LISTENER = "door"
MIRROR = "mirror"
# Upper bounds of the latency histograms in ms; Envoy's own are too far apart for a p99.
BUCKETS = [
    *(0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 25, 30, 40, 50, 60, 75, 90, 110, 130, 160, 200, 250),
    *(300, 360, 430, 520, 620, 750, 900, 1100, 1300, 1600, 2000, 2500, 3000, 4000, 5000, 7500),
    *(10000, 15000, 20000, 30000, 60000, 120000, 300000),
    *(600_000, 1_200_000, 4_000_000),  # longer than the longest timeout: nothing lies beyond
]
FLUSH_SECONDS = 0.05  # latencies are read off after a flush, and a rollout looks often
BODY = "%LOCAL_REPLY_BODY%"
BROKEN_OFF = "upstream_reset_after_response_started"  # how Envoy calls it
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
    manager = {
        **_manager(LISTENER, folder, _filters(gateway, protocols, root)),
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "common_http_protocol_options": {
            "idle_timeout": "3600s",
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "request_headers_timeout": "10s",
        "internal_address_config": {},
    }
    listener: dict[str, Any] = {
        "name": LISTENER,
        "address": address(gateway.host, gateway.port),
        "per_connection_buffer_limit_bytes": gateway.maximum_request_bytes,
        "filter_chains": [_chain(manager)],
    }
    if gateway.tls:
        certificate = {
            "certificate_chain": {"filename": str(root / gateway.tls.certificate)},
            "private_key": {"filename": str(root / gateway.tls.private_key)},
        }
        listener["filter_chains"][0]["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": TYPES + "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {
                    "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                    "tls_certificates": [certificate],
                    "alpn_protocols": ["h2", "http/1.1"],
                },
            },
        }
    return {
        "node": {"id": identity, "cluster": "adire"},
        "admin": {"address": address("127.0.0.1", gateway.admin_port)},
        "dynamic_resources": {"cds_config": _watched(folder / "clusters.json")},
        "static_resources": {
            "listeners": [listener, _mirror(protocols, folder)],
            "clusters": [_to_mirror(one) for one in protocols],
        },
        "bootstrap_extensions": [
            {
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": {
                    "@type": TYPES + "extensions.bootstrap.internal_listener.v3.InternalListener"
                },
            }
        ],
        "stats_flush_interval": f"{FLUSH_SECONDS}s",
        "stats_config": {
            "histogram_bucket_settings": [
                {"match": {"suffix": "upstream_rq_time"}, "buckets": BUCKETS},
                {"match": {"prefix": f"{LOG_SCOPE}.{UNANSWERED}"}, "buckets": BUCKETS},
            ],
            "stats_tags": [
                {"tag_name": "adire_model", "regex": r"^cluster\.(([a-z][a-z0-9_]*)-)[0-9]+[.-]"},
                {"tag_name": "adire_release", "regex": r"^cluster\.[a-z][a-z0-9_]*-(([0-9]+))[.-]"},
            ],
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": TYPES + "extensions.resource_monitors.downstream_connections.v3"
                        ".DownstreamConnectionsConfig",
                        "max_active_downstream_connections": 10_000,
                    },
                }
            ]
        },
    }


def _manager(name: str, folder: Path, filters: list[dict[str, Any]]) -> dict[str, Any]:
    """What makes HTTP of a connection, and routes it by the table of routes."""
    return {
        "@type": TYPES
        + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "AUTO",
        "rds": {"route_config_name": ROUTES, "config_source": _watched(folder / "routes.json")},
        "http_filters": filters,
        "local_reply_config": _own_answers(),
        "access_log": [_unanswered(), _broken()],
    }


def _unanswered() -> dict[str, Any]:
    """How long was waited for requests that their client (DC, DR), or Envoy after the timeout of
    the route (UT), gave up: a histogram by cluster, which the latencies of answers leave out."""
    time = {"unit": "Milliseconds", "value_format": "%DURATION%"}
    filter = {"response_flag_filter": {"flags": ["DC", "DR", "UT"]}}
    return _counted_by_cluster(filter, UNANSWERED, "histograms", time)


def _broken() -> dict[str, Any]:
    """How many answers broke off after they had begun: no status or code of Envoy's tells them."""
    expression = f"response.code_details.startsWith('{BROKEN_OFF}')"
    kind = TYPES + "extensions.access_loggers.filters.cel.v3.ExpressionFilter"
    content = {"@type": kind, "expression": expression}
    name = "envoy.access_loggers.extension_filters.cel"
    filter = {"extension_filter": {"name": name, "typed_config": content}}
    return _counted_by_cluster(filter, BROKEN, "counters", {"value_fixed": 1})


def _counted_by_cluster(
    filter: dict[str, Any], name: str, kind: str, value: dict[str, Any]
) -> dict[str, Any]:
    cluster = {"name": "cluster", "value_format": "%UPSTREAM_CLUSTER%"}
    return {
        "name": "envoy.access_loggers.stats",
        "filter": filter,
        "typed_config": {
            "@type": TYPES + "extensions.access_loggers.stats.v3.Config",
            "stats_scope": {"prefix": LOG_SCOPE},
            kind: [{"stat": {"name": name, "tags": [cluster]}, **value}],
        },
    }


def _chain(manager: dict[str, Any]) -> dict[str, Any]:
    name = "envoy.filters.network.http_connection_manager"
    return {"filters": [{"name": name, "typed_config": manager}]}


def _mirror(protocols: Sequence[InferenceProtocol], folder: Path) -> dict[str, Any]:
    """Where the copies of requests go, inside of Envoy: a copy passes no filters on its way, and
    without those of this listener nothing would count what it is answered."""
    chain = _chain(_manager(MIRROR, folder, _counted(protocols)))
    return {"name": MIRROR, "internal_listener": {}, "filter_chains": [chain]}


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


def _own_answers() -> dict[str, Any]:
    """What the gateway says itself: gRPC's status with a sentence, or JSON with an `error`.

    A release that answers as many requests as it may (UO), and a body that is too large, are
    RESOURCE_EXHAUSTED: Envoy's own UNAVAILABLE and UNKNOWN would be failures of the release.
    """
    header = {"name": "content-type", "string_match": {"prefix": GRPC}}
    is_grpc = {"header_filter": {"header": header}}
    is_full = {"response_flag_filter": {"flags": ["UO"]}}
    value = {"default_value": 413, "runtime_key": "adire.too_large"}
    is_large = {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}
    too_many = {"inline_string": "too many requests at once; try again a little later"}
    exhausted = {"headers_to_add": [set_header("grpc-status", RESOURCE_EXHAUSTED)]}
    text = {"body_format_override": {"text_format_source": {"inline_string": BODY}}}

    def both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
        return {"and_filter": {"filters": [one, other]}}

    return {
        # The first that fits.
        "mappers": [
            {"filter": both(is_grpc, is_full), "body": too_many, **exhausted, **text},
            {"filter": both(is_grpc, is_large), **exhausted, **text},
            {"filter": is_grpc, **text},
            {"filter": is_full, "status_code": 429, "body": too_many},
        ],
        "body_format": {"json_format": {"error": BODY}},
    }


def _counted(protocols: Sequence[InferenceProtocol]) -> list[dict[str, Any]]:
    """The last filters: the gRPC codes of the release that the route has settled are counted."""
    methods = [one.methods for one in protocols if one.methods]
    services = [{"name": service, "method_names": [*names]} for service, names in methods]
    return [
        _filter(
            "grpc_stats",
            "grpc_stats.v3.FilterConfig",
            individual_method_stats_allowlist={"services": services},
        ),
        _filter("router", "router.v3.Router"),
    ]


def _watched(path: Path) -> dict[str, Any]:
    return {
        "resource_api_version": "V3",
        "path_config_source": {
            "path": str(path),
            "watched_directory": {"path": str(path.parent)},
        },
    }


def _filters(
    gateway: GatewayConfig, protocols: Sequence[InferenceProtocol], root: Path
) -> list[dict[str, Any]]:
    """What a request passes, in order."""
    found = [_filter("grpc_web", "grpc_web.v3.GrpcWeb")]
    if gateway.requests_per_minute:
        found.append(_rate_limit(gateway.requests_per_minute))
    if gateway.tokens:
        keys = root / gateway.tokens.keys
        provider = {
            "issuer": gateway.tokens.issuer,
            "audiences": [gateway.tokens.audience],
            "local_jwks": {"filename": str(keys)},
            "require_expiration": True,
            "forward": False,
        }
        rules = [{"match": {"prefix": "/"}, "requires": {"provider_name": "tokens"}}]
        content = {"providers": {"tokens": provider}, "rules": rules}
        found.append(_filter("jwt_authn", "jwt_authn.v3.JwtAuthentication", **content))
    found += [
        # Before anything reads the body: it is held until the script knows the model.
        _filter("buffer", "buffer.v3.Buffer", max_request_bytes=gateway.maximum_request_bytes),
        _filter("lua", "lua.v3.Lua", default_source_code=_script(gateway, protocols)),
        *_counted(protocols),
    ]
    return found


def _filter(name: str, kind: str, **content: Any) -> dict[str, Any]:
    return {
        "name": f"envoy.filters.http.{name}",
        "typed_config": {"@type": f"{TYPES}extensions.filters.http.{kind}", **content},
    }


def _rate_limit(per_minute: int) -> dict[str, Any]:
    bucket = {
        "max_tokens": per_minute,
        "tokens_per_fill": per_minute,
        "fill_interval": "60s",
    }
    everything = {"numerator": 100, "denominator": "HUNDRED"}
    return _filter(
        "local_ratelimit",
        "local_ratelimit.v3.LocalRateLimit",
        stat_prefix=LISTENER,
        token_bucket={"max_tokens": 2**31 - 1, "tokens_per_fill": 2**31 - 1, "fill_interval": "1s"},
        filter_enabled={"default_value": everything},
        filter_enforced={"default_value": everything},
        rate_limited_as_resource_exhausted=True,
        rate_limits=[{"actions": [{"remote_address": {}}]}],
        # An entry without a value: a bucket of its own for every address.
        descriptors=[{"entries": [{"key": "remote_address"}], "token_bucket": bucket}],
        max_dynamic_descriptors=10_000,
    )


def _script(gateway: GatewayConfig, protocols: Sequence[InferenceProtocol]) -> dict[str, str]:
    """One Lua chunk that reads requests and names what they are about."""
    sticky = json.dumps(gateway.sticky_header or RELEASE_HEADER)
    paths = [READING, *(path for one in protocols for path in one.scripts), GATEWAY]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return {"inline_string": "\n".join([f"local STICKY_HEADER = {sticky}", *texts])}
