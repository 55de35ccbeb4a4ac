"""What is written for Prometheus: read by promtool, held against a real Envoy and a real Triton."""

import json
import re
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

from adire_assets.config.fleet import FleetConfig, SlotConfig
from adire_assets.config.yaml_file import load
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.waiting import wait_until
from adire_assets.serving.fleet import guard, metrics_page
from adire_assets.serving.fleet.triton import SERVER
from adire_assets.serving.gateway import prometheus
from adire_assets.serving.gateway.protocol import SERVER_FAULTS
from tests.support.ports import free_port
from tests.support.promtool import (
    INFER,
    PROMETHEUS,
    ROOT,
    RULE_FILES,
    SHOWN,
    expect,
    fleet_of,
    labels,
    needs_prometheus,
    needs_promtool,
    promtool,
    recorded,
    release,
    result,
    steady,
)
from tests.support.running_gateway import MODEL, RunningGateway, running_gateway
from tests.support.running_gateway import SOUND as BODY


def test_the_server_faults_are_those_that_a_rollout_counts() -> None:
    codes = "|".join(map(str, SERVER_FAULTS))
    assert f"_({codes})" in recorded()["release:adire_request_failures_total:sum"]


@needs_promtool
def test_recorded_series_have_the_stable_labels(tmp_path: Path):
    stable = {"target": "eu", "model": MODEL, "release": "2"}
    inside = stable | {"slot": "blue"}
    series = release(2, {22: 6}, codes={13: 1.5}) | {
        f"nv_inference_request_success{{{labels(**inside)}}}": steady(15),
        f'nv_inference_request_failure{{{labels(**inside)}, reason="BACKEND"}}': steady(0),
        f"nv_inference_request_duration_us{{{labels(**inside)}}}": steady(30_000_000),
    }
    engine = {"target": "eu", "slot": "blue"}
    for base, steps, passes, seconds in (("a", 1500, 187.5, 9), ("b", 900, 112.5, 3)):
        of_one = labels(**engine, engine=base)
        series |= {
            f"adire_images_waiting{{{of_one}}}": "7x80",
            f"adire_adapters_held{{{of_one}}}": "2x80",
            f"adire_image_steps_total{{{of_one}}}": steady(steps),
            f"adire_passes_total{{{of_one}}}": steady(passes),
            f"adire_engine_seconds_total{{{of_one}}}": steady(seconds),
        }
    wanted = [
        ("release:adire_requests:rate5m", stable, 0.4),
        ("release:adire_request_failures:ratio_rate5m", stable, 0.25),
        ("release:adire_request_seconds:p50_rate5m", stable, 0.0225),
        ("slot:adire_requests:rate5m", inside, 1),
        ("slot:adire_request_seconds:mean_rate5m", inside, 2),
        ("slot:adire_images_waiting:sum", engine, 14),
        ("slot:adire_adapters_held:sum", engine, 4),
        ("slot:adire_images_per_pass:mean_rate5m", engine, 8),
        ("slot:adire_engine_busy:ratio_rate5m", engine, 0.8),
    ]
    tests = [result(f"round({name}, 0.0001)", one, value=value) for name, one, value in wanted]
    expect(tmp_path, series, promql_expr_test=tests)


@needs_promtool
def test_what_a_full_release_refuses_over_http_is_no_failure(tmp_path: Path):
    of = {"target": "eu", "model": MODEL, "release": "2"}
    http = labels(**of, protocol="http")
    series = {
        f"envoy_cluster_upstream_rq_completed{{{http}}}": steady(30),
        f'envoy_cluster_upstream_rq_xx{{{http}, envoy_response_code_class="5"}}': steady(21),
        f"envoy_cluster_upstream_rq_pending_overflow{{{http}}}": steady(15),
    }
    wanted = [("requests_refused:rate5m", 1), ("request_failures:ratio_rate5m", 0.4)]
    tests = [
        result(f"round(release:adire_{name}, 0.001)", of, value=value) for name, value in wanted
    ]
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
    there = fleet_of("eu").targets["eu"].model_copy(update={"gpu_metrics": ["dcgm.eu:9400"]})
    fleet = FleetConfig.model_validate({"targets": {"eu": there, "here": here}})
    config, *files = prometheus.write(fleet, tmp_path)
    assert {path.name for path in files} == {*RULE_FILES}
    assert {path.name for path in tmp_path.iterdir()} == {config.name, *RULE_FILES}
    with pytest.raises(UserError, match=r"below.*: Not a directory"):
        prometheus.write(fleet, config / "below")
    jobs = YAML(typ="safe").load(config)["scrape_configs"]
    asked = {
        (*one["targets"], *(one.get("labels", {}).get(name) for name in ("target", "slot")))
        for job in jobs
        for one in job["static_configs"]
    }
    assert asked == {
        ("127.0.0.1:3001", None, None),
        ("dcgm.eu:9400", "eu", None),
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
    """A real Triton with a model of a few lines as release 2; the port of its slot's metrics."""
    root, grpc_port, port = tmp_path_factory.mktemp("slot"), free_port(), free_port()
    version = root / "models" / MODEL / "2"
    version.mkdir(parents=True)
    (version / "model.py").write_text(SLOT_MODEL)
    (version.parent / "config.pbtxt").write_text(SLOT_CONFIG)
    project = Project(root, root / ".adire")
    config = SlotConfig(grpc_port=grpc_port, http_port=free_port(), metrics_port=port)
    command = SERVER.command(project, root, config, [MODEL])
    metrics_page.serve(port, SERVER.own_metrics(config) or "", guard.mark(root))
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
    streamed = {name for name in used if re.match(SHOWN, name)}  # see test_answers.py
    of_gpus = {name for name in used if name.startswith("nv_gpu_")}  # there is none
    assert len(used - streamed - of_gpus) >= 12 and not used - streamed - of_gpus - names
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

        # The other release may be the running one, nothing asks the slot itself, nor for a stream.
        unseen = re.compile(
            "release:adire_(running|first_token|inter_token|answers_|made|busy).*|slot:.*_seconds:.*"
            "|slot:adire_(images|adapters|engine|batch|gpu)_.*"  # see test_boards.py
        )
        expected = {name for name in recorded() if not unseen.fullmatch(name)}
        assert wait_until(lambda: expected <= seen(), 60), expected - seen()
        executed = values("slot:adire_requests:rate5m", "target", "slot", "model", "release")
        assert executed.keys() == {("eu", "blue", MODEL, "2")}
        pinned = values('release:adire_requests_total:sum{release="2"}', "target", "pinned")
        assert pinned.keys() == {("eu", "false"), ("eu", "true")} and min(pinned.values()) > 0
        assert ("AdireSlotDown", "green") in values("ALERTS", "alertname", "slot")
        rules = [rule for group in api("rules")["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in rules} == {"ok"}, rules
