"""What Envoy starts from: listener, filters that a request passes, limits, statistics."""

import json
from pathlib import Path
from typing import Any

from adire_assets.fleet_config import GatewayConfig
from adire_assets.serving.gateway_config import ROUTES, SERVICE, TYPES, address

LISTENER = "door"
# Upper bounds of the latency histograms in ms; Envoy's own are too far apart for a p99.
BUCKETS = [
    *(0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 25, 30, 40, 50, 60, 75, 90, 110, 130, 160, 200, 250),
    *(300, 360, 430, 520, 620, 750, 900, 1100, 1300, 1600, 2000, 2500, 3000, 4000, 5000, 7500),
    *(10000, 15000, 20000, 30000, 60000, 120000, 300000),
]
SCRIPTS = [
    Path(__file__).with_name(name)
    for name in ("gateway_messages.lua", "gateway_json.lua", "gateway.lua")
]


def bootstrap(gateway: GatewayConfig, folder: Path, root: Path) -> dict[str, Any]:
    """The static part. `folder` holds clusters.json and routes.json, which Envoy watches; paths of
    certificates and keys are below `root` or absolute."""
    manager = {
        "@type": TYPES
        + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": LISTENER,
        "codec_type": "AUTO",
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
        "rds": {"route_config_name": ROUTES, "config_source": _watched(folder / "routes.json")},
        "http_filters": _filters(gateway, root),
    }
    listener: dict[str, Any] = {
        "name": LISTENER,
        "address": address(gateway.host, gateway.port),
        "per_connection_buffer_limit_bytes": gateway.maximum_request_bytes,
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": manager,
                    }
                ]
            }
        ],
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
        "node": {"id": "adire", "cluster": "adire"},
        "admin": {"address": address("127.0.0.1", gateway.admin_port)},
        "dynamic_resources": {"cds_config": _watched(folder / "clusters.json")},
        "static_resources": {"listeners": [listener]},
        # Latencies are read off after a flush, and a rollout looks every second.
        "stats_flush_interval": "0.5s",
        "stats_config": {
            "histogram_bucket_settings": [
                {"match": {"suffix": "upstream_rq_time"}, "buckets": BUCKETS}
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
        # After the script, which settles the route: counted is the release that answers.
        _filter(
            "grpc_stats",
            "grpc_stats.v3.FilterConfig",
            individual_method_stats_allowlist={
                "services": [{"name": SERVICE, "method_names": ["ModelInfer"]}]
            },
        ),
        _filter("router", "router.v3.Router"),
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
