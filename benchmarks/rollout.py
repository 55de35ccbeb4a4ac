"""Twenty releases in a row under constant requests: what fails, and what the gateway costs.

    python -m benchmarks.rollout --releases 20 --clients 8
    python -m benchmarks.rollout --releases 2 --clients 2 --family diffusion
    python -m benchmarks.rollout --releases 20 --clients 8 --family causal_lm

Real slots, Envoy and supervisord; the releases are those of `benchmarks.houses`, light ones unless
a family is named, and of language models streams are asked for. The gateway's cost is the median of
requests through the gateway to a light model that answers at once, less that of direct ones, asked
in turn; `benchmarks.streams` tells that of streams.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.clients import Clients, connect, infer_request
from benchmarks.houses import KINDS
from tests.support.house import House
from tests.support.light import Behaviour, add_light

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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--releases", type=int, default=20)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument(
        "--family", dest="kind", choices=["diffusion", "causal_lm"], default="light"
    )
    options = parser.parse_args()
    kind = KINDS[options.kind]
    with tempfile.TemporaryDirectory() as name:
        house = kind.make(Path(name) / "p", kind.rollout)
        # Made first: what trains an adapter would take the cores from the slots.
        numbers = [kind.add(house) for _ in range(options.releases + 1)]
        with house.up():
            house.deploy(numbers[0])
            streams = options.kind == "causal_lm"
            address = house.gateway.address
            with Clients(address, house.model, options.clients, streams=streams) as clients:
                for number in numbers[1:]:
                    began = time.monotonic()
                    state = house.deploy(number)
                    assert state.live == number, state.last_rollout
                    took = time.monotonic() - began
                    print(f"release {number} live after {took:.1f} s", flush=True)
            for answer in [*clients.failed, *clients.broken][:5]:
                print(answer)
            gateway = (
                f" gateway_p50_ms={gateway_cost(house):.2f}" if options.kind == "light" else ""
            )
    releases = {answer.release for answer in clients.answers}
    print(
        f"rollout: releases={options.releases} requests={len(clients.answers)} "
        f"failed={len(clients.failed)} broken={len(clients.broken)} answered_by={len(releases)} "
        f"p50_ms={clients.milliseconds(0.5):.1f} p99_ms={clients.milliseconds(0.99):.1f}{gateway}"
    )


if __name__ == "__main__":
    main()
