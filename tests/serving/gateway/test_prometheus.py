"""What is written for Prometheus: read by promtool, held against a real Envoy and a real Triton."""

import json
import math
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from ruamel.yaml import YAML
from scipy.stats import binomtest

from adire_assets.config.fleet import FleetConfig, SlotConfig
from adire_assets.config.yaml_file import load
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.waiting import wait_until
from adire_assets.serving.fleet.triton import SERVER
from adire_assets.serving.gateway import prometheus
from adire_assets.serving.gateway.bootstrap import BUCKETS
from adire_assets.serving.gateway.protocol import SERVER_FAULTS
from tests.serving.gateway.test_gateway import MODEL, RunningGateway, running_gateway
from tests.support.ports import free_port
from tests.support.running_gateway import SOUND as BODY

ROOT = Path(__file__).parents[3]
PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")
HINT = "is not installed; Debian's package `prometheus` has it"
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason=f"promtool {HINT}")
needs_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason=f"prometheus {HINT}")
RULE_FILES = ["adire.limits.yml", "adire.rules.yml", "triton.rules.yml"]
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
    bounds = {f"{bound:g}": bound for bound in BUCKETS} | {"+Inf": float("inf")}
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
    for bound in BUCKETS:
        name = f'{ENVOY[:-8]}adire_unanswered_time_bucket{{{same}, le="{bound:g}"}}'
        found[name] = steady(count if after <= bound else 0)
    return found


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
    "hardly anything left to compare with": (
        LEAVING | release(2, {55: 6}, values=lambda each: f"_x30 0+{each}x50"),
        [],
    ),
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


def rules() -> list[dict[str, Any]]:
    """Those of the files of Prometheus."""
    files = [prometheus.RULES, SERVER.metric_rules]
    found = [YAML(typ="safe").load(path)["groups"] for path in files]
    return [rule for groups in found for group in groups for rule in group["rules"]]


def recorded() -> dict[str, str]:
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


def test_the_server_faults_are_those_that_a_rollout_counts() -> None:
    codes = "|".join(map(str, SERVER_FAULTS))
    assert f"_({codes})" in recorded()["release:adire_request_failures_total:sum"]


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


@needs_promtool
def test_recorded_series_have_the_stable_labels(tmp_path: Path):
    stable = {"target": "eu", "model": MODEL, "release": "2"}
    inside = stable | {"slot": "blue"}
    series = release(2, {22: 6}, codes={13: 1.5}) | {
        f"nv_inference_request_success{{{labels(**inside)}}}": steady(15),
        f'nv_inference_request_failure{{{labels(**inside)}, reason="BACKEND"}}': steady(0),
        f"nv_inference_request_duration_us{{{labels(**inside)}}}": steady(30_000_000),
    }
    wanted = [
        ("release:adire_requests:rate5m", stable, 0.4),
        ("release:adire_request_failures:ratio_rate5m", stable, 0.25),
        ("release:adire_request_seconds:p50_rate5m", stable, 0.0225),
        ("slot:adire_requests:rate5m", inside, 1),
        ("slot:adire_request_seconds:mean_rate5m", inside, 2),
    ]
    tests = [result(f"round({name}, 0.0001)", one, value=value) for name, one, value in wanted]
    expect(tmp_path, series, promql_expr_test=tests)


@needs_promtool
@pytest.mark.parametrize("fleet", [load(ROOT / "configs/fleet.yaml", FleetConfig), fleet_of("eu")])
def test_promtool_accepts_what_is_written(tmp_path: Path, fleet: FleetConfig):
    config, *files = prometheus.write(fleet, tmp_path / "made")
    promtool("check", "config", str(config))
    promtool("check", "rules", *map(str, files))


