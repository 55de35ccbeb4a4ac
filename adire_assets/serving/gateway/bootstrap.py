"""What Envoy starts from: listener, filters that a request passes, limits, statistics."""

import json
from pathlib import Path
from typing import Any

from adire_assets.config.fleet import GatewayConfig
from adire_assets.serving.gateway.config import (
    RESOURCE_EXHAUSTED,
    ROUTES,
    SERVICE,
    TYPES,
    address,
    http_options,
    mirror_name,
    set_header,
)
from adire_assets.serving.gateway.traffic import UNANSWERED, UNANSWERED_SCOPE

LISTENER = "door"
MIRROR = mirror_name()
# Upper bounds of the latency histograms in ms; Envoy's own are too far apart for a p99.
BUCKETS = [
    *(0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 25, 30, 40, 50, 60, 75, 90, 110, 130, 160, 200, 250),
    *(300, 360, 430, 520, 620, 750, 900, 1100, 1300, 1600, 2000, 2500, 3000, 4000, 5000, 7500),
    *(10000, 15000, 20000, 30000, 60000, 120000, 300000),
    *(600_000, 1_200_000, 4_000_000),  # longer than the longest timeout: nothing lies beyond
]
FLUSH_SECONDS = 0.05  # latencies are read off after a flush, and a rollout looks often
BODY = "%LOCAL_REPLY_BODY%"
SCRIPTS = [
    Path(__file__).with_name(name)
    for name in ("gateway_messages.lua", "gateway_json.lua", "gateway.lua")
]


def bootstrap(gateway: GatewayConfig, folder: Path, root: Path, identity: str) -> dict[str, Any]:
    """The static part; by the id of its node, `identity`, a gateway says whose it is.

    `folder` holds clusters.json and routes.json, which Envoy watches; paths of certificates and
    keys are below `root` or absolute.
    """
    manager = {
        **_manager(LISTENER, folder, _filters(gateway, root)),
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
            "listeners": [listener, _mirror(folder)],
            "clusters": [_to_mirror(http=False), _to_mirror(http=True)],
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
                {"match": {"prefix": f"{UNANSWERED_SCOPE}.{UNANSWERED}"}, "buckets": BUCKETS},
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
        "access_log": [_unanswered()],
    }


def _unanswered() -> dict[str, Any]:
    """How long was waited for requests that their client (DC, DR), or Envoy after the timeout of
    the route (UT), gave up: a histogram by cluster, which the latencies of answers leave out."""
    cluster = {"name": "cluster", "value_format": "%UPSTREAM_CLUSTER%"}
    histogram = {
        "stat": {"name": UNANSWERED, "tags": [cluster]},
        "unit": "Milliseconds",
        "value_format": "%DURATION%",
    }
    return {
        "name": "envoy.access_loggers.stats",
        "filter": {"response_flag_filter": {"flags": ["DC", "DR", "UT"]}},
        "typed_config": {
            "@type": TYPES + "extensions.access_loggers.stats.v3.Config",
            "stats_scope": {"prefix": UNANSWERED_SCOPE},
            "histograms": [histogram],
        },
    }


def _chain(manager: dict[str, Any]) -> dict[str, Any]:
    name = "envoy.filters.network.http_connection_manager"
    return {"filters": [{"name": name, "typed_config": manager}]}


def _mirror(folder: Path) -> dict[str, Any]:
    """Where the copies of requests go, inside of Envoy: a copy passes no filters on its way, and
    without those of this listener nothing would count what it is answered."""
    chain = _chain(_manager(MIRROR, folder, _counted()))
    return {"name": MIRROR, "internal_listener": {}, "filter_chains": [chain]}


def _to_mirror(http: bool) -> dict[str, Any]:
    name = mirror_name(http=http)
    address = {"envoy_internal_address": {"server_listener_name": MIRROR}}
    protocol: dict[str, Any] = {"http_protocol_options" if http else "http2_protocol_options": {}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {
        "name": name,
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
        "typed_extension_protocol_options": http_options(protocol),
    }


def _own_answers() -> dict[str, Any]:
    """What the gateway says itself: gRPC's status with a sentence, or JSON with an `error`.

    A release that answers as many requests as it may (UO), and a body that is too large, are
    RESOURCE_EXHAUSTED: Envoy's own UNAVAILABLE and UNKNOWN would be failures of the release.
    """
    header = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
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


def _counted() -> list[dict[str, Any]]:
    """The last filters: the gRPC codes of the release that the route has settled are counted."""
    service = {"name": SERVICE, "method_names": ["ModelInfer"]}
    return [
        _filter(
            "grpc_stats",
            "grpc_stats.v3.FilterConfig",
            individual_method_stats_allowlist={"services": [service]},
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


def _filters(gateway: GatewayConfig, root: Path) -> list[dict[str, Any]]:
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
        _filter("lua", "lua.v3.Lua", default_source_code={"inline_string": _script(gateway)}),
        *_counted(),
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


def _script(gateway: GatewayConfig) -> str:
    """One Lua chunk that reads requests and names what they are about."""
    sticky = json.dumps(gateway.sticky_header or "x-model-release")
    texts = [path.read_text(encoding="utf-8") for path in SCRIPTS]
    return "\n".join([f"local STICKY_HEADER = {sticky}", *texts])
