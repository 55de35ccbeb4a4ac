"""What Prometheus is told: whom to ask for metrics, under which names to keep them, when to alert.

`scrape_config` and `rules` are pure functions of configs/fleet.yaml; `write` puts both into a
folder that `prometheus --config.file` starts from. A scrape brings Envoy's and Triton's labels to
`target`, `slot`, `model` and `release`; recording rules give what matters a name of its own
(level:metric:operation), so that dashboards and alerts outlive a change of Envoy or Triton.
`alerts` says when to alert. docs/metrics.md lists both.
"""

from io import BytesIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import walk_tree

from adire_assets.config.fleet import (
    FleetConfig,
    GatewayConfig,
    fleet_file_name,
)
from adire_assets.core.errors import UserError
from adire_assets.core.store import write_bytes
from adire_assets.serving.gateway.alerts import (
    ERROR_WINDOWS,
    GATEWAYS,
    RELEASE,
    SCRAPE_SECONDS,
    SLOTS,
    TAILS,
    alerts_of,
)
from adire_assets.serving.gateway.protocol import SERVER_FAULTS

CONFIG_FILE, RULES_FILE = "prometheus.yml", "adire.rules.yml"
HEADER = "# Written by `adire prometheus` from {}; it replaces this file whole.\n"

# Envoy's clusters are named <model>-<release>[-pinned][-http]; its own tags have the first two.
CLUSTER_LABELS = (
    # label, value, the clusters of releases that get it; a later line wins
    ("pinned", "false", ".+"),
    ("pinned", "true", ".+-pinned(-http)?"),
    ("protocol", "grpc", ".+"),
    ("protocol", "http", ".+-http"),
)
GATEWAY_LABELS: list[dict[str, Any]] = [
    {"action": "labelmap", "regex": "adire_(model|release)"},
    {"action": "labeldrop", "regex": "adire_(model|release)"},
    *(
        {
            "source_labels": ["release", "envoy_cluster_name"],
            "regex": f".+;{clusters}",
            "target_label": label,
            "replacement": value,
        }
        for label, value, clusters in CLUSTER_LABELS
    ),
]
# What was given up is counted by cluster, without those tags.
GATEWAY_LABELS += [
    {
        "source_labels": ["cluster"],
        "regex": "([a-z][a-z0-9_]*)-([0-9]+)(-pinned)?(-http)?",
        "target_label": label,
        "replacement": replacement,
    }
    for label, replacement in (("model", "$1"), ("release", "$2"))
]
SLOT_LABELS = [
    {"action": "labelmap", "regex": "version", "replacement": "release"},
    {"action": "labeldrop", "regex": "version"},
]


# --- recording rules ---------------------------------------------------------------------------

