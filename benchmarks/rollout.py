"""Twenty releases in a row under constant requests: what fails, and what the gateway costs.

    python -m benchmarks.rollout --releases 20 --clients 8
    python -m benchmarks.rollout --releases 2 --clients 2 --diffusion

Real Tritons, Envoy and supervisord. The releases answer in about 30 ms (tests/support/light.py),
with `--diffusion` they draw with a diffusion pipeline of random weights. The gateway's cost is the
median of requests through the gateway to a model that answers at once, less that of direct ones,
asked in turn.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

from adire_assets.config.fleet import RolloutConfig
from adire_assets.core.project import Project
from benchmarks.clients import Clients, connect, infer_request
from tests.support.diffusion import add_diffusion
from tests.support.fleets import make_fleet
from tests.support.house import House
from tests.support.light import ROOT, Behaviour, add_light, light_house

PAIRS = 500


def gateway_cost(light: House) -> float:
    """Milliseconds that the gateway adds to the median."""
    light.deploy(add_light(light, Behaviour(seconds=0.0)))
    state = light.record
    slot = light.slot_client(state.active or "")
    endpoints = {"direct": slot.address, "gateway": light.gateway.address}
    stubs = {name: connect(address)[1] for name, address in endpoints.items()}
    request = infer_request(light.model, "indigo cloth")
    took: dict[str, list[float]] = {name: [] for name in endpoints}
    for pair in range(PAIRS + 20):
        for name, stub in stubs.items():
            began = time.perf_counter()
            stub.ModelInfer(request, timeout=20)
            if pair >= 20:
                took[name].append(time.perf_counter() - began)
    medians = {name: median(times) * 1000 for name, times in took.items()}
    print(", ".join(f"{name} p50 {value:.2f} ms" for name, value in medians.items()))
    return medians["gateway"] - medians["direct"]


def diffusion_house(folder: Path, rollout: RolloutConfig) -> House:
    """A project in the new folder `folder` whose releases draw."""
    (folder / "configs" / "models").mkdir(parents=True)
    (folder / "triton_models").symlink_to(ROOT / "triton_models")
    return House(Project(folder, folder / "home"), make_fleet(rollout), "cloth")


def add_release(house: House, diffusion: bool) -> int:
    return add_diffusion(house, len(house.releases) + 1) if diffusion else add_light(house)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--releases", type=int, default=20)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--diffusion", action="store_true")
    options = parser.parse_args()
    rollout = RolloutConfig(minimum_seconds=1.0)
    make = diffusion_house if options.diffusion else light_house
    with (
        tempfile.TemporaryDirectory() as name,
        make(Path(name) / "p", rollout).up() as house,
    ):
        house.deploy(add_release(house, options.diffusion))
        with Clients(house.gateway.address, house.model, options.clients) as clients:
            for _ in range(options.releases):
                number, began = add_release(house, options.diffusion), time.monotonic()
                state = house.deploy(number)
                assert state.live == number, state.last_rollout
                print(f"release {number} live after {time.monotonic() - began:.1f} s", flush=True)
        for answer in clients.failed[:5]:
            print(answer)
        gateway = "" if options.diffusion else f" gateway_p50_ms={gateway_cost(house):.2f}"
    print(
        f"rollout: releases={options.releases} requests={len(clients.answers)} "
        f"failed={len(clients.failed)} p50_ms={clients.milliseconds(0.5):.1f} "
        f"p99_ms={clients.milliseconds(0.99):.1f}{gateway}"
    )


if __name__ == "__main__":
    main()