def test_every_gateway_and_every_slot_is_asked(tmp_path: Path):
    tls = {"certificate": "a", "private_key": "b"}
    gateway = {"host": "0.0.0.0", "tls": tls, "tokens": {"keys": "c"}}
    green = {"http_port": 8010, "grpc_port": 8011, "metrics_port": 8012}
    here = {"slots": {"blue": {"host": "::1"}, "green": green}, "gateway": gateway}
    fleet = FleetConfig.model_validate({"targets": {**fleet_of("eu").targets, "here": here}})
    config, *files = prometheus.write(fleet, tmp_path)
    assert {path.name for path in files} == {*RULE_FILES}
    assert {path.name for path in tmp_path.iterdir()} == {config.name, *RULE_FILES}
    with pytest.raises(UserError, match=r"below.*: Not a directory"):
        prometheus.write(fleet, config / "below")
    jobs = YAML(typ="safe").load(config)["scrape_configs"]
    asked = {
        (*one["targets"], one["labels"]["target"], one["labels"].get("slot"))
        for job in jobs
        for one in job["static_configs"]
    }
    assert asked == {
        ("gateway.eu:9901", "eu", None),
        ("blue.eu:8002", "eu", "blue"),
        ("green.eu:8002", "eu", "green"),
        ("127.0.0.1:9901", "here", None),
        ("[::1]:8002", "here", "blue"),
        ("127.0.0.1:8012", "here", "green"),
    }


SLOT_MODEL = """
import os, sys; sys.path.insert(0, os.environ["ADIRE_SITE_PACKAGES"])
class TritonPythonModel: ...
"""
SLOT_CONFIG = f'name: "{MODEL}" backend: "python" version_policy {{ all {{ }} }}'


@contextmanager
def process(command: list[str], log: Path, **more: Any) -> Iterator[Callable[[], bool]]:
    """Run a server for as long as the context lasts; yields whether it is alive."""
    with log.open("wb") as output:
        started = subprocess.Popen(command, stdout=output, stderr=output, **more)
    try:
        yield lambda: started.poll() is None
    finally:
        started.terminate()
        started.wait()


def page(address: str) -> str:
    """What a server on loopback answers, nothing while it does not."""
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{address}", None, 9) as found:
        return str(found.read().decode())
    return ""


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(tmp_path_factory.mktemp("gateway")) as made:
        made.publish({1: 50, 2: 50})
        yield made


