"""The schema of configs/fleet.yaml: where models are served, and what `adire up` keeps alive."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from adire_assets.config.costs import CostConfig, Hardware, Price
from adire_assets.config.model import Name
from adire_assets.config.yaml_file import EffectiveOnlyWith, MisplacedKey, Strict, distinct, load
from adire_assets.core.evidence import answers_needed, values_needed
from adire_assets.core.project import Project

Port = Annotated[int, Field(ge=1024, le=65535)]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]+$")]


def _with_a_port(address: str) -> str:
    port = int(address.rpartition(":")[2])
    if not 1 <= port <= 65535:
        raise ValueError(f"{port} is no port; allowed is 1 to 65535")
    return address


Address = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9._-]+:[0-9]{1,5}$"), AfterValidator(_with_a_port)
]
FLEET_VARIABLE, FLEET_FILE = "ADIRE_FLEET", "configs/fleet.yaml"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# The kinds of slot servers, and their code: "module:object" of a `serving.slot_server.SlotServer`.
SERVERS = {
    "triton": "adire_assets.serving.fleet.triton:SERVER",
    "vllm": "adire_assets.serving.fleet.vllm:SERVER",
}
SLOT_PORTS = ("grpc_port", "http_port", "metrics_port")
GATEWAY_PORTS = ("port", "admin_port")
Quantile = Literal["p50", "p95", "p99"]
TAILS: dict[Quantile, float] = {"p50": 0.5, "p95": 0.05, "p99": 0.01}  # what may be slower

REMOTE = EffectiveOnlyWith("launch", "launch: remote", lambda slot: slot.launch == "remote")
CANARY = EffectiveOnlyWith("strategy", "strategy: canary", lambda r: r.strategy == "canary")
SHADOW = EffectiveOnlyWith("strategy", "strategy: shadow", lambda r: r.strategy == "shadow")
INCREASE = "latency_increase_maximum"
COMPARED = EffectiveOnlyWith(INCREASE, f"a {INCREASE}", lambda r: getattr(r, INCREASE) is not None)
SEVERAL = EffectiveOnlyWith("targets", "a second target", lambda fleet: len(fleet.targets) > 1)


class SlotConfig(Strict):
    """One server. `local`: started and supervised by `adire up`; `remote`: it runs already."""

    ONLY_WITH = {"folder": (REMOTE,)}

    server: str = "triton"
    launch: Literal["local", "remote"] = "local"
    host: Host = "127.0.0.1"
    http_port: Port = 8000
    grpc_port: Port = 8001
    metrics_port: Port = 8002
    # A remote slot's folder as this machine sees it (a mount); it holds models/ and base_models/.
    folder: str | None = None
    # Its own price, or which one of `costs.cost_per_hour`; none: the only one of these.
    cost_per_hour: Price | None = None
    hardware: Hardware | None = None

    @model_validator(mode="after")
    def _one_price(self) -> "SlotConfig":
        if self.cost_per_hour is not None and self.hardware is not None:
            raise MisplacedKey(
                "hardware has no effect beside cost_per_hour; take one of them out", ("hardware",)
            )
        return self

    @field_validator("server")
    @classmethod
    def _known_server(cls, value: str) -> str:
        if value not in SERVERS:
            raise ValueError(
                f"there is no kind of slot server {value!r}; known: {', '.join(SERVERS)}"
            )
        return value

    @model_validator(mode="after")
    def _remote_needs_folder(self) -> "SlotConfig":
        if self.launch == "remote" and not self.folder:
            raise ValueError("a remote slot needs `folder`, the mount that its server reads")
        if self.launch == "local" and self.host not in LOOPBACK:
            raise ValueError("a local slot listens on loopback only: host must be 127.0.0.1")
        return self


class WebConfig(Strict):
    """The Dagster UI, on loopback."""

    host: Literal["127.0.0.1", "localhost", "::1"] = "127.0.0.1"
    port: Port = 3000


class StudioConfig(Strict):
    """The web pages for designers and operators, on loopback."""

    host: Literal["127.0.0.1", "localhost", "::1"] = "127.0.0.1"
    port: Port = 3001
    # Where a change of the data is committed: on the branch of this checkout, or on a new one,
    # data/<who>-<date>, for somebody to merge.
    publish: Literal["direct", "branch"] = "direct"


class TlsConfig(Strict):
    """PEM files, below the project or absolute."""

    certificate: Annotated[str, Field(min_length=1)]
    private_key: Annotated[str, Field(min_length=1)]
    # For this project's own clients: who signed the certificate (default: itself), and the name
    # in it where that is not the host.
    authority: Annotated[str, Field(min_length=1)] | None = None
    name: Host | None = None


class TokenConfig(Strict):
    """Who may ask: the bearer of a JWT signed (ES256) by one of the keys in a JWKS file."""

    keys: Annotated[str, Field(min_length=1)]  # public keys only; `adire auth` makes them
    issuer: Annotated[str, Field(min_length=1, max_length=200)] = "adire"
    audience: Annotated[str, Field(min_length=1, max_length=200)] = "adire"


class GatewayConfig(Strict):
    """The Envoy that clients talk to: gRPC, gRPC-web and HTTP/JSON on one port."""

    launch: Literal["local", "remote"] = "local"
    host: Host = "127.0.0.1"
    port: Port = 8080
    admin_port: Port = 9901  # on loopback always; metrics for Prometheus are below /stats
    tls: TlsConfig | None = None
    tokens: TokenConfig | None = None
    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = None  # per address
    maximum_request_bytes: Annotated[int, Field(ge=1024, le=2**26)] = 2**20
    # Per release; none: as many as are answered in time, by what the release takes in its slot.
    maximum_concurrent_requests: Annotated[int, Field(ge=1, le=100_000)] | None = None
    request_timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 120.0
    sticky_header: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")] | None = None
    worker_threads: Annotated[int, Field(ge=1, le=256)] = 1
    # Of users' answers, the share whose quality is judged as they pass; 0: none.
    sample_share: Annotated[float, Field(ge=0, le=1)] = 0.0

    @model_validator(mode="after")
    def _guarded_beyond_loopback(self) -> "GatewayConfig":
        missing = [name for name in ("tls", "tokens") if getattr(self, name) is None]
        if self.launch == "local" and self.host not in LOOPBACK and missing:
            raise ValueError(
                f"a gateway that listens on {self.host} needs {' and '.join(missing)}; without "
                "them, host must be 127.0.0.1"
            )
        return self


class RolloutConfig(Strict):
    """How a release comes to its traffic, and what sends it back."""

    ONLY_WITH = {
        "steps": (CANARY,),
        "mirrored_percent": (SHADOW,),
        "latency_slack_seconds": (COMPARED,),
        "inter_token_slack_seconds": (COMPARED,),
        "cut_off_increase_maximum": (COMPARED,),
    }

    strategy: Literal["canary", "blue_green", "shadow"] = "canary"
    steps: Annotated[list[Annotated[int, Field(ge=1, le=100)]], Field(min_length=1)] = [5, 25, 100]
    # shadow: the percentage of requests that the release gets a copy of before it answers any.
    mirrored_percent: Annotated[int, Field(ge=1, le=100)] = 20
    # A step goes on no sooner than this, ...
    minimum_seconds: Annotated[float, Field(ge=0, le=86_400)] = 5.0
    # ... and without a decision it holds where it is after this, and says so.
    maximum_seconds: Annotated[float, Field(gt=0, le=604_800)] = 900.0
    error_rate_maximum: Annotated[float, Field(gt=0, lt=1)] = 0.05
    # p50, p95 and p99 may be this share (none: nothing is compared), and this much, above the
    # running release's ...
    latency_increase_maximum: Annotated[float, Field(ge=0, le=100)] | None = 0.5
    latency_slack_seconds: Annotated[float, Field(ge=0, le=60)] = 0.05
    # ... and at most this.
    latency_maximum_seconds: Annotated[float, Field(gt=0, le=3600)] = 2.0
    # Of streams, the median time to the first token may be as much above the running release's;
    # that from one token to the next by the same share, and this much.
    inter_token_slack_seconds: Annotated[float, Field(ge=0, le=60)] = 0.005
    # So much more of the answers than of the running release's may be cut off by their length.
    cut_off_increase_maximum: Annotated[float, Field(gt=0, lt=1)] | None = 0.1
    # Going on asks for evidence of these; each of the three sends a release back.
    promotion_quantiles: Annotated[
        list[Quantile], Field(min_length=1), AfterValidator(distinct)
    ] = ["p50", "p95"]
    # Of the answers to the rollout's own requests, how many are judged at most, and how far their
    # mean score may fall below the evaluation's.
    judged_answers: Annotated[int, Field(ge=1, le=64)] = 64
    quality_drop_maximum: Annotated[float, Field(gt=0, le=1)] = 0.1
    # What thin traffic lacks is asked by the rollout itself, at most so many requests per step.
    replays_maximum: Annotated[int, Field(ge=0, le=10_000)] = 300

    @field_validator("steps")
    @classmethod
    def _rising_to_all(cls, value: list[int]) -> list[int]:
        if value != sorted(set(value)) or value[-1] != 100:
            raise ValueError("percentages that rise and end with 100, such as [5, 25, 100]")
        return value

    @model_validator(mode="after")
    def _a_step_may_go_on_before_it_is_late(self) -> "RolloutConfig":
        if self.minimum_seconds > self.maximum_seconds:
            raise ValueError(
                f"minimum_seconds is {self.minimum_seconds:g} and maximum_seconds "
                f"{self.maximum_seconds:g}, so that every step would hold before it may go on; "
                "lower one, or raise the other"
            )
        return self

    @model_validator(mode="after")
    def _evidence_can_be_had(self) -> "RolloutConfig":
        """Without it a sound release would hold at every step."""
        limits = {
            f"{name} in promotion_quantiles": TAILS[name] for name in self.promotion_quantiles
        }
        limits[f"error_rate_maximum {self.error_rate_maximum:g}"] = self.error_rate_maximum
        needed, name = max((answers_needed(limit), name) for name, limit in limits.items())
        if needed > self.replays_maximum:
            raise ValueError(
                f"{name} takes {needed:,} answers without a fault before a step can go on, "
                f"and replays_maximum is {self.replays_maximum}; raise it to {needed} or "
                "more, or ask for less"
            )
        answers = values_needed(self.quality_drop_maximum)
        if answers > self.judged_answers:
            raise ValueError(
                f"a quality_drop_maximum of {self.quality_drop_maximum:g} takes at least "
                f"{answers:,} judged answers before a step can go on, and judged_answers is "
                f"{self.judged_answers} (at most 64); raise one of them"
            )
        return self


class TargetConfig(Strict):
    """One place that serves: two slots of each kind of server behind a gateway, and how releases
    come to it."""

    slots: Annotated[dict[Name, SlotConfig], Field(min_length=2)]
    # DCGM exporters of the machines that serve, as host:port; Prometheus asks them for the GPUs.
    gpu_metrics: Annotated[list[Address], AfterValidator(distinct)] = []
    gateway: GatewayConfig = GatewayConfig()
    rollout: RolloutConfig = RolloutConfig()

    @field_validator("slots")
    @classmethod
    def _two_of_each_kind(cls, value: dict[str, SlotConfig]) -> dict[str, SlotConfig]:
        for server, count in Counter(slot.server for slot in value.values()).items():
            if count != 2:
                raise ValueError(f"{count} with server: {server}; a target has two of each kind")
        return value

    @model_validator(mode="after")
    def _answers_can_be_too_slow(self) -> "TargetConfig":
        limit, timeout = self.rollout.latency_maximum_seconds, self.gateway.request_timeout_seconds
        if limit > timeout and limit != RolloutConfig().latency_maximum_seconds:
            raise MisplacedKey(
                f"latency_maximum_seconds has no effect while request_timeout_seconds is "
                f"{timeout:g}: no answer takes longer; lower it, or raise that",
                ("rollout", "latency_maximum_seconds"),
            )
        return self


class FleetConfig(Strict):
    """configs/fleet.yaml: where models are served, and what `adire up` keeps alive."""

    ONLY_WITH = {"on_failure": (SEVERAL,)}

    # A release goes to one target after the other, in this order.
    targets: Annotated[dict[Name, TargetConfig], Field(min_length=1, max_length=16)]
    # When a target sends a release back: what becomes of the targets that have it already.
    on_failure: Literal["rollback", "keep"] = "rollback"
    dagster: WebConfig = WebConfig()
    studio: StudioConfig = StudioConfig()
    costs: CostConfig | None = None  # without: nothing is said of costs
    device: Literal["auto", "cpu", "cuda"] = "auto"
    load_timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 180.0

    @model_validator(mode="after")
    def _every_port_and_server_once(self) -> "FleetConfig":
        """The ports that this machine must have free; and of servers that run already, two slots
        of one Triton, or of one folder, are one slot."""
        seen: dict[tuple[str, ...], str] = {}
        for launch, what in (("local", "port"), ("remote", "server")):
            for place, key in self._places(launch):
                if place in seen:
                    same = place[-1] if launch == "local" else ":".join(place)
                    raise ValueError(
                        f"{key} and {seen[place]} are both {same}; every {what} only once"
                    )
                seen[place] = key
        return self

    @model_validator(mode="after")
    def _every_slot_has_a_price(self) -> "FleetConfig":
        known = self.costs.cost_per_hour if self.costs else {}
        for name, target in self.targets.items():
            for slot_name, slot in target.slots.items():
                place = ("targets", name, "slots", slot_name)
                for key in ("cost_per_hour", "hardware"):
                    if not self.costs and getattr(slot, key) is not None:
                        raise MisplacedKey(
                            f"{key} has no effect without a section costs; add that, or take "
                            f"{key} out",
                            (*place, key),
                        )
                if slot.hardware is not None and slot.hardware not in known:
                    raise MisplacedKey(
                        f"costs.cost_per_hour has no {slot.hardware}; it has: {', '.join(known)}",
                        (*place, "hardware"),
                    )
                if len(known) > 1 and slot.cost_per_hour is None and slot.hardware is None:
                    raise MisplacedKey(
                        f"say with hardware which price of costs.cost_per_hour holds here "
                        f"({', '.join(known)}), or give the slot its own cost_per_hour",
                        place,
                    )
        return self

    def slot_cost_per_hour(self, target: str, slot: str) -> float | None:
        """What an hour of a slot costs, None without `costs`."""
        if self.costs is None:
            return None
        config, prices = self.targets[target].slots[slot], self.costs.cost_per_hour
        if config.cost_per_hour is not None:
            return config.cost_per_hour
        return prices[config.hardware or next(iter(prices))]

    def _places(self, launch: str) -> Iterator[tuple[tuple[str, ...], str]]:
        """(what tells a server of this launch from others, the key that says it)."""
        if launch == "local":
            yield (LOOPBACK[0], str(self.dagster.port)), "dagster.port"
            if "studio" in self.model_fields_set:  # else `adire up` finds out
                yield (LOOPBACK[0], str(self.studio.port)), "studio.port"
        for name, target in self.targets.items():
            servers: dict[str, SlotConfig | GatewayConfig] = {}
            servers |= {f"slots.{slot_name}": slot for slot_name, slot in target.slots.items()}
            servers["gateway"] = target.gateway
            for inner, server in servers.items():
                if server.launch != launch:
                    continue
                key = f"targets.{name}.{inner}"
                local = launch == "local" or server.host in LOOPBACK
                for port in SLOT_PORTS if isinstance(server, SlotConfig) else GATEWAY_PORTS:
                    host = LOOPBACK[0] if local else server.host
                    yield (host, str(getattr(server, port))), f"{key}.{port}"
                if launch == "remote" and isinstance(server, SlotConfig):
                    yield (str(server.folder),), f"{key}.folder"


def fleet_file(project: Project) -> Path:
    """configs/fleet.yaml of the project, or the file that ADIRE_FLEET names."""
    return Path(os.environ.get(FLEET_VARIABLE) or project.root / FLEET_FILE)


def fleet_file_name() -> str:
    """`fleet_file` as messages call it: by the words of who named it."""
    return os.environ.get(FLEET_VARIABLE) or FLEET_FILE


def load_fleet(project: Project) -> FleetConfig:
    """`fleet_file`, validated."""
    return load(fleet_file(project), FleetConfig)


def device_class(project: Project) -> str:
    """ "cpu" or "cuda": what jobs compute on, by the fleet's `device`."""
    return project.placement.facts().device_class(load_fleet(project).device)
