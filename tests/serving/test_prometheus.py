"""What is written for Prometheus: read by promtool, held against a real Envoy and a real Triton."""

import json
import re
import shutil
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from ruamel.yaml import YAML

from adire_assets.config import Project
from adire_assets.config_file import load
from adire_assets.fleet_config import FleetConfig
from adire_assets.serving import prometheus, triton
from adire_assets.serving.analysis import wilson
from adire_assets.serving.gateway_bootstrap import BUCKETS
from adire_assets.serving.triton import free_port, wait_until
from tests.serving.test_gateway import MODEL, Door, door

ROOT = Path(__file__).parents[2]
PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")
HINT = "is not installed; Debian's package `prometheus` has it"
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason=f"promtool {HINT}")
needs_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason=f"prometheus {HINT}")
SCRAPES = 80  # twenty minutes
FIRING = (
    "count by (alertname, target, slot, model, release, quantile)"
    ' (ALERTS{alertstate="firing", severity!=""})'
)


# --- promtool ----------------------------------------------------------------------------------


def fleet_of(*targets: str, **rollout: Any) -> FleetConfig:
    """Targets on other hosts; `rollout` holds for the last of them."""
    found: dict[str, Any] = {}
    for name in targets:
        slots = {
            slot: {"launch": "remote", "host": f"{slot}.{name}", "folder": f"/mnt/{name}/{slot}"}
            for slot in ("blue", "green")
        }
        gateway = {"launch": "remote", "host": f"gateway.{name}"}
        found[name] = {"slots": slots, "gateway": gateway}
    found[targets[-1]]["rollout"] = rollout
    return FleetConfig.model_validate({"targets": found})


def promtool(*words: str) -> None:
    assert PROMTOOL
    done = subprocess.run([PROMTOOL, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def expect(folder: Path, series: dict[str, str], fleet: FleetConfig | None = None, **tests) -> None:
    """`promtool test rules` on these series; `tests` are sections of its file."""
    prometheus.write(fleet or fleet_of("eu"), folder)
    content = {
        "rule_files": [prometheus.RULES_FILE],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [{"series": key, "values": value} for key, value in series.items()],
                **tests,
            }
        ],
    }
    (folder / "tests.yml").write_text(json.dumps(content))  # JSON is YAML
    promtool("test", "rules", str(folder / "tests.yml"))


def samples(query: str, *wanted: dict[str, str], value: float = 1, time: str = "15m") -> dict:
    labels = ["{" + ", ".join(f'{k}="{v}"' for k, v in one.items()) + "}" for one in wanted]
    exp_samples = [{"labels": one, "value": value} for one in labels]
    return {"expr": query, "eval_time": time, "exp_samples": exp_samples}


def steady(per_scrape: float, start: int = 0) -> str:
    return f"_x{start} 0+{per_scrape}x{SCRAPES - start}" if start else f"0+{per_scrape}x{SCRAPES}"


