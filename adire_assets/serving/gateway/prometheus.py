"""What Prometheus is told: whom to ask for metrics, under which names to keep them, when to alert.

`write` fills a folder that `prometheus --config.file` starts from. The rules are Prometheus' own
files: adire.rules.yml, and one of each kind of slot server. What they compare with, the limits of
each target, adire.limits.yml records. That and prometheus.yml are pure functions of
configs/fleet.yaml. docs/metrics.md lists the names and the alerts.
"""

from io import BytesIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from adire_assets.config.fleet import FleetConfig, GatewayConfig, TargetConfig, fleet_file_name
from adire_assets.core.errors import UserError
from adire_assets.core.store import write_bytes
from adire_assets.serving.connection import host_and_port
from adire_assets.serving.gateway.config import any_suffix, buckets
from adire_assets.serving.gateway.protocol import all_protocols
from adire_assets.serving.slot_server import SlotServer, server_named

CONFIG_FILE, LIMITS_FILE = "prometheus.yml", "adire.limits.yml"
RULES = Path(__file__).with_name("adire.rules.yml")
COST_RULES = RULES.with_name("cost.rules.yml")
HEADER = "# Written by `adire prometheus` from {}; it replaces this file whole.\n"
SCRAPE_SECONDS = 15


def scrape_config(fleet: FleetConfig, interval_seconds: int = SCRAPE_SECONDS) -> dict[str, Any]:
    """prometheus.yml: every gateway and every slot of every target, asked each so many seconds."""
    interval = f"{interval_seconds}s"
    gateways = [
        {"targets": [_admin(target.gateway)], "labels": {"target": name}}
        for name, target in fleet.targets.items()
    ]
    door = {"job_name": "adire-gateway", "metrics_path": "/stats/prometheus"}
    jobs = [{**door, "static_configs": gateways, "metric_relabel_configs": _gateway_labels()}]
    for kind, server in _servers(fleet).items():
        slots = [
            {
                "targets": [host_and_port(slot.host, getattr(slot, server.metrics_port))],
                # One name of the job for all kinds: what alerts ask does not depend on these.
                "labels": {"job": "adire-slot", "target": name, "slot": slot_name},
            }
            for name, target in fleet.targets.items()
            for slot_name, slot in target.slots.items()
            if slot.server == kind
        ]
        job = {"job_name": f"adire-slot-{kind}", "static_configs": slots}
        jobs.append({**job, "metric_relabel_configs": [dict(one) for one in server.metric_labels]})
    pages = [{"targets": [host_and_port(fleet.studio.host, fleet.studio.port)]}]
    jobs.append({"job_name": "adire-fleet", "static_configs": pages})
    if gpus := [
        {"targets": target.gpu_metrics, "labels": {"target": name}}
        for name, target in fleet.targets.items()
        if target.gpu_metrics
    ]:
        jobs.append({"job_name": "adire-gpu", "static_configs": gpus})
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [LIMITS_FILE, *(path.name for path in _rules(fleet))],
        "scrape_configs": jobs,
    }


def limits(fleet: FleetConfig) -> dict[str, Any]:
    """adire.limits.yml: what alerts compare with, a series of each limit and target."""
    rules = [
        {"record": f"target:adire_{limit}", "expr": f"vector({value:g})", "labels": labels}
        for name, target in fleet.targets.items()
        for limit, value, labels in _limits(name, target)
    ]
    rules += _prices(fleet)
    return {"groups": [{"name": "adire-limits", "rules": rules}]}


def _limits(name: str, target: TargetConfig) -> list[tuple[str, float, dict[str, str]]]:
    rollout, labels = target.rollout, {"target": name}
    slowest, increase = rollout.latency_maximum_seconds, rollout.latency_increase_maximum
    cut_off = None if increase is None else rollout.cut_off_increase_maximum
    bound = next(one for one in buckets() if one >= slowest * 1000)
    return [
        ("error_rate_maximum", rollout.error_rate_maximum, labels),
        ("latency_maximum_seconds", slowest, labels),
        ("latency_maximum_bucket", 1.0, {**labels, "le": f"{bound:g}"}),
        *([("latency_increase_maximum", increase, labels)] if increase is not None else []),
        *([("cut_off_increase_maximum", cut_off, labels)] if cut_off is not None else []),
    ]


