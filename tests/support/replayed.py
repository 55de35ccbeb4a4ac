"""A real Prometheus that has scraped what it is told, in the hour that has just passed."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from adire_assets.config.fleet import FleetConfig
from adire_assets.core.waiting import wait_until
from adire_assets.serving.gateway import prometheus
from tests.support.ports import free_port
from tests.support.promtool import PROMETHEUS, promtool

Samples = Sequence[tuple[float, float]]  # (Unix time, value)
EVALUATION_SECONDS = 1
COMMA = ", "  # OpenMetrics has no space between labels


class Replayed:
    """What it answers."""

    def __init__(self, port: int) -> None:
        self.port = port

    def api(self, path: str) -> Any:
        address = f"http://127.0.0.1:{self.port}/api/v1/{path}"
        with urllib.request.urlopen(address, timeout=10) as found:
            return json.loads(found.read())["data"]

    def query(
        self, expression: str, at: float | None = None
    ) -> dict[tuple[tuple[str, str], ...], float]:
        """{sorted labels without the name: value} of an instant query, as of now or of a Unix
        time."""
        time = "" if at is None else f"&time={at!r}"
        found = self.api(f"query?query={quote(expression)}{time}")["result"]
        return {
            tuple(sorted((k, v) for k, v in one["metric"].items() if k != "__name__")): float(
                one["value"][1]
            )
            for one in found
        }

    def value(self, expression: str, **labels: str) -> float:
        """The only value with these labels."""
        wanted = set(labels.items())
        [found] = [value for own, value in self.query(expression).items() if wanted <= set(own)]
        return found


@contextmanager
def replayed(
    folder: Path, fleet: FleetConfig, series: Mapping[str, Samples], recorded: str
) -> Iterator[Replayed]:
    """Prometheus with the rules of a fleet, which has these series and asks nobody; ready once
    the rules have recorded the series `recorded`."""
    config, *_ = prometheus.write(fleet, folder / "made", interval_seconds=EVALUATION_SECONDS)
    asking_nobody = config.read_text().partition("\nscrape_configs:")[0]
    config.write_text(f"{asking_nobody}\n")
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
        found = Replayed(port)

        def ready() -> bool:
            try:
                return bool(found.query(recorded))
            except OSError:
                return False

        assert wait_until(ready, 30, alive=lambda: process.poll() is None), log.read_text()
        yield found
    finally:
        process.terminate()
        process.wait(30)