def release(
    number: int,
    latencies: dict[float, float],
    *,
    target: str = "eu",
    codes: dict[int, float] | None = None,
    http: dict[int, float] | None = None,
    retries: float = 0,
    ejections: str = f"0x{SCRAPES}",
    values: Callable[[float], str] = steady,
) -> dict[str, str]:
    """A release's series as they are after the scrape. `latencies`: ms -> requests per scrape;
    `codes` and `http`: those of them that end with a gRPC code, and HTTP requests by class."""
    same = f'target="{target}", model="{MODEL}", release="{number}"'
    envoy = "envoy_cluster_"
    grpc_labels = f'{same}, pinned="false", protocol="grpc"'
    http_labels = f'{same}, pinned="false", protocol="http"'
    total = sum(latencies.values())
    found = {
        f"{envoy}upstream_rq_completed{{{grpc_labels}}}": values(total),
        f'{envoy}upstream_rq_completed{{{same}, pinned="true", protocol="grpc"}}': values(0),
        f'{envoy}grpc_ModelInfer_total{{{grpc_labels}, bridge="x"}}': values(total),
        f"{envoy}upstream_rq_completed{{{http_labels}}}": values(sum((http or {}).values())),
        f"{envoy}upstream_rq_retry{{{grpc_labels}}}": values(retries),
        f"{envoy}outlier_detection_ejections_enforced_total{{{grpc_labels}}}": ejections,
    }
    for code, count in (codes or {}).items():
        found[f'{envoy}grpc_ModelInfer_{code}{{{grpc_labels}, bridge="x"}}'] = values(count)
    for kind, count in (http or {}).items():
        key = f'{envoy}upstream_rq_xx{{{http_labels}, envoy_response_code_class="{kind}"}}'
        found[key] = values(count)
    for bound in [*BUCKETS, float("inf")]:
        le = f"{bound:g}" if bound < float("inf") else "+Inf"
        within = sum(count for latency, count in latencies.items() if latency <= bound)
        found[f'{envoy}upstream_rq_time_bucket{{{grpc_labels}, le="{le}"}}'] = values(within)
    return found


def alert(name: str, number: int = 2, **labels: str) -> dict[str, str]:
    return {
        "alertname": name,
        "target": "eu",
        "model": MODEL,
        "release": str(number),
        **labels,
    }


FAILS, SLOW, SLOWER = "AdireErrorRateAboveLimit", "AdireLatencyAboveLimit", "AdireCanarySlower"
SOUND = release(1, {22: 19})
UP = 'up{{job="adire-{}", target="eu"{}}}'
TRAFFIC: dict[str, tuple[dict[str, str], list[dict[str, str]]]] = {
    "two sound releases": (SOUND | release(2, {22: 6}), []),
    "server faults": (SOUND | release(2, {22: 6}, codes={0: 4, 13: 2}), [alert(FAILS)]),
    "the live release's server faults": (release(2, {22: 6}, codes={14: 2}), [alert(FAILS)]),
    "several kinds of faults": (
        release(2, {22: 10}, codes={2: 0.5, 4: 0.5, 15: 0.5}),
        [alert(FAILS)],
    ),
    "clients' mistakes": (SOUND | release(2, {22: 6}, codes={3: 6, 5: 6, 1: 6}), []),
    "HTTP 5xx": (SOUND | release(2, {22: 3}, http={2: 3, 5: 3}), [alert(FAILS)]),
    "HTTP 4xx": (SOUND | release(2, {22: 3}, http={2: 3, 4: 3}), []),
    "what was asked again elsewhere": (SOUND | release(2, {22: 6}, retries=3), [alert(FAILS)]),
    "all of very few": (SOUND | release(2, {22: 0.4}, codes={13: 0.4}), []),
    "faults that are there at once": (
        SOUND
        | release(2, {22: 3})
        | {
            'envoy_cluster_grpc_ModelInfer_13{target="eu", model="cloth", release="2", '
            'pinned="false", protocol="grpc"}': "_x50 30x30"
        },
        [alert(FAILS)],
    ),
    "a p99 of more than two seconds": (
        release(1, {22: 19, 2700: 1}) | release(2, {22: 19, 2700: 1}),
        [alert(SLOW, 1, quantile="p99"), alert(SLOW, 2, quantile="p99")],
    ),
    "a slow answer in a thousand": (release(1, {22: 19.98, 2700: 0.02}), []),
    "a p99 of too few": (release(1, {22: 3.8, 2700: 0.2}), []),
    "a slower canary": (
        SOUND | release(2, {35: 6}),
        [alert(SLOWER, quantile="p50"), alert(SLOWER, quantile="p99")],
    ),
    "a slower canary of a lower number": (
        release(1, {35: 6}) | release(2, {22: 19}),
        [alert(SLOWER, 1, quantile="p50"), alert(SLOWER, 1, quantile="p99")],
    ),
    "a canary whose tail is slower": (
        SOUND | release(2, {22: 5.8, 55: 0.2}),
        [alert(SLOWER, quantile="p99")],
    ),
    "a slower canary, too few for a p99": (
        SOUND | release(2, {35: 2}),
        [alert(SLOWER, quantile="p50")],
    ),
    "a slightly slower canary": (SOUND | release(2, {28: 6}), []),
    "a faster canary": (release(1, {55: 19}) | release(2, {22: 6}), []),
    "a slower release after the other has left": (
        release(1, {22: 19}, values=lambda each: f"0+{each}x30 {30 * each}x{SCRAPES - 30}")
        | release(2, {55: 19}, values=lambda each: steady(each, start=30)),
        [],
    ),
    "an ejection": (
        SOUND | release(2, {22: 6}, ejections=f"0x50 1x{SCRAPES - 50}"),
        [alert("AdireSlotEjected")],
    ),
    "an ejection long ago": (SOUND | release(2, {22: 6}, ejections=f"0x5 1x{SCRAPES - 5}"), []),
    "everything up": (
        {UP.format("gateway", ""): f"1x{SCRAPES}", UP.format("slot", ', slot="blue"'): "1x80"},
        [],
    ),
    "a gateway that is down": (
        {UP.format("gateway", ""): "1x50 0x30"},
        [{"alertname": "AdireGatewayDown", "target": "eu"}],
    ),
    "a slot that is down": (
        {
            UP.format("slot", ', slot="blue"'): "1x80",
            UP.format("slot", ', slot="green"'): "1x50 0x30",
        },
        [{"alertname": "AdireSlotDown", "target": "eu", "slot": "green"}],
    ),
    "a slot that is away for a moment": (
        {UP.format("slot", ', slot="blue"'): "1x57 0x2 1x20"},
        [],
    ),
}