def _prices(fleet: FleetConfig) -> list[dict[str, Any]]:
    """What costs are made with, as series."""
    costs = fleet.costs
    if costs is None:
        return []
    found: list[tuple[str, float, dict[str, str]]] = [
        ("fleet:adire_storage_cost_per_gib_month", costs.storage_per_gib_month, {}),
        ("fleet:adire_transfer_cost_per_gib", costs.transfer_per_gib, {}),
    ]
    if costs.budget_per_day is not None:
        found.append(("fleet:adire_cost_budget_per_day", costs.budget_per_day, {}))
    for name, target in fleet.targets.items():
        for slot in target.slots:
            price = fleet.slot_cost_per_hour(name, slot) or 0.0
            found.append(("slot:adire_cost_per_hour", price, {"target": name, "slot": slot}))
    return [
        {
            "record": record,
            "expr": f"vector({value:.12g})",
            **({"labels": labels} if labels else {}),
        }
        for record, value, labels in found
    ]


def _gateway_labels() -> list[dict[str, Any]]:
    """Envoy's clusters are named <model>-<release>[-pinned]<protocol>; its own tags have the first
    two, but for what the access log counts by `cluster`. A later line wins."""
    served, logged = ["release", "envoy_cluster_name"], ["cluster"]
    of_the_log = f"([a-z][a-z0-9_]*)-([0-9]+)(-pinned)?{any_suffix()}"
    rules = [
        (served, ".+;.+", "pinned", "false"),
        (served, f".+;.+-pinned{any_suffix()}", "pinned", "true"),
        *(
            (served, f".+;.+{protocol.suffix}", "protocol", "grpc" if protocol.grpc else "http")
            for protocol in sorted(all_protocols(), key=lambda one: len(one.suffix))
        ),
        (logged, of_the_log, "model", "$1"),
        (logged, of_the_log, "release", "$2"),
    ]
    keys = ("source_labels", "regex", "target_label", "replacement")
    return [
        {"action": "labelmap", "regex": "adire_(model|release)"},
        {"action": "labeldrop", "regex": "adire_(model|release)"},
        *(dict(zip(keys, rule, strict=True)) for rule in rules),
    ]


def _servers(fleet: FleetConfig) -> dict[str, SlotServer]:
    slots = [slot for target in fleet.targets.values() for slot in target.slots.values()]
    return {slot.server: server_named(slot.server) for slot in slots}


def _rules(fleet: FleetConfig) -> list[Path]:
    costs = [COST_RULES] if fleet.costs else []
    return [
        RULES,
        *costs,
        *(one.metric_rules for one in _servers(fleet).values() if one.metric_rules),
    ]


def write(fleet: FleetConfig, folder: Path, interval_seconds: int = SCRAPE_SECONDS) -> list[Path]:
    """Write every file, each whole or not at all; their paths, prometheus.yml first.

    UserError when the folder cannot be written to.
    """
    contents = {
        # The rules first: prometheus.yml must not name a file that is not there.
        **{folder / path.name: path.read_bytes() for path in _rules(fleet)},
        folder / LIMITS_FILE: _yaml(limits(fleet)),
        folder / CONFIG_FILE: _yaml(scrape_config(fleet, interval_seconds)),
    }
    try:
        for path, content in contents.items():
            write_bytes(path, content)
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error.strerror}; name another") from None
    return list(reversed(contents))


def _yaml(content: dict[str, Any]) -> bytes:
    yaml, output = YAML(), BytesIO()
    yaml.width = 4096
    yaml.representer.ignore_aliases = lambda data: True
    yaml.dump(content, output)
    return HEADER.format(fleet_file_name()).encode() + output.getvalue()


def _admin(gateway: GatewayConfig) -> str:
    """Envoy's admin port: on loopback, wherever a local gateway listens for its clients."""
    host = gateway.host if gateway.launch == "remote" else "127.0.0.1"
    return host_and_port(host, gateway.admin_port)