@pytest.fixture(scope="module")
def slot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A real Triton with a model of a few lines as release 2; its port of metrics."""
    root, grpc_port, port = tmp_path_factory.mktemp("slot"), free_port(), free_port()
    version = root / "models" / MODEL / "2"
    version.mkdir(parents=True)
    (version / "model.py").write_text(SLOT_MODEL)
    (version.parent / "config.pbtxt").write_text(SLOT_CONFIG)
    project = Project(root, root / ".adire")
    config = SlotConfig(grpc_port=grpc_port, http_port=free_port(), metrics_port=port)
    command = SERVER.command(project, root, config, [MODEL])
    with process(command, root / "log", env=SERVER.environment("cpu", 1)) as alive:
        loaded = f'nv_inference_request_success{{model="{MODEL}",version="2"}}'
        assert wait_until(lambda: loaded in page(f"{port}/metrics"), 60, alive=alive), root / "log"
        yield port


def use(gate: RunningGateway) -> dict[tuple[str, str], float]:
    """Requests of every kind that is counted; how many of them each release got."""
    answers = [gate.ask() for _ in range(20)]
    gate.green.fault_share = 1.0
    for _ in range(3):
        with pytest.raises(grpc.RpcError):
            gate.ask(("x-model-release", "2"))
    gate.green.fault_share = 0.0
    gate.ask(("x-model-release", "2"))  # as five faults in a row have a slot ejected
    gate.http(INFER, BODY, x_model_release="1")
    return {(MODEL, "1"): answers.count(1) + 1, (MODEL, "2"): answers.count(2) + 4}


def test_the_rules_use_names_that_envoy_and_triton_expose(gate: RunningGateway, slot: int):
    use(gate)
    exposed = page(f"{gate.gateway.config.admin_port}/stats/prometheus") + page(f"{slot}/metrics")
    names = set(re.findall(r"^([a-zA-Z_:]\w*)[{ ]", exposed, re.MULTILINE))
    expressions = " ".join(recorded().values())
    named = r'__name__=~"(envoy_[^"]+)"'
    patterns = re.findall(named, expressions)
    used = set(re.findall(r"\b((?:envoy|nv)_\w+)(?=[{\[)])", re.sub(named, "", expressions)))
    assert len(used) >= 12 and not used - names
    for pattern in patterns:
        assert any(re.fullmatch(pattern, name) for name in names), pattern


@needs_prometheus
def test_prometheus_records_models_and_releases(tmp_path: Path, gate: RunningGateway, slot: int):
    down = {"http_port": free_port(), "grpc_port": free_port(), "metrics_port": free_port()}
    slots = {"blue": {"metrics_port": slot}, "green": down}
    target = {"slots": slots, "gateway": gate.gateway.config.model_dump()}
    fleet = FleetConfig.model_validate({"targets": {"eu": target}})
    config, *_ = prometheus.write(fleet, tmp_path, interval_seconds=1)
    port = free_port()
    command = [str(PROMETHEUS), f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}"]
    command.append(f"--storage.tsdb.path={tmp_path / 'data'}")
    with process(command, tmp_path / "log") as alive:
        assert wait_until(lambda: bool(page(f"{port}/-/ready")), 30, alive=alive)

        def api(path: str) -> Any:
            return json.loads(page(f"{port}/api/v1/{path}"))["data"]

        def values(query: str, *labels: str) -> dict[tuple[str, ...], float]:
            """The values of a query by these labels."""
            found = api(f"query?query={quote(query)}")["result"]
            return {
                tuple(one["metric"].get(label, "") for label in labels): float(one["value"][1])
                for one in found
            }

        def counted(metric: str) -> dict[tuple[str, ...], float]:
            query = f"sum by (model, release) (release:adire_{metric}_total:sum)"
            return values(query, "model", "release")

        # Before its first request, a release counts zero.
        assert wait_until(lambda: len(counted("requests")) == 3, 30)
        requests, failures = counted("requests"), counted("request_failures")
        more = use(gate)
        gate.green.stop()
        assert gate.http(INFER, BODY, x_model_release="2")[0] == 503
        gate.green.start()
        more[MODEL, "2"] += 1
        wanted = requests | {key: requests[key] + count for key, count in more.items()}
        assert wait_until(lambda: counted("requests") == wanted, 30), wanted
        failed = failures | {(MODEL, "2"): failures[MODEL, "2"] + 4}
        assert wait_until(lambda: counted("request_failures") == failed, 30), failed

        # A rate needs two scrapes of a counter, with requests between them.
        def seen() -> set[str]:
            use(gate)
            query = f'{{__name__=~".+:adire_.+", model="{MODEL}", release="2"}}'
            return {name for (name,) in values(query, "__name__")}

        # The other release may be the running one, and nothing asks the slot itself.
        unseen = re.compile("release:adire_running.*|slot:.*_seconds:.*")
        expected = {name for name in recorded() if not unseen.fullmatch(name)}
        assert wait_until(lambda: expected <= seen(), 60), expected - seen()
        executed = values("slot:adire_requests:rate5m", "target", "slot", "model", "release")
        assert executed.keys() == {("eu", "blue", MODEL, "2")}
        pinned = values('release:adire_requests_total:sum{release="2"}', "target", "pinned")
        assert pinned.keys() == {("eu", "false"), ("eu", "true")} and min(pinned.values()) > 0
        assert ("AdireSlotDown", "green") in values("ALERTS", "alertname", "slot")
        rules = [rule for group in api("rules")["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in rules} == {"ok"}, rules