@needs_promtool
@pytest.mark.parametrize("case", TRAFFIC)
def test_alerts_fire_when_a_rollout_would_go_back_and_not_else(tmp_path: Path, case: str):
    series, alerts = TRAFFIC[case]
    expect(tmp_path, series, promql_expr_test=[samples(FIRING, *alerts)])


@needs_promtool
def test_every_alert_is_tried():
    tried = {one["alertname"] for _, alerts in TRAFFIC.values() for one in alerts}
    groups = prometheus.rules(fleet_of("eu"))["groups"]
    assert tried == {
        rule["alert"] for group in groups for rule in group["rules"][:] if "alert" in rule
    }


@needs_promtool
def test_the_error_rate_is_judged_as_the_rollout_judges_it(tmp_path: Path):
    outcomes = []
    for failed in range(7, 14):  # of the 100 answers of five minutes
        bad = wilson(failed, 100)[0] > 0.05
        folder = tmp_path / str(failed)
        series = release(2, {22: 5}, codes={13: failed / 20})
        expect(folder, series, promql_expr_test=[samples(FIRING, *[alert(FAILS)] * bad)])
        outcomes.append(bad)
    assert outcomes[0] is False and outcomes[-1] is True


@needs_promtool
def test_each_target_has_its_own_limits(tmp_path: Path):
    fleet = fleet_of("us", "eu", error_rate_maximum=0.01)
    series = {
        key: value
        for target in ("us", "eu")
        for key, value in release(2, {22: 20}, codes={13: 1}, target=target).items()
    }
    expect(tmp_path, series, fleet, promql_expr_test=[samples(FIRING, alert(FAILS))])