FAULT_CODES = "|".join(str(code) for code in SERVER_FAULTS)
# Envoy shows a code's counter from its first occurrence on, and rate() does not see a counter's
# first value. These count from zero since the release is routed: `upstream_rq_completed` is there
# from then on. A sum before the rate is sound here, because one Envoy's counters restart together.
COUNTERS = {
    "release:adire_requests_total:sum": """
sum by (target, model, release, pinned) (
  envoy_cluster_grpc_ModelInfer_total{release!=""}
  or envoy_cluster_upstream_rq_completed{protocol="http"}
  or 0 * envoy_cluster_upstream_rq_completed{protocol="grpc"}
)""",
    "release:adire_request_failures_total:sum": f"""
sum by (target, model, release, pinned) (
  {{__name__=~"envoy_cluster_grpc_ModelInfer_({FAULT_CODES})", release!=""}}
  or envoy_cluster_upstream_rq_xx{{protocol="http", envoy_response_code_class="5"}}
  or 0 * envoy_cluster_upstream_rq_completed{{release!=""}}
)""",
    "release:adire_request_retries_total:sum": """
sum by (target, model, release, pinned) (envoy_cluster_upstream_rq_retry{release!=""})""",
    "release:adire_slot_ejections_total:sum": """
sum by (target, model, release, pinned) (
  envoy_cluster_outlier_detection_ejections_enforced_total{release!=""}
)""",
}
GAUGES = {
    "release:adire_in_flight:sum": f"""
sum by ({RELEASE}) (envoy_cluster_upstream_rq_active{{release!=""}})""",
}
RATES = {
    f"release:adire_{name}:rate{window}": f"""
sum by ({RELEASE}) (rate(release:adire_{name}_total:sum[{window}]))"""
    for name in ("requests", "request_failures", "request_retries")
    for window in ERROR_WINDOWS
}
RATIOS = {
    f"release:adire_{name}:ratio_rate{window}": f"""
clamp_max(release:adire_{name}:rate{window} / (release:adire_requests:rate{window} > 0), 1)"""
    for name in ("request_failures", "request_retries")
    for window in ERROR_WINDOWS
}
# Where each try is counted as a request, a failure is in both of them.
FAULTS = {
    f"release:adire_request_faults:ratio_rate{window}": f"""
max by ({RELEASE}) (
  {{__name__=~"release:adire_request_(failures|retries):ratio_rate{window}"}}
)"""
    for window in ERROR_WINDOWS
}
EJECTIONS = {
    "release:adire_slot_ejections:increase5m": f"""
sum by ({RELEASE}) (increase(release:adire_slot_ejections_total:sum[5m]))""",
}
LATENCIES = {
    # Copies of requests (strategy shadow) have a latency, but Envoy counts no gRPC code for them.
    "release:adire_request_seconds:count_rate5m": f"""
sum by ({RELEASE}) (rate(envoy_cluster_upstream_rq_time_count{{release!=""}}[5m]))""",
    **{
        f"release:adire_request_seconds:{name}_rate5m": f"""
histogram_quantile(
  {1 - tail:g},
  sum by ({RELEASE}, le) (rate(envoy_cluster_upstream_rq_time_bucket{{release!=""}}[5m]))
) / 1000"""
        for name, tail in TAILS.items()
    },
}
# No counter says which of two releases is the running one. It is the one that has answered most of
# what users asked in the last hour: a canary's share stays below it until the rollout is through.
RUNNING = {
    "release:adire_running_requests:increase1h": f"""
topk by (target, model) (
  1,
  sum by ({RELEASE}) (increase(release:adire_requests_total:sum{{pinned="false"}}[1h])) > 0
)""",
}
LATENCY_RATIOS = {
    f"release:adire_request_seconds:{name}_ratio5m": f"""
release:adire_request_seconds:{name}_rate5m
/ on (target, model) group_left ()
(
  release:adire_request_seconds:{name}_rate5m
  and on ({RELEASE}) release:adire_running_requests:increase1h
)"""
    for name in TAILS
}
SLOT = "target, slot, model, release"
SLOT_RULES = {
    "slot:adire_requests:rate5m": f"""
sum by ({SLOT}) (rate(nv_inference_request_success[5m]))
+ sum by ({SLOT}) (rate(nv_inference_request_failure[5m]))""",
    "slot:adire_request_failures:rate5m": f"""
sum by ({SLOT}) (rate(nv_inference_request_failure{{reason!="CANCELED"}}[5m]))""",
    "slot:adire_pending_requests:sum": f"""
sum by ({SLOT}) (nv_inference_pending_request_count)""",
    **{
        f"slot:adire_{name}_seconds:mean_rate5m": f"""
sum by ({SLOT}) (rate(nv_inference_{name}_duration_us[5m])) / 1e6
/ (sum by ({SLOT}) (rate(nv_inference_request_success[5m])) > 0)"""
        for name in ("request", "queue")
    },
}
# In this order: a rule sees what the ones before it have just recorded.
RECORDED = {
    **COUNTERS,
    **GAUGES,
    **RATES,
    **RATIOS,
    **FAULTS,
    **EJECTIONS,
    **LATENCIES,
    **RUNNING,
    **LATENCY_RATIOS,
    **SLOT_RULES,
}

# --- the files ---------------------------------------------------------------------------------


def scrape_config(fleet: FleetConfig, interval_seconds: int = SCRAPE_SECONDS) -> dict[str, Any]:
    """prometheus.yml: every gateway and every slot of every target, asked each so many seconds."""
    gateways = [
        {"targets": [_admin(target.gateway)], "labels": {"target": name}}
        for name, target in fleet.targets.items()
    ]
    slots = [
        {
            "targets": [_join(slot.host, slot.metrics_port)],
            "labels": {"target": name, "slot": slot_name},
        }
        for name, target in fleet.targets.items()
        for slot_name, slot in target.slots.items()
    ]
    interval = f"{interval_seconds}s"
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [RULES_FILE],
        "scrape_configs": [
            {
                "job_name": GATEWAYS,
                "metrics_path": "/stats/prometheus",
                "static_configs": gateways,
                "metric_relabel_configs": GATEWAY_LABELS,
            },
            {"job_name": SLOTS, "static_configs": slots, "metric_relabel_configs": SLOT_LABELS},
        ],
    }


def rules(fleet: FleetConfig) -> dict[str, Any]:
    """The rule file: one group that records the stable names, and one of alerts per target."""
    recorded = [{"record": name, "expr": text.strip()} for name, text in RECORDED.items()]
    alerts = [
        {"name": f"adire-{name}", "rules": [one.rule() for one in alerts_of(name, target.rollout)]}
        for name, target in fleet.targets.items()
    ]
    return {"groups": [{"name": "adire", "rules": recorded}, *alerts]}


def write(fleet: FleetConfig, folder: Path, interval_seconds: int = SCRAPE_SECONDS) -> list[Path]:
    """Write both files, each whole or not at all; their paths, prometheus.yml first.

    UserError when the folder cannot be written to.
    """
    contents = {
        # The rules first: prometheus.yml must not name a file that is not there.
        folder / RULES_FILE: _yaml(rules(fleet)),
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
    walk_tree(content)  # expressions of several lines as blocks
    yaml.dump(content, output)
    return HEADER.format(fleet_file_name()).encode() + output.getvalue()


def _admin(gateway: GatewayConfig) -> str:
    """Envoy's admin port: on loopback, wherever a local gateway listens for its clients."""
    host = gateway.host if gateway.launch == "remote" else "127.0.0.1"
    return _join(host, gateway.admin_port)


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
