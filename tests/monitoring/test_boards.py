"""Grafana's boards: what each panel asks is answered by a real Prometheus, of real pages.

`scrapes/` has pages of a gateway, of slots and of a studio as they were while a test's releases
answered: two of each (see `tests.support.scraped`). GPUs are as DCGM's exporter describes them.
"""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from ruamel.yaml import YAML

from adire_assets.config.fleet import FleetConfig
from adire_assets.core.errors import UserError
from adire_assets.core.waiting import wait_until
from adire_assets.monitoring import boards
from adire_assets.serving.gateway import prometheus
from tests.support.ports import free_port
from tests.support.promtool import PROMETHEUS, needs_prometheus
from tests.support.scraped import Page, served

SCRAPES = Path(__file__).with_name("scrapes")
BOARDS = {path.stem: json.loads(path.read_text()) for path in boards.board_files()}
QUERIES = [
    pytest.param(target["expr"], id=f"{name}: {panel['title']} {target['refId']}")
    for name, board in BOARDS.items()
    for panel in board["panels"]
    for target in panel["targets"]
]
GPU = """\
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-1",device="nvidia0",modelName="NVIDIA H200",Hostname="a"} 61
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-1",device="nvidia0",modelName="NVIDIA H200",Hostname="a"} 9821
DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-1",device="nvidia0",modelName="NVIDIA H200",Hostname="a"} 4100
"""
# What a house with made-up judges has not.
EVALUATED = """\
adire_evaluation_score{model="cloth",release="2",metric="clip_s"} 1.41
adire_evaluation_base_score{model="cloth",release="2",metric="clip_s"} 0.93
adire_training_result{model="cloth",result="loss"} 0.12
"""


def test_boards_are_whole_and_each_has_a_name_of_its_own() -> None:
    assert set(BOARDS) == {"service", "rollout", "quality", "costs", "training"}
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS)
    for board in BOARDS.values():
        assert board["schemaVersion"] >= 39 and board["panels"] and board["title"]
        panels = board["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        places = [tuple(panel["gridPos"].values()) for panel in panels]
        assert len(set(places)) == len(places)
        assert len({panel["title"] for panel in panels}) == len(panels)
        for panel in panels:
            assert panel["datasource"]["uid"] == "${datasource}" and panel["targets"]
            assert all(one["legendFormat"] and one["expr"] for one in panel["targets"])


def test_the_boards_are_written_with_what_shows_them(tmp_path: Path) -> None:
    written = boards.write(tmp_path, "http://prometheus:9090")
    assert {path.name for path in written} >= {f"{name}.json" for name in BOARDS}
    yaml = YAML(typ="safe")
    [source] = yaml.load(tmp_path / "provisioning/datasources/adire.yaml")["datasources"]
    [shown] = yaml.load(tmp_path / "provisioning/dashboards/adire.yaml")["providers"]
    assert source["url"] == "http://prometheus:9090"
    assert {path.stem for path in Path(shown["options"]["path"]).iterdir()} == set(BOARDS)
    with pytest.raises(UserError, match="give it as http://HOST:PORT"):
        boards.write(tmp_path, "prometheus:9090")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a Prometheus that has asked the recorded pages some times."""
    folder = tmp_path_factory.mktemp("prometheus")
    with ExitStack() as held:

        def page(name: str, more: str = "") -> int:
            return held.enter_context(served(Page(SCRAPES, name, more)))

        def slot(metrics: int, **own: Any) -> dict[str, Any]:
            ports = {
                "http_port": free_port(),
                "grpc_port": free_port(),
                "metrics_port": free_port(),
            }
            key = "http_port" if own.get("server") == "vllm" else "metrics_port"
            return {**ports, key: metrics, **own}

        slots = {"blue": slot(page("blue")), "green": slot(page("green"))}
        violet = slot(page("language_violet"), server="vllm", cost_per_hour=4.2)
        more = {"violet": violet, "teal": slot(free_port(), server="vllm")}  # this one is down
        gateway = {"admin_port": page("gateway"), "port": free_port()}
        elsewhere = {"admin_port": page("language_gateway"), "port": free_port()}
        fleet = FleetConfig.model_validate(
            {
                "targets": {
                    "eu": {
                        "slots": slots,
                        "gateway": gateway,
                        "gpu_metrics": [f"127.0.0.1:{page('', GPU)}"],
                    },
                    "us": {"slots": more, "gateway": elsewhere},
                },
                "studio": {"port": page("studio", EVALUATED)},
                "dagster": {"port": free_port()},
                "costs": {
                    "currency": "EUR",
                    "cost_per_hour": {"cpu": 0.4},
                    "storage_per_gib_month": 0.02,
                    "transfer_per_gib": 0.08,
                    "budget_per_day": 50.0,
                },
            }
        )
        config, *_ = prometheus.write(fleet, folder / "made", interval_seconds=1)
        port = free_port()
        address = f"--web.listen-address=127.0.0.1:{port}"
        command = [str(PROMETHEUS), f"--config.file={config}", address]
        command.append(f"--storage.tsdb.path={folder / 'data'}")
        log = folder / "log"
        with log.open("wb") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said)
        held.callback(process.wait, 30)
        held.callback(process.terminate)

        def recorded() -> bool:
            """The last of the rules that build on each other."""
            names = (
                "model:adire_cost_per_unit:ratio1h",
                "release:adire_request_seconds:p99_ratio5m",
            )
            try:
                return all(results(port, name) for name in names)
            except OSError:
                return False

        assert wait_until(recorded, 60, alive=lambda: process.poll() is None), log.read_text()
        yield port


def results(port: int, expression: str) -> list[Any]:
    address = f"http://127.0.0.1:{port}/api/v1/query?query={quote(expression)}"
    with urllib.request.urlopen(address, timeout=10) as found:
        return list(json.loads(found.read())["data"]["result"])


@needs_prometheus
@pytest.mark.parametrize("expression", QUERIES)
def test_each_panel_has_a_series(asked: int, expression: str) -> None:
    # Without what a panel shows where there is none; a slot is down, of which an alert is about to
    # fire.
    expression = expression.removesuffix(" or vector(0)").replace(
        'alertstate="firing"', 'alertstate=~"pending|firing"'
    )
    # The hours of a slot in a day are looked at on each whole minute.
    assert wait_until(lambda: bool(results(asked, expression)), 75), expression