@needs_promtool
def test_an_alert_says_what_is_wrong_and_what_to_do(tmp_path: Path):
    expected = {
        "exp_labels": {
            "severity": "critical",
            "target": "eu",
            "model": MODEL,
            "release": "2",
        },
        "exp_annotations": {
            "summary": f"Release 2 of {MODEL} on eu fails 25% of its requests, more than the 5.0% "
            "that are allowed.",
            "action": "`adire status` shows what is live and what a rollout found; "
            f'`adire rollback {MODEL} --reason "..."` goes back to the release before.',
        },
    }
    test = {"eval_time": "15m", "alertname": FAILS, "exp_alerts": [expected]}
    expect(tmp_path, release(2, {22: 8}, codes={13: 2}), alert_rule_test=[test])


@needs_promtool
def test_recorded_series_have_the_stable_labels(tmp_path: Path):
    slot = 'target="eu", slot="blue", model="cloth", release="2"'
    series = release(2, {22: 6}, codes={13: 1.5}) | {
        f"nv_inference_request_success{{{slot}}}": steady(15),
        f'nv_inference_request_failure{{{slot}, reason="BACKEND"}}': steady(0),
        f"nv_inference_request_duration_us{{{slot}}}": steady(30_000_000),
    }
    labels = {"target": "eu", "model": "cloth", "release": "2"}
    slotted = {"target": "eu", "slot": "blue", "model": "cloth", "release": "2"}
    wanted = [
        ("release:adire_requests:rate5m", labels, 0.4),
        ("release:adire_request_failures:ratio_rate5m", labels, 0.25),
        ("release:adire_request_retries:rate5m", labels, 0),
        ("release:adire_request_seconds:p50_rate5m", labels, 0.0225),
        ("slot:adire_requests:rate5m", slotted, 1),
        ("slot:adire_request_seconds:mean_rate5m", slotted, 2),
    ]
    tests = []
    for name, found, value in wanted:
        # A product of floats is compared by its leading digits.
        query = f"round({name}, 0.0001)"
        tests.append(samples(query, found, value=value))
    expect(tmp_path, series, promql_expr_test=tests)


@needs_promtool
@pytest.mark.parametrize("source", ["configs/fleet.yaml", "two targets on other hosts"])
def test_promtool_accepts_what_is_written(tmp_path: Path, source: str):
    file = ROOT / source
    fleet = load(file, FleetConfig) if file.is_file() else fleet_of("eu", "us")
    config, rules = prometheus.write(fleet, tmp_path / "made")
    promtool("check", "config", str(config))
    promtool("check", "rules", str(rules))
    assert not list(tmp_path.glob("**/*.tmp"))


# --- without promtool --------------------------------------------------------------------------


def test_every_gateway_and_every_slot_is_asked(tmp_path: Path):
    config, _ = prometheus.write(fleet_of("eu", "us"), tmp_path)
    jobs = {one["job_name"]: one for one in YAML(typ="safe").load(config)["scrape_configs"]}
    asked = {
        (*one["targets"], one["labels"]["target"], one["labels"].get("slot"))
        for job in jobs.values()
        for one in job["static_configs"]
    }
    assert asked == {
        ("gateway.eu:9901", "eu", None),
        ("gateway.us:9901", "us", None),
        ("blue.eu:8002", "eu", "blue"),
        ("green.eu:8002", "eu", "green"),
        ("blue.us:8002", "us", "blue"),
        ("green.us:8002", "us", "green"),
    }
    assert jobs[prometheus.GATEWAYS]["metrics_path"] == "/stats/prometheus"


def test_a_local_gateway_is_asked_on_loopback():
    tls = {"certificate": "a", "private_key": "b"}
    gateway = {"host": "0.0.0.0", "tls": tls, "tokens": {"keys": "c"}}
    slots = {"blue": {"host": "::1"}, "green": {"http_port": 1, "grpc_port": 2, "metrics_port": 3}}
    slots["green"] = {"http_port": 8010, "grpc_port": 8011, "metrics_port": 8012}
    fleet = FleetConfig.model_validate({"targets": {"eu": {"slots": slots, "gateway": gateway}}})
    jobs = prometheus.scrape_config(fleet)["scrape_configs"]
    assert jobs[0]["static_configs"][0]["targets"] == ["127.0.0.1:9901"]
    assert jobs[1]["static_configs"][0]["targets"] == ["[::1]:8002"]


