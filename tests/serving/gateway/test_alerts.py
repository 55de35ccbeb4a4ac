"""Alerts fire when a rollout would go back, and not else: read by promtool."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from adire_assets.serving.gateway.config import buckets
from tests.support.promtool import (
    ENVOY,
    FIRING,
    expect,
    fleet_of,
    labels,
    needs_promtool,
    release,
    result,
    rules,
    steady,
    streams,
)
from tests.support.running_gateway import MODEL


def alert(name: str, number: int = 2, quantile: str = "", target: str = "eu") -> dict[str, str]:
    found = {"alertname": name, "target": target, "model": MODEL, "release": str(number)}
    return found | ({"quantile": quantile} if quantile else {})


FAILS, SLOW, SLOWER = "AdireErrorRateAboveLimit", "AdireLatencyAboveLimit", "AdireCanarySlower"
FAIL, MEDIAN, TAIL = [alert(FAILS)], [alert(SLOWER, 2, "p50")], [alert(SLOWER, 2, "p99")]
SOUND = release(1, {22: 19})
COPIES = {key: value for key, value in release(2, {35: 6}).items() if "_time_" in key}
LEAVING = release(1, {22: 19}, values=lambda each: f"0+{each}x30 {30 * each}+{each / 50}x50")
LATE: Callable[[float], str] = lambda each: f"0x43 0+{each}x30"  # noqa: E731
AT_ONCE = {key: "_x50 30x30" for key in release(2, {}, codes={13: 0}) if "Infer_13" in key}


def given_up(after: float, count: float) -> dict[str, str]:
    """Requests of release 2 that were given up after so many milliseconds, per scrape."""
    same = labels(target="eu", model=MODEL, release="2", cluster=f"{MODEL}-2")
    found = {f"{ENVOY[:-8]}adire_unanswered_time_count{{{same}}}": steady(count)}
    for bound in buckets():
        name = f'{ENVOY[:-8]}adire_unanswered_time_bucket{{{same}, le="{bound:g}"}}'
        found[name] = steady(count if after <= bound else 0)
    return found


def refused(per_scrape: float) -> dict[str, str]:
    """Requests that the gateway refused because release 2 was answering as many as it may."""
    same = labels(target="eu", model=MODEL, release="2", protocol="grpc")
    return {f"{ENVOY}upstream_rq_pending_overflow{{{same}}}": steady(per_scrape)}


def memory(used: int, by: str) -> dict[str, str]:
    """A GPU of the slot blue with so many percent of its memory in use, by whose names. DCGM's
    exporter knows no slots."""
    slot = labels(target="eu", **({} if by == "DCGM" else {"slot": "blue"}))
    two = {
        "DCGM": ("DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE", 'gpu="0", Hostname="a"', 100 - used),
        "Triton": ("nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes", 'gpu_uuid="u"', 100),
        "engine": (
            "adire_gpu_memory_used_bytes",
            "adire_gpu_memory_total_bytes",
            'engine="e"',
            100,
        ),
    }
    first, second, own, rest = two[by]
    return {f"{first}{{{slot}, {own}}}": f"{used}x80", f"{second}{{{slot}, {own}}}": f"{rest}x80"}


QUEUE = [alert("AdireQueueLong")]
OF_THE_GPU = [{"alertname": "AdireGpuMemoryShort", "target": "eu"}]
MEMORY = [{**OF_THE_GPU[0], "slot": "blue"}]
ALL_FULL = memory(97, "Triton") | memory(97, "engine")
GATEWAY = 'up{job="adire-gateway", target="eu"}'
BLUE = 'up{job="adire-slot", target="eu", slot="blue"}'
GREEN = 'up{job="adire-slot", target="eu", slot="green"}'
GATEWAY_DOWN = {"alertname": "AdireGatewayDown", "target": "eu"}
SLOT_DOWN = {"alertname": "AdireSlotDown", "target": "eu", "slot": "green"}
CASES: dict[str, tuple[dict[str, str], list[dict[str, str]]]] = {
    "two sound releases": (SOUND | release(2, {22: 6}), []),
    "server faults": (SOUND | release(2, {22: 6}, codes={0: 4, 13: 2}), FAIL),
    "several kinds of faults": (release(2, {22: 10}, codes={2: 0.5, 4: 0.5, 15: 0.5}), FAIL),
    "faults that are there at once": (SOUND | release(2, {22: 3}) | AT_ONCE, FAIL),
    "clients' mistakes": (SOUND | release(2, {22: 6}, codes={3: 6, 5: 6, 1: 6}), []),
    "HTTP 5xx": (SOUND | release(2, {22: 3}, http={2: 3, 5: 3}), FAIL),
    "HTTP 4xx": (SOUND | release(2, {22: 3}, http={2: 3, 4: 3}), []),
    "what was asked again elsewhere": (SOUND | release(2, {22: 6}, retries=3), FAIL),
    "all of very few": (SOUND | release(2, {22: 0.4}, codes={13: 0.4}, values=LATE), []),
    "all of few for a while": (SOUND | release(2, {22: 0.4}, codes={13: 0.4}), FAIL),
    "requests that hang until they are given up": (
        SOUND | release(2, {22: 6}) | given_up(30_000, 0.2),
        [alert("AdireRequestsUnanswered")],
    ),
    "all that are asked hang": (
        SOUND | release(2, {22: 0}) | given_up(2400, 0.2),
        [alert("AdireRequestsUnanswered")],
    ),
    "clients that give up soon": (SOUND | release(2, {22: 6}) | given_up(900, 3), []),
    "one that hangs in a thousand": (release(2, {22: 150}) | given_up(30_000, 0.2), []),
    "a p99 of more than two seconds": (release(2, {22: 19, 2700: 1}), [alert(SLOW, 2, "p99")]),
    "a slow answer in a thousand": (release(2, {22: 19.98, 2700: 0.02}), []),
    "a p99 of too few": (release(2, {22: 3.8, 2700: 0.2}), []),
    "a slower canary": (SOUND | release(2, {35: 6}), MEDIAN + TAIL),
    "a slower canary of a lower number": (
        release(3, {22: 19}) | release(2, {35: 6}),
        MEDIAN + TAIL,
    ),
    "a canary whose tail is slower": (SOUND | release(2, {22: 5.8, 55: 0.2}), TAIL),
    "a canary that is slower on copies": (SOUND | COPIES, MEDIAN + TAIL),
    "a slower canary, too few for a p99": (SOUND | release(2, {35: 2}), MEDIAN),
    "a slightly slower canary": (SOUND | release(2, {28: 6}), []),
    "a faster canary": (release(1, {55: 19}) | release(2, {22: 6}), []),
    "a canary whose streams are as they were": (
        SOUND | release(2, {22: 6}) | streams(1, 22, 10, 19, 1) | streams(2, 22, 10, 6, 0.3),
        [],
    ),
    "a canary whose first token is slower": (
        SOUND | release(2, {22: 6}) | streams(1, 22, 10, 19) | streams(2, 55, 10, 6),
        [alert("AdireCanaryFirstTokenSlower")],
    ),
    "a canary whose tokens are slower": (
        SOUND | release(2, {22: 6}) | streams(1, 22, 10, 19) | streams(2, 22, 20, 6),
        [alert("AdireCanaryTokensSlower")],
    ),
    "a canary that is cut off": (
        SOUND | release(2, {22: 6}) | streams(1, 22, 10, 19, 1) | streams(2, 22, 10, 6, 2),
        [alert("AdireCanaryCutOff")],
    ),
    "a canary with very few streams": (
        SOUND | release(2, {22: 6}) | streams(1, 22, 10, 19) | streams(2, 90, 40, 0.4, 0.4),
        [],
    ),
    "hardly anything left to compare with": (
        LEAVING | release(2, {55: 6}, values=lambda each: f"_x30 0+{each}x50"),
        [],
    ),
    "more requests than a release can answer": (release(2, {22: 6}) | refused(0.6), QUEUE),
    "hardly more than it can": (release(2, {22: 60}) | refused(0.3), []),
    "one that was too much": (release(2, {22: 0.5}) | refused(0.05), []),
    "a GPU that is nearly full, by DCGM": (memory(97, "DCGM"), OF_THE_GPU),
    "the same GPU by Triton and by the engine": (ALL_FULL, MEMORY),
    "the same GPU by all": (ALL_FULL | memory(97, "DCGM"), OF_THE_GPU),
    "one with room by DCGM, which knows best": (ALL_FULL | memory(90, "DCGM"), []),
    "a GPU that is nearly full, by Triton": (memory(97, "Triton"), MEMORY),
    "a GPU that is nearly full, by the engine": (memory(97, "engine"), MEMORY),
    "a GPU with room": (memory(90, "DCGM") | memory(90, "Triton"), []),
    "an ejection": (SOUND | release(2, {22: 6}, ejected="0x50 1x30"), [alert("AdireSlotEjected")]),
    "an ejection long ago": (SOUND | release(2, {22: 6}, ejected="0x5 1x75"), []),
    "a gateway that is down": ({GATEWAY: "1x50 0x30", BLUE: "1x80"}, [GATEWAY_DOWN]),
    "a slot that is down": ({GATEWAY: "1x80", BLUE: "1x80", GREEN: "1x50 0x30"}, [SLOT_DOWN]),
    "a slot that is away for a moment": ({GATEWAY: "1x80", BLUE: "1x57 0x2 1x20"}, []),
}


@needs_promtool
@pytest.mark.parametrize("case", CASES)
def test_alerts_fire_when_a_rollout_would_go_back_and_not_else(tmp_path: Path, case: str):
    series, alerts = CASES[case]
    expect(tmp_path, series, promql_expr_test=[result(FIRING, *alerts)])


def test_every_alert_is_tried():
    tried = {one["alertname"] for _, fired in CASES.values() for one in fired}
    assert tried == {rule["alert"] for rule in rules() if "alert" in rule}


def chance(share: float, limit: float, answers: int) -> float:
    """At most, of so large a share of faults where the true one is the limit."""
    apart = share * math.log(share / limit) + (1 - share) * math.log((1 - share) / (1 - limit))
    return math.exp(-answers * apart)


@needs_promtool
def test_an_error_rate_counts_where_a_day_of_looks_would_hardly_show_it_by_chance(tmp_path: Path):
    looks = 2 * 24 * 240  # at both windows, every 15 seconds
    for failed in range(17, 22):  # of the 100 answers of five minutes
        fired = FAIL if looks * chance(failed / 100, 0.05, 100) <= 0.05 else []
        series = release(2, {22: 5}, codes={13: failed / 20})
        values = {name: text.replace("x80", "x20") for name, text in series.items()}
        query = {
            "expr": FIRING,
            "eval_time": "5m",
            "exp_samples": result(FIRING, *fired)["exp_samples"],
        }
        expect(tmp_path, values, promql_expr_test=[query])
    assert looks * chance(0.17, 0.05, 100) > 0.05 > looks * chance(0.21, 0.05, 100)
    assert binomtest(17, 100, 0.05, "greater").pvalue < chance(0.17, 0.05, 100)


@needs_promtool
def test_an_hour_shows_what_five_minutes_do_not(tmp_path: Path):
    """9 % of 100 answers in five minutes are chance, those of an hour are not; over is over."""
    series = release(2, {22: 5}, codes={13: 0.45}, values=lambda each: f"0+{each}x240")
    tests = [
        result(FIRING, *fired) | {"eval_time": time} for time, fired in (("9m", []), ("60m", FAIL))
    ]
    expect(tmp_path, series, promql_expr_test=tests)
    over = {
        name: "0+1x120 120+0x120" if "ModelInfer_13" in name else values
        for name, values in series.items()
    }
    tests = [
        result(FIRING, *fired) | {"eval_time": time} for time, fired in (("30m", FAIL), ("37m", []))
    ]
    expect(tmp_path, over, promql_expr_test=tests)


@needs_promtool
def test_each_target_has_its_own_limits(tmp_path: Path):
    fleet = fleet_of("us", "eu", error_rate_maximum=0.2, latency_maximum_seconds=5.0)
    bad: dict[str, Any] = {"latencies": {22: 19, 2700: 1}, "codes": {13: 2}}
    series = release(2, target="us", **bad) | release(2, target="eu", **bad)
    alerts = [alert(FAILS, target="us"), alert(SLOW, 2, "p99", target="us")]
    expect(tmp_path, series, fleet, promql_expr_test=[result(FIRING, *alerts)])


@needs_promtool
def test_an_alert_says_what_is_wrong_and_what_to_do(tmp_path: Path):
    summary = f"Release 2 of {MODEL} on eu fails 25% of its requests or leaves them to the other "
    summary += "slot, more than its `error_rate_maximum` allows."
    action = f"`adire status` shows what is live and what a rollout found; `adire rollback {MODEL} "
    action += '--reason "..."` goes back to the release before.'
    named = {"target": "eu", "model": MODEL, "release": "2", "severity": "critical"}
    fired = {"exp_labels": named, "exp_annotations": {"summary": summary, "action": action}}
    test = {"eval_time": "15m", "alertname": FAILS, "exp_alerts": [fired]}
    expect(tmp_path, release(2, {22: 8}, codes={13: 2}), alert_rule_test=[test])
