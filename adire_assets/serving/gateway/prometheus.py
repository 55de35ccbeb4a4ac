"""What Prometheus is told: whom to ask for metrics, under which names to keep them, when to alert.

`scrape_config` and `rules` are pure functions of configs/fleet.yaml; `write` puts both into a
folder that `prometheus --config.file` starts from. A scrape brings Envoy's and Triton's labels to
`target`, `slot`, `model` and `release`; recording rules give what matters a name of its own
(level:metric:operation), so that dashboards and alerts outlive a change of Envoy or Triton. The
alerts are what sends a canary back, with each target's limits. docs/metrics.md lists both.
"""

import math
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import walk_tree

from adire_assets.config.fleet import (
    FleetConfig,
    GatewayConfig,
    RolloutConfig,
    fleet_file_name,
)
from adire_assets.core.errors import UserError
from adire_assets.core.store import write_bytes
from adire_assets.serving.gateway.bootstrap import BUCKETS
from adire_assets.serving.gateway.traffic import SERVER_FAULTS

GATEWAYS, SLOTS = "adire-gateway", "adire-slot"  # the names of the scrape jobs
SCRAPE_SECONDS = 15
WINDOW_SECONDS = 300  # the 5m in the names below
TAILS = {"p50": 0.5, "p99": 0.01}  # the share of the answers that may be slower
# A share of errors is looked at in these windows, anew at each scrape. Where the true share is the
# limit, a day's looks at both raise an alarm with this chance at most, though they overlap.
ERROR_WINDOWS = {"5m": WINDOW_SECONDS, "1h": 3600}
RATE_A_DAY = 0.05
MINIMUM_ANSWERS = 10  # in a window
UNANSWERED_AT_LEAST = 2
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
RELEASE = "target, model, release"
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


# --- alerts ------------------------------------------------------------------------------------

A_RELEASE = "Release {{ $labels.release }} of {{ $labels.model }} on {{ $labels.target }}"
GO_BACK = (
    "`adire status` shows what is live and what a rollout found; "
    '`adire rollback {{ $labels.model }} --reason "..."` goes back to the release before.'
)
LOOK = "`adire status` shows how the processes are; `adire up` starts what is to run on this host."


@dataclass(frozen=True)
class Alert:
    """`seconds`: for how long `expression` has to hold. `labels` are added to those of its series.

    `summary` and `action` are Prometheus' templates, sentences for a person.
    """

    name: str
    expression: str
    seconds: int
    severity: str
    summary: str
    action: str
    labels: tuple[tuple[str, str], ...] = ()

    def rule(self) -> dict[str, Any]:
        return {
            "alert": self.name,
            "expr": self.expression.strip(),
            "for": f"{self.seconds}s",
            "labels": {"severity": self.severity, **dict(self.labels)},
            "annotations": {"summary": self.summary, "action": self.action},
        }