# --- the real servers --------------------------------------------------------------------------

ECHO = """
import os, sys
sys.path.insert(0, os.environ["ADIRE_SITE_PACKAGES"])
import triton_python_backend_utils as utils

class TritonPythonModel:
    def execute(self, requests):
        tensors = [utils.get_input_tensor_by_name(one, "x").as_numpy() for one in requests]
        return [utils.InferenceResponse([utils.Tensor("y", one)]) for one in tensors]
"""
ECHO_CONFIG = f"""
name: "{MODEL}"
backend: "python"
input [ {{ name: "x" data_type: TYPE_INT32 dims: [ 1 ] }} ]
output [ {{ name: "y" data_type: TYPE_INT32 dims: [ 1 ] }} ]
version_policy: {{ all {{ }} }}
"""


class Slot:
    """A real Triton whose model of a few lines is release 2."""

    def __init__(self, root: Path) -> None:
        self.port, self.metrics_port = free_port(), free_port()
        version = root / "slot" / "models" / MODEL / "2"
        version.mkdir(parents=True)
        (version / "model.py").write_text(ECHO)
        (version.parent / "config.pbtxt").write_text(ECHO_CONFIG)
        project = Project(root, root / ".adire")
        ports = {"grpc_port": self.port, "metrics_port": self.metrics_port}
        self.command = triton.command(project, root / "slot", **ports, load=[MODEL])
        self.log = root / "triton.log"

    @contextmanager
    def running(self) -> Iterator["Slot"]:
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                self.command, env=triton.environment("cpu"), stdout=log, stderr=log
            )
        self.client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{self.port}")
        try:
            assert wait_until(self.ready, 60, alive=lambda: process.poll() is None), self.log
            yield self
        finally:
            self.client.close()
            process.terminate()
            process.wait()

    def ready(self) -> bool:
        with suppress(tritonclient.grpc.InferenceServerException):
            return bool(self.client.is_model_ready(MODEL))
        return False

    def ask(self) -> None:
        tensor = tritonclient.grpc.InferInput("x", [1], "INT32")
        tensor.set_data_from_numpy(np.array([1], np.int32))
        self.client.infer(MODEL, [tensor])


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with door(tmp_path_factory.mktemp("door")) as made:
        made.publish({1: 50, 2: 50})
        yield made


@pytest.fixture(scope="module")
def slot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slot]:
    with Slot(tmp_path_factory.mktemp("slot")).running() as made:
        yield made


def http(address: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{address}", timeout=10) as answer:
        return str(answer.read().decode())


def use(gate: Door, slot: Slot) -> Counter:
    """Requests of every kind that is counted; how many gRPC requests each release got."""
    answers: Counter = Counter(gate.ask() for _ in range(20))
    gate.green.fault_share = 1.0
    for _ in range(5):
        with pytest.raises(grpc.RpcError):
            gate.ask(("x-model-release", "2"))
        answers[2] += 1
    gate.green.fault_share = 0.0
    slot.ask()
    return answers


def names_in(text: str) -> set[str]:
    return set(re.findall(r"^([a-zA-Z_:]\w*)(?:\{| )", text, re.MULTILINE))


def test_the_rules_use_names_that_envoy_and_triton_expose(gate: Door, slot: Slot):
    use(gate, slot)
    gate.http(f"/v2/models/{MODEL}/infer", b"{}", x_model_release="1")
    exposed = names_in(http(f"{gate.gateway.config.admin_port}/stats/prometheus"))
    exposed |= names_in(http(f"{slot.metrics_port}/metrics"))
    expressions = " ".join(prometheus.RECORDED.values())
    used = set(re.findall(r"\b((?:envoy|nv)_\w+)(?=[{\[)])", expressions))
    patterns = set(re.findall(r'__name__=~"(envoy_[^"]+)"', expressions))
    assert len(used) >= 12 and len(patterns) == 1
    assert not used - exposed
    assert all(any(re.fullmatch(one, name) for name in exposed) for one in patterns)


@contextmanager
def running_prometheus(config: Path, folder: Path) -> Iterator[Callable[[str], Any]]:
    """Prometheus on loopback; yields what asks its API for the data of a path."""
    port = free_port()
    options = {
        "config.file": config,
        "storage.tsdb.path": folder / "data",
        "web.listen-address": f"127.0.0.1:{port}",
        "log.level": "warn",
    }
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [str(PROMETHEUS), *(f"--{key}={value}" for key, value in options.items())],
            stdout=log,
            stderr=log,
        )

    def ready() -> bool:
        with suppress(OSError):
            return bool(http(f"{port}/-/ready"))
        return False

    try:
        assert wait_until(ready, 30, alive=lambda: process.poll() is None)
        yield lambda path: json.loads(http(f"{port}/api/v1/{path}"))["data"]
    finally:
        process.terminate()
        process.wait()


