"""promtool on the rules that are written for Prometheus, and made-up series of a release."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from adire_assets.config.fleet import FleetConfig
from adire_assets.serving.fleet.triton import SERVER
from adire_assets.serving.gateway import prometheus
from adire_assets.serving.gateway.config import buckets
from tests.support.running_gateway import MODEL

ROOT = Path(__file__).parents[2]
PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")
HINT = "is not installed; Debian's package `prometheus` has it"
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason=f"promtool {HINT}")
needs_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason=f"prometheus {HINT}")
RULE_FILES = ["adire.limits.yml", "adire.rules.yml", "triton.rules.yml"]
GROUPS = ["adire-limits", "adire-triton", "adire", "adire-alerts"]
# What only the answers of streams have Envoy count.
SHOWN = "envoy_adire_(first_token|inter_token|ended|cut_off)_"
ENVOY, INFER = "envoy_cluster_", f"/v2/models/{MODEL}/infer"
FIRING = 'count by (alertname,target,slot,model,release,quantile) (ALERTS{alertstate="firing"})'


def fleet_of(*targets: str, **rollout: Any) -> FleetConfig:
    """Targets on other hosts; `rollout` holds for the last of them."""
    found: dict[str, Any] = {}
    for name in targets:
        slots = {
            slot: {"launch": "remote", "host": f"{slot}.{name}", "folder": f"/mnt/{name}/{slot}"}
            for slot in ("blue", "green")
        }
        found[name] = {"slots": slots, "gateway": {"launch": "remote", "host": f"gateway.{name}"}}
    found[targets[-1]]["rollout"] = rollout
    return FleetConfig.model_validate({"targets": found})


def promtool(*words: str) -> None:
    done = subprocess.run([str(PROMTOOL), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def expect(folder: Path, series: dict[str, str], fleet: FleetConfig | None = None, **tests) -> None:
    """`promtool test rules` on these series; `tests` are sections of its file."""
    prometheus.write(fleet or fleet_of("eu"), folder)
    given = [{"series": name, "values": values} for name, values in series.items()]
    content = {
        "rule_files": RULE_FILES,
        # Else promtool takes them in any order, and alerts may see the records of the round before.
        "group_eval_order": GROUPS,
        "evaluation_interval": "15s",
        "tests": [{"interval": "15s", "input_series": given, **tests}],
    }
    (folder / "tests.yml").write_text(json.dumps(content))  # JSON is YAML
    promtool("test", "rules", str(folder / "tests.yml"))


def result(query: str, *found: dict[str, str], value: float = 1) -> dict[str, Any]:
    """What a query gives after a quarter of an hour."""
    samples = [{"labels": f"{{{labels(**one)}}}", "value": value} for one in found]
    return {"expr": query, "eval_time": "15m", "exp_samples": samples}


def labels(**values: str) -> str:
    return ", ".join(f'{name}="{value}"' for name, value in values.items())


def steady(per_scrape: float) -> str:
    """A counter that rises by as much every 15 s, for twenty minutes."""
    return f"0+{per_scrape}x80"


def release(
    number: int,
    latencies: dict[float, float],
    *,
    target: str = "eu",
    codes: dict[int, float] | None = None,
    http: dict[int, float] | None = None,
    retries: float = 0,
    ejected: str = "0x80",
    values: Callable[[float], str] = steady,
) -> dict[str, str]:
    """A release's series as a scrape leaves them. `latencies`: ms -> gRPC requests per scrape;
    `codes`: those of them that end so; `http`: HTTP requests by the class of their status."""
    codes, http, total = codes or {}, http or {}, sum(latencies.values())
    same = {"target": target, "model": MODEL, "release": str(number)}
    asked, pinned, other = (
        labels(**same, pinned=pinned, protocol=protocol)
        for pinned, protocol in (("false", "grpc"), ("true", "grpc"), ("false", "http"))
    )
    bounds = {f"{bound:g}": bound for bound in buckets()} | {"+Inf": float("inf")}
    counts = {
        f"upstream_rq_completed{{{asked}}}": total,
        f"upstream_rq_completed{{{pinned}}}": 0,
        f"upstream_rq_completed{{{other}}}": sum(http.values()),
        f'grpc_ModelInfer_total{{{asked}, bridge="x"}}': total,
        f"upstream_rq_retry{{{asked}}}": retries,
        f"upstream_rq_time_count{{{asked}}}": total,
    }
    for code, count in codes.items():
        counts[f'grpc_ModelInfer_{code}{{{asked}, bridge="x"}}'] = count
    for kind, count in http.items():
        counts[f'upstream_rq_xx{{{other}, envoy_response_code_class="{kind}"}}'] = count
    for le, bound in bounds.items():
        within = sum(count for latency, count in latencies.items() if latency <= bound)
        counts[f'upstream_rq_time_bucket{{{asked}, le="{le}"}}'] = within
    found = {ENVOY + name: values(count) for name, count in counts.items()}
    return found | {f"{ENVOY}outlier_detection_ejections_enforced_total{{{asked}}}": ejected}


def streams(
    number: int, first: float, between: float, count: float, cut_off: float = 0.0
) -> dict[str, str]:
    """What the answers of a release show: so many each scrape, whose times in ms are these."""
    same = labels(target="eu", model=MODEL, release=str(number), cluster=f"{MODEL}-{number}-x")
    found = {
        f"envoy_adire_ended_answers{{{same}}}": steady(count),
        f"envoy_adire_cut_off_answers{{{same}}}": steady(cut_off),
    }
    for name, took, units in (("first_token", first, 1), ("inter_token", between, 1000)):
        found[f"envoy_adire_{name}_time_count{{{same}}}"] = steady(count)
        for bound in (*buckets(), float("inf")):
            le = "+Inf" if bound == float("inf") else f"{bound * units:g}"
            within = steady(count if took <= bound else 0)
            found[f'envoy_adire_{name}_time_bucket{{{same}, le="{le}"}}'] = within
    return found


def rules() -> list[dict[str, Any]]:
    """Those of the files of Prometheus."""
    files = [prometheus.RULES, SERVER.metric_rules]
    found = [YAML(typ="safe").load(path)["groups"] for path in files]
    return [rule for groups in found for group in groups for rule in group["rules"]]


def recorded() -> dict[str, str]:
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
