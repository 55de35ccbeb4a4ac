"""How quickly the studio answers many open pages, beside clients that draw.

    python -m benchmarks.studio [--browsers 50] [--clients 8] [--seconds 60]

Real Triton, Envoy, supervisord and chromium. Every page shows a model's releases and stays open.
Twice a second somebody asks one of them to approve a release, and is asked for the reason; measured
is the time from the click to the dialog. Last

    studio: browsers=<open pages> actions=<dialogs> p50_ms=<...> p95_ms=<...>
            cores=<the studio's share of a core> rss_growth_mib=<of its process>
"""

import argparse
import random
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import psutil

from benchmarks.clients import Clients
from benchmarks.houses import KINDS
from tests.serving.test_studio import YAML
from tests.support.studio import browser, opened, running_studio, visit

APART_SECONDS = 0.5
MIB = 2**20


def studio_process() -> psutil.Process:
    """The one that `running_studio` has started."""
    [found] = [one for one in psutil.Process().children() if "studio" in one.cmdline()]
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--browsers", type=int, default=50)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    kind, chance = KINDS["diffusion"], random.Random(0)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        house = kind.make(Path(name) / "p", kind.rollout)
        live, waiting = kind.add(house), kind.add(house)
        house.project.model_file(house.model).write_text(YAML)
        stack.enter_context(house.up())
        house.deploy(live)
        url = stack.enter_context(running_studio(house.project, house.fleet))
        studio, chromium = studio_process(), stack.enter_context(browser())
        pages = [stack.enter_context(opened(chromium, url)) for _ in range(options.browsers)]
        for page in pages:
            visit(page, f"/models/{house.model}/releases")
        asked = f"Approve: release {waiting} of {house.model}"
        address, took = house.gateway.address, []
        with Clients(address, house.model, options.clients):
            began, memory = time.monotonic(), studio.memory_info().rss
            spent = sum(studio.cpu_times()[:2])
            while time.monotonic() - began < options.seconds:
                page = chance.choice(pages)
                clicked = time.perf_counter()
                page.get_by_role("button", name=asked).click()
                page.get_by_label("Reason").wait_for()
                took.append(time.perf_counter() - clicked)
                page.get_by_role("button", name="Cancel").click()
                page.get_by_role("dialog").wait_for(state="detached")
                time.sleep(max(0.0, clicked + APART_SECONDS - time.perf_counter()))
            share = (sum(studio.cpu_times()[:2]) - spent) / (time.monotonic() - began)
            growth = (studio.memory_info().rss - memory) / MIB
        times = sorted(took)
        p50, p95 = (1000 * times[int(len(times) * quantile)] for quantile in (0.5, 0.95))
        print(
            f"studio: browsers={options.browsers} actions={len(took)} p50_ms={p50:.0f} "
            f"p95_ms={p95:.0f} cores={share:.2f} rss_growth_mib={growth:.1f}"
        )


if __name__ == "__main__":
    main()
