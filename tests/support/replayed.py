"""A real Prometheus that has scraped what it is told, in the hour that has just passed."""

import json
import re
import subprocess
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ruamel.yaml import YAML

from adire_assets.config.fleet import FleetConfig
from adire_assets.core.waiting import wait_until
from adire_assets.serving.gateway import prometheus
from tests.support.ports import free_port
from tests.support.promtool import PROMETHEUS, promtool

Samples = Sequence[tuple[float, float]]  # (Unix time, value)
RECORDED = re.compile(r"\b[a-z]+:adire_[\w:]+")
Rule = Mapping[str, Any]  # as Prometheus' files have them
COMMA = ", "  # OpenMetrics has no space between labels


class Replayed:
    """What it answers about one moment, `at` (Unix time), however late it is asked."""

    def __init__(self, port: int, rules: Mapping[str, list[Rule]], at: float) -> None:
        self.port, self.rules, self.at = port, rules, at

    def query(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """{sorted labels without the name: value} of an instant query. Recorded series are asked by
        the expressions of their rules, since nothing was recorded at that moment."""
        asked = f"query={quote(self._expanded(expression))}&time={self.at!r}"
        address = f"http://127.0.0.1:{self.port}/api/v1/query?{asked}"
        with urllib.request.urlopen(address, timeout=10) as found:
            results = json.loads(found.read())["data"]["result"]
        return {
            tuple(sorted((k, v) for k, v in one["metric"].items() if k != "__name__")): float(
                one["value"][1]
            )
            for one in results
        }

    def value(self, expression: str, **labels: str) -> float:
        """The only value with these labels."""
        wanted = set(labels.items())
        [found] = [value for own, value in self.query(expression).items() if wanted <= set(own)]
        return found

    def _expanded(self, expression: str) -> str:
        return RECORDED.sub(lambda found: f"({self._of_rule(found[0])})", expression)

    def _of_rule(self, name: str) -> str:
        """All rules that record a series, each with its labels."""
        told = []
        for rule in self.rules[name]:
            expression = self._expanded(rule["expr"])
            for label, value in rule.get("labels", {}).items():
                expression = f'label_replace({expression}, "{label}", "{value}", "", "")'
            told.append(expression)
        return " or ".join(told)


@contextmanager
def replayed(
    folder: Path, fleet: FleetConfig, series: Mapping[str, Samples], at: float
) -> Iterator[Replayed]:
    """A Prometheus that has these series and asks nobody; it answers about the moment `at` what
    the rules of a fleet would record."""
    config, *files = prometheus.write(fleet, folder / "made")
    rules = defaultdict[str, list[Rule]](list)
    for file in files:
        for group in YAML(typ="safe").load(file)["groups"]:
            for rule in group["rules"]:
                rules[rule.get("record", "")].append(rule)
    config.write_text("{}\n")
    lines = [
        f"{name.replace(COMMA, ',')} {value!r} {time:.3f}\n"
        for name, samples in sorted(series.items())
        for time, value in samples
    ]
    scraped = folder / "scraped.om"
    scraped.write_text("".join(lines) + "# EOF\n")
    data, port = folder / "data", free_port()
    promtool("tsdb", "create-blocks-from", "openmetrics", "--quiet", str(scraped), str(data))
    command = [str(PROMETHEUS), f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}"]
    command.append(f"--storage.tsdb.path={data}")
    log = folder / "log"
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        found = Replayed(port, rules, at)

        def ready() -> bool:
            try:
                return bool(found.query("up"))
            except OSError:
                return False

        assert wait_until(ready, 30, alive=lambda: process.poll() is None), log.read_text()
        yield found
    finally:
        process.terminate()
        process.wait(30)