@needs_prometheus
def test_prometheus_records_models_and_releases(tmp_path: Path, gate: Door, slot: Slot):
    ports = {"metrics_port": slot.metrics_port}
    down = {"http_port": free_port(), "grpc_port": free_port(), "metrics_port": free_port()}
    target = {"slots": {"blue": ports, "green": down}, "gateway": gate.gateway.config.model_dump()}
    fleet = FleetConfig.model_validate({"targets": {"eu": target}})
    config, _ = prometheus.write(fleet, tmp_path, interval_seconds=1)
    with running_prometheus(config, tmp_path) as api:

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

        def before() -> bool:
            return {(MODEL, "1"), (MODEL, "2")} <= counted("requests").keys()

        assert wait_until(before, 30)
        requests, failures = counted("requests"), counted("request_failures")
        answers = use(gate, slot)
        gate.green.stop()
        with suppress(ValueError):
            assert gate.http(f"/v2/models/{MODEL}/infer", b"{}", x_model_release="2")[0] == 503
        gate.green.start()
        wanted = {
            (MODEL, "1"): requests[MODEL, "1"] + answers[1],
            (MODEL, "2"): requests[MODEL, "2"] + answers[2] + 1,
        }

        def all_counted() -> bool:
            now = counted("requests")
            return {key: now[key] for key in wanted} == wanted

        assert wait_until(all_counted, 30), (counted("requests"), wanted)
        assert counted("request_failures")[MODEL, "2"] == failures[MODEL, "2"] + 6

        # A rate needs two scrapes, and what is exposed from its first request on two more requests.
        def recorded() -> set[str]:
            use(gate, slot)
            query = f'{{__name__=~".+:adire_.+", model="{MODEL}", release="2"}}'
            return {name for (name,) in values(query, "__name__")}

        unseen = {"release:adire_running_requests:increase1h"}  # the other release may have more
        expected = prometheus.RECORDED.keys() - unseen
        assert wait_until(lambda: expected <= recorded(), 60), expected - recorded()
        slots = values("slot:adire_requests:rate5m", "target", "slot", "model", "release")
        assert slots.keys() == {("eu", "blue", MODEL, "2")}
        pinned = values('release:adire_requests_total:sum{release="2"}', "target", "pinned")
        assert pinned.keys() == {("eu", "false"), ("eu", "true")} and min(pinned.values()) > 0
        up = values("up", "job", "target", "slot")
        assert up == {
            ("adire-gateway", "eu", ""): 1,
            ("adire-slot", "eu", "blue"): 1,
            ("adire-slot", "eu", "green"): 0,
        }
        rules = [rule for group in api("rules")["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in rules} == {"ok"}, rules
        alerts = values("ALERTS", "alertname", "slot")
        assert ("AdireSlotDown", "green") in alerts