def _alerts(target: str, rollout: RolloutConfig) -> list[Alert]:
    """What sends a canary back, with this target's limits, and what is down.

    A quantile counts when the window has at least one answer in its tail.
    """
    of, limit = f'{{target="{target}"}}', rollout.error_rate_maximum
    answers = f"{WINDOW_SECONDS} * release:adire_requests:rate5m{of}"
    bound = next(one for one in BUCKETS if one >= rollout.latency_maximum_seconds * 1000)
    unanswered = f"""
sum by ({RELEASE}) (increase(envoy_adire_unanswered_time_count{of}[5m]))
- sum by ({RELEASE}) (
  increase(envoy_adire_unanswered_time_bucket{{target="{target}", le="{bound:g}"}}[5m])
)"""
    timed = f"{WINDOW_SECONDS} * release:adire_request_seconds:count_rate5m{of}"
    enough = {name: _enough(tail) for name, tail in TAILS.items()}
    maximum, increase = rollout.latency_maximum_seconds, rollout.latency_increase_maximum
    return [
        Alert(
            "AdireErrorRateAboveLimit",
            "\nor\n".join(
                _beyond_doubt(window, seconds, limit, of)
                for window, seconds in ERROR_WINDOWS.items()
            ),
            0,
            "critical",
            f"{A_RELEASE} fails {{{{ $value | humanizePercentage }}}} of its requests or "
            f"leaves them to the other slot, more than the {limit:.1%} that are allowed.",
            GO_BACK,
        ),
        Alert(
            "AdireRequestsUnanswered",
            f"""
({unanswered}
) >= {UNANSWERED_AT_LEAST}
> {TAILS["p99"]:g} * ({answers})""",
            0,
            "critical",
            f"{A_RELEASE} left {{{{ $value | humanize }}}} requests of the last five minutes "
            f"unanswered for longer than {maximum:g} s, until they were given up.",
            GO_BACK,
        ),
        Alert(
            "AdireLatencyAboveLimit",
            f"""
release:adire_request_seconds:p99_rate5m{of} > {maximum:g}
and {timed} >= {enough["p99"]}""",
            60,
            "critical",
            f"{A_RELEASE} has a p99 of {{{{ $value | humanizeDuration }}}}, "
            f"above the {maximum:g} s that are allowed.",
            GO_BACK,
            (("quantile", "p99"),),
        ),
        *(
            Alert(
                "AdireCanarySlower",
                f"""
release:adire_request_seconds:{name}_ratio5m{of} > {1 + (increase or 0):g}
and {timed} >= {enough[name]}
and on (target, model) (
  {timed} >= {MINIMUM_ANSWERS}
  and release:adire_running_requests:increase1h
)""",
                60,
                "critical",
                f'{A_RELEASE} has a {name} of {{{{ $value | printf "%.2f" }}}} times that of the '
                f"running release, more than the {1 + (increase or 0):g} times that are allowed.",
                GO_BACK,
                (("quantile", name),),
            )
            for name in (() if increase is None else TAILS)
        ),
        Alert(
            "AdireSlotEjected",
            f"release:adire_slot_ejections:increase5m{of} > 0",
            0,
            "critical",
            f"{A_RELEASE}: the gateway took its slot out of use within the last five minutes.",
            GO_BACK,
        ),
        Alert(
            "AdireGatewayDown",
            f'up{{job="{GATEWAYS}", target="{target}"}} == 0',
            60,
            "critical",
            "The gateway of {{ $labels.target }} does not answer at {{ $labels.instance }}.",
            LOOK,
        ),
        Alert(
            "AdireSlotDown",
            f'up{{job="{SLOTS}", target="{target}"}} == 0',
            60,
            "warning",
            "Slot {{ $labels.slot }} of {{ $labels.target }} does not answer at "
            "{{ $labels.instance }}; the other slot answers in its place.",
            LOOK,
        ),
    ]


def evidence_needed(interval_seconds: float = SCRAPE_SECONDS) -> float:
    """What answers times the divergence of their share from the limit must reach: the logarithm of
    how many looks there are in a day, over `RATE_A_DAY` (union bound)."""
    looks = 86_400 / interval_seconds * len(ERROR_WINDOWS)
    return math.log(looks / RATE_A_DAY)


def _beyond_doubt(window: str, seconds: int, limit: float, of: str) -> str:
    """The share of faults in a window, where it shows the true one to be above the limit.

    Of n answers, a share of s or more has the chance exp(-n KL(s, limit)) at most (Chernoff 1952;
    Hoeffding 1963, theorem 1), with KL the divergence of Bernoulli distributions, and exactly, not
    for large n alone. What was long ago and is over is no alarm.
    """
    share = f"release:adire_request_faults:ratio_rate{window}{of}"
    answers = f"{seconds} * release:adire_requests:rate{window}{of}"
    return f"""(
  {share} > {limit:g}
  and ({answers}) * (
    {share} * ln({share} / {limit:g})
    + (1 - {share}) * ln(clamp_min(1 - {share}, 1e-9) / {1 - limit:g})
  ) >= {evidence_needed():.2f}
  and {answers} >= {MINIMUM_ANSWERS}
  and release:adire_request_faults:ratio_rate5m{of} > {limit:g}
)"""


def _enough(tail: float) -> int:
    """How many answers a quantile needs: the minimum, and one in its tail."""
    return max(MINIMUM_ANSWERS, round(1 / tail))


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
        {"name": f"adire-{name}", "rules": [one.rule() for one in _alerts(name, target.rollout)]}
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
