"""What Envoy starts from, and what it is told of what each model has loaded: clusters and routes.

Pure functions from a fleet's description to Envoy's own configuration (protobuf JSON). Each loaded
release has two clusters for each protocol of its slot: with the other slots of this kind to fall
back to, and without (`-pinned`). gateway.lua reads from a request which model it is about and
copies that into the header `x-adire-model`, which every route to a slot matches, with
`x-model-release` for who wants one release only. An answer says in `x-adire-release` which release
the slot holds that it came from.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from adire_assets.config.fleet import GatewayConfig, SlotConfig
from adire_assets.serving.gateway.protocol import InferenceProtocol, all_protocols
from adire_assets.serving.gateway.served import (
    REQUESTS_AT_ONCE,
    ServedModel,
    protocols_of,
    requests_at_once,
)
from adire_assets.serving.slot_server import server_of

RELEASE_HEADER, MODEL_HEADER = "x-model-release", "x-adire-model"
CHOSEN_HEADER = "x-adire-release"  # of a request: which release the shares have chosen for it
NO_MODEL = "-"  # in that header: the request has been read and is about a server
PARTS, READING, SCRIPT, ANSWERS = (
    Path(__file__).with_name(name)
    for name in ("envoy.yml", "reading.lua", "gateway.lua", "answers.lua")
)
TAP = "answers"  # the name by which the tap filter is asked (see `tap`)
FLUSH_SECONDS = 0.05  # latencies are read off after a flush, and a rollout looks often


@cache
def _parts() -> dict[str, Any]:
    return dict(YAML(typ="safe").load(PARTS))


@cache
def buckets() -> tuple[float, ...]:
    """Upper bounds of the latency histograms in ms."""
    settings = part("bootstrap")["stats_config"]["histogram_bucket_settings"]
    return tuple(settings[0]["buckets"])


def part(name: str, /, **values: Any) -> dict[str, Any]:
    """A part of Envoy's configuration from envoy.yml, with these values in place of each $name.

    What has no value, or None, is left out, with the mappings that hold nothing else.
    """

    def filled(node: Any) -> Any:
        if isinstance(node, dict):
            found = {key: filled(value) for key, value in node.items()}
            kept = {key: value for key, value in found.items() if value is not None}
            return kept if kept or not node else None
        if isinstance(node, list):
            return [filled(one) for one in node]
        return values.get(node[1:]) if isinstance(node, str) and node[:1] == "$" else node

    return dict(filled(_parts()[name]))


def cluster_name(model: str, number: int, suffix: str = "", *, pinned: bool = False) -> str:
    """The cluster of a release for the protocol with this suffix."""
    return f"{model}-{number}{'-pinned' if pinned else ''}{suffix}"


def model_of_cluster(name: str) -> str:
    """The model whose release a cluster of this name leads to. Model names have no hyphen."""
    return name.partition("-")[0]


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


# --- clusters ----------------------------------------------------------------------------------


def clusters(
    gateway: GatewayConfig, slots: Mapping[str, SlotConfig], served: Sequence[ServedModel]
) -> list[dict[str, Any]]:
    """Every cluster of the routes, and for each protocol one that reaches whatever slot is up."""
    found, limits = [], requests_at_once(gateway, slots, served)
    for protocol in protocols_of(slots.values()):
        speaking = [(slot, None) for slot in slots.values() if protocol in protocols_of([slot])]
        limit = gateway.maximum_concurrent_requests or REQUESTS_AT_ONCE
        found.append(_cluster(f"slots{protocol.suffix}", speaking, protocol, None, limit))
    for one in served:
        held = {name: number for number, name in one.loaded.items()}
        for number, name in one.loaded.items():
            # The slot of the release first, then what may answer in its place.
            names = [name, *(other for other in slots if other != name)]
            places = [
                (slots[other], held.get(other))
                for other in names
                if slots[other].server == slots[name].server
            ]
            for protocol in one.asked_by([slots[name]]):
                for pinned in (False, True):
                    kind = cluster_name(one.model, number, protocol.suffix, pinned=pinned)
                    behind = places[:1] if pinned else places
                    limit = limits[one.model, number]
                    found.append(_cluster(kind, behind, protocol, one.name, limit))
    return found


def _cluster(
    name: str,
    places: Sequence[tuple[SlotConfig, int | None]],
    protocol: InferenceProtocol,
    model: str | None,
    limit: int,
) -> dict[str, Any]:
    """One cluster: the first slot, and the others only when that one does not answer.

    `places`: each slot with the release that it holds of what is asked as `model`; `limit`: of
    requests at once.
    """
    endpoints = [
        part(
            "endpoint",
            priority=priority,
            host=slot.host,
            port=protocol.port_of(slot),
            http_port=slot.http_port,
            release=release,
        )
        for priority, (slot, release) in enumerate(places)
    ]
    return part(
        "cluster",
        name=name,
        type="STRICT_DNS" if any(_is_name(slot.host) for slot, _ in places) else "STATIC",
        endpoints=endpoints,
        http_options=http_options(protocol),
        health_path=server_of(places[0][0]).health_path(model),
        limit=limit,
    )


def http_options(protocol: InferenceProtocol) -> dict[str, Any]:
    """That a cluster speaks HTTP/2, as gRPC does, or HTTP/1.1."""
    return part("http_options", **{"http2" if protocol.grpc else "http1": {}})


def _is_name(host: str) -> bool:
    return not all(part.isdecimal() for part in host.split(".")) and ":" not in host


# --- routes ------------------------------------------------------------------------------------


def routes(
    gateway: GatewayConfig, slots: Mapping[str, SlotConfig], served: Iterable[ServedModel]
) -> dict[str, Any]:
    """The route table: pinned releases, then shares, then what concerns no model, then refusals."""
    found = [route for one in served for route in model_routes(gateway, slots, one)]
    protocols = protocols_of(slots.values())
    found += [
        part(
            "route",
            match=_matching({"path": path}, NO_MODEL),
            cluster=f"slots{protocol.suffix}",
            timeout="5s",
            retry=_retry(protocol),
        )
        for protocol in protocols
        for path in protocol.server_paths
    ]
    for protocol in protocols:
        found.append(_refusal(protocol, _paths(protocol), "no such model is served here"))
    nothing = "the gateway does not serve this method"
    found.append(part("refusal", match={"prefix": "/"}, sentence=nothing))
    return part("routes", routes=found)


def model_routes(
    gateway: GatewayConfig, slots: Mapping[str, SlotConfig], one: ServedModel
) -> list[dict[str, Any]]:
    """The part of the table that is about one model."""
    holding = [slots[name] for name in one.loaded.values()]
    loaded = ", ".join(str(number) for number in sorted(one.loaded)) or "none"
    sticky, limit = gateway.sticky_header, f"{gateway.request_timeout_seconds}s"
    found = []
    asked_by = one.asked_by(holding or slots.values())
    for protocol in asked_by:
        match, suffix = _paths(protocol), protocol.suffix
        by_slot = one.loaded.items()
        elsewhere = {n for n, name in by_slot if protocol not in one.asked_by([slots[name]])}
        time = {"timeout": "0s", "idle_timeout": limit} if protocol.streams else {"timeout": limit}
        answers = part("answers_of", protocol=protocol.name) if protocol.answers else None
        for number in [n for n in one.loaded if n not in elsewhere]:
            pinned = _matching(match, one.name, {"string_match": {"exact": str(number)}})
            cluster = cluster_name(one.model, number, suffix, pinned=True)
            found.append(part("route", match=pinned, cluster=cluster, answers=answers, **time))
        other = _matching(match, one.name, {"present_match": True})
        lacking = f"the release of {one.name} that was asked for is not loaded; loaded: {loaded}"
        found.append(_refusal(protocol, other, lacking))
        match = _matching(match, one.name)
        shares = [
            part(
                "share",
                cluster=cluster_name(one.model, number, suffix),
                weight=weight,
                header=CHOSEN_HEADER,
                release=str(number),
            )
            for number, weight in one.weights.items()
            if weight and number not in elsewhere
        ]
        if not shares:
            found.append(_refusal(protocol, match, f"no release of {one.name} is live"))
            continue
        mirrors = [
            part("copies", cluster=mirror_name(suffix), release=str(number), percent=percent)
            for number, percent in filter(None, [one.mirrored])
            if number not in elsewhere
        ]
        found.append(
            part(
                "route",
                match=match,
                shares=shares,
                retry=_retry(protocol),
                by_hash=bool(sticky) or None,
                hash_policy=[{"header": {"header_name": sticky}}] if sticky else None,
                mirrors=mirrors or None,
                answers=answers,
                **time,
            )
        )
    # A server may take for its own fault what it is asked in a way that it does not know.
    ways = ", ".join(protocol.name for protocol in asked_by)
    for protocol in protocols_of(slots.values()):
        if protocol not in asked_by:
            wrong = f"{one.name} is not asked by {protocol.name}, but by {ways}"
            found.append(_refusal(protocol, _matching(_paths(protocol), one.name), wrong))
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
    headers = protocol.retriable.items()
    named = [{"name": name, "string_match": {"exact": value}} for name, value in headers]
    return part("retry", retriable=named)


def _refusal(protocol: InferenceProtocol, match: dict[str, Any], sentence: str) -> dict[str, Any]:
    """A route that is answered with this sentence, by NOT_FOUND or 404."""
    return part("grpc_refusal" if protocol.grpc else "refusal", match=match, sentence=sentence)


# --- what it starts from -----------------------------------------------------------------------


def bootstrap(
    gateway: GatewayConfig, slots: Mapping[str, SlotConfig], folder: Path, root: Path, identity: str
) -> dict[str, Any]:
    """The static part; by the id of its node, `identity`, a gateway says whose it is.

    `folder` holds clusters.json and routes.json, which Envoy watches; paths of certificates and
    keys are below `root` or absolute.
    """
    protocols = protocols_of(slots.values())
    methods: dict[str, list[str]] = {}  # by service; Envoy takes each once
    for service, names in (one.methods for one in protocols if one.methods):
        methods.setdefault(service, []).extend(names)
    services = [{"name": service, "method_names": names} for service, names in methods.items()]
    scripts = {
        one.name: {"inline_string": ANSWERS.read_text("utf-8") + one.answers.read_text("utf-8")}
        for one in protocols
        if one.answers
    }
    answers = [part("answers", scripts=scripts)] if scripts else []
    counted = [part("count", services=services), *answers, part("router")]
    tap = [part("tap", name=TAP)] if gateway.sample_share else []
    watched = {"folder": str(folder), "routes_file": str(folder / "routes.json")}
    filters = [*_filters(gateway, protocols, root), *tap, *counted]
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
    scripts = dict.fromkeys(path for one in protocols for path in one.scripts)
    paths = [READING, *scripts, SCRIPT]
    sticky = json.dumps(gateway.sticky_header or RELEASE_HEADER)
    texts = [f"local STICKY_HEADER = {sticky}", *(path.read_text("utf-8") for path in paths)]
    held = part("buffer", maximum_request_bytes=gateway.maximum_request_bytes)
    return [*found, held, part("script", script="\n".join(texts))]
