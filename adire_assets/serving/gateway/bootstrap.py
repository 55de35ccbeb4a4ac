"""What Envoy starts from: listener, filters that a request passes, limits, statistics."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adire_assets.config.fleet import GatewayConfig, SlotConfig
from adire_assets.serving.gateway.config import (
    RELEASE_HEADER,
    http_options,
    mirror_name,
    part,
    protocols_of,
)
from adire_assets.serving.gateway.protocol import InferenceProtocol

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
    gateway: GatewayConfig, slots: Mapping[str, SlotConfig], folder: Path, root: Path, identity: str
) -> dict[str, Any]:
    """The static part; by the id of its node, `identity`, a gateway says whose it is.

    `folder` holds clusters.json and routes.json, which Envoy watches; paths of certificates and
    keys are below `root` or absolute.
    """
    protocols = protocols_of(slots.values())
    methods = [one.methods for one in protocols if one.methods]
    services = [{"name": service, "method_names": [*names]} for service, names in methods]
    counted = [part("count", services=services), part("router")]
    watched = {"folder": str(folder), "routes_file": str(folder / "routes.json")}
    filters = [*_filters(gateway, protocols, root), *counted]
    manager = part("manager", name="door", filters=filters, **watched)
    manager["typed_config"] |= part("door_manager")
    copies = part("manager", name="mirror", filters=counted, **watched)
    tls = gateway.tls and part(
        "tls",
        certificate=str(root / gateway.tls.certificate),
        private_key=str(root / gateway.tls.private_key),
    )
    limits = {"maximum_request_bytes": gateway.maximum_request_bytes}
    place = {"host": gateway.host, "port": gateway.port, "transport_socket": tls}
    door = part("door", manager=manager, **place, **limits)
    return part(
        "bootstrap",
        identity=identity,
        flush_interval=f"{FLUSH_SECONDS}s",
        buckets=BUCKETS,
        admin_port=gateway.admin_port,
        folder=str(folder),
        clusters_file=str(folder / "clusters.json"),
        listeners=[door, part("mirror", manager=copies)],
        clusters=[
            part("to_mirror", name=mirror_name(one.suffix), http_options=http_options(one))
            for one in protocols
        ],
    )


def _filters(
    gateway: GatewayConfig, protocols: Sequence[InferenceProtocol], root: Path
) -> list[dict[str, Any]]:
    """What a request passes before it is counted and routed, in order."""
    found = [part("grpc_web")]
    if gateway.requests_per_minute:
        found.append(part("rate_limit", per_minute=gateway.requests_per_minute))
    if tokens := gateway.tokens:
        keys = str(root / tokens.keys)
        found.append(part("tokens", keys=keys, issuer=tokens.issuer, audience=tokens.audience))
    # One Lua chunk that reads requests and names what they are about.
    paths = [READING, *(path for one in protocols for path in one.scripts), GATEWAY]
    sticky = json.dumps(gateway.sticky_header or RELEASE_HEADER)
    texts = [f"local STICKY_HEADER = {sticky}", *(path.read_text("utf-8") for path in paths)]
    held = part("buffer", maximum_request_bytes=gateway.maximum_request_bytes)
    return [*found, held, part("script", script="\n".join(texts))]
