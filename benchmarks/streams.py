"""What the gateway costs streams of a language model, against its slot asked directly.

    python -m benchmarks.streams --rounds 5 --base base_models/letters/model

Two real vLLMs, Envoy and supervisord, one release, whose adapter is trained for a moment on the
base (without `--base` on a random one of a few thousand weights). Direct is the slot's own port,
behind which stands the same middleware. In each round both sides are asked in turn, by 8 clients
for the throughput and then by one for the time to the first piece; each time the clients are a
process of their own. The figures are medians over the rounds.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from adire_assets.families.causal_lm.artifacts import BASE
from adire_assets.serving.fleet import processes
from benchmarks.chats import Stream
from benchmarks.houses import KINDS
from tests.support.house import TARGET, House

SIDES = ("direct", "gateway")
LEAD_SECONDS = 1.0  # of a measurement, which do not count
ONE_CLIENT_TOKENS = 12


@dataclass(frozen=True)
class Measured:
    """What clients of one side got: tokens a second, seconds to the first piece, CPU seconds."""

    rate: float
    first: float
    early: int  # streams whose first piece came before their last ...
    streams: int  # ... of those that have several
    cpu: dict[str, float]
    seconds: float


def measure(house: House, address: str, clients: int, seconds: float, tokens: int) -> Measured:
    """Have so many clients ask for so long."""
    parts = server_processes(house)
    before = {name: cpu_seconds(found) for name, found in parts.items()}
    arguments = [address, house.model, str(clients), str(seconds), str(tokens)]
    command = [sys.executable, "-m", "benchmarks.chats", *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    cpu = {name: cpu_seconds(found) - before[name] for name, found in parts.items()}
    told = json.loads(output)
    streams = [(at, Stream(**one)) for at, one in told["streams"]]
    for _, one in streams:
        if one.error:
            raise SystemExit(f"a stream was not whole: {one}")
    made = sum(one.tokens * _within(at, one.seconds, seconds) for at, one in streams)
    return Measured(
        rate=made / (seconds - LEAD_SECONDS),
        first=median(one.first or 0.0 for _, one in streams),
        early=sum((one.first or 0.0) < (one.last or 0.0) for _, one in streams if one.tokens > 1),
        streams=sum(one.tokens > 1 for _, one in streams),
        cpu={**cpu, "clients": told["cpu"]},
        seconds=max(at for at, _ in streams),
    )


def _within(ended: float, took: float, end: float) -> float:
    """The share of a stream that lies in what counts of a measurement."""
    overlap = min(ended, end) - max(ended - took, LEAD_SECONDS)
    return max(0.0, overlap) / took


def server_processes(house: House) -> dict[str, list[psutil.Process]]:
    """Those of the active slot by what they do, and Envoy's."""
    rows = {row["name"]: row["pid"] for row in processes.status(house.project, house.fleet)}
    guard = psutil.Process(rows[f"slot-{TARGET}-{house.record.active}"])
    slot = [guard, *guard.children(recursive=True)]
    engine = [one for one in slot if "VLLM::" in "".join(one.cmdline())]
    return {
        "engine": engine,
        "server": [one for one in slot if one not in engine],
        "envoy": [psutil.Process(rows[f"gateway-{TARGET}"])],
    }


def cpu_seconds(found: list[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (one.cpu_times() for one in found))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--tokens", type=int, default=48, help="of an answer")
    parser.add_argument("--base", type=Path, help="the folder of a base model")
    options = parser.parse_args()
    kind = KINDS["causal_lm"]
    with tempfile.TemporaryDirectory() as name:
        house = kind.make(Path(name) / "p", kind.rollout)
        if options.base:
            shutil.rmtree(house.project.root / BASE)
            shutil.copytree(options.base, house.project.root / BASE)
        number = kind.add(house)
        with house.up():
            house.deploy(number)
            addresses = {
                "direct": house.live_slot_client.address,
                "gateway": house.gateway.address,
            }
            measure_both(house, addresses, options)


def measure_both(house: House, addresses: dict[str, str], options: argparse.Namespace) -> None:
    many: dict[str, list[Measured]] = {side: [] for side in SIDES}
    one: dict[str, list[Measured]] = {side: [] for side in SIDES}
    for number in range(options.rounds + 1):
        for side in SIDES if number % 2 else reversed(SIDES):
            asked = (house, addresses[side])
            several = measure(*asked, options.clients, options.seconds, options.tokens)
            alone = measure(*asked, 1, options.seconds / 2, ONE_CLIENT_TOKENS)
            load = os.getloadavg()[0]
            shares = ", ".join(
                f"{name} {seconds / several.seconds:.2f}" for name, seconds in several.cpu.items()
            )
            print(
                f"round {number} {side}: {several.rate:.0f} tokens/s, first after "
                f"{several.first * 1000:.1f} ms; one client: {alone.first * 1000:.2f} ms; cores: "
                f"{shares}; load {load:.1f}",
                flush=True,
            )
            if number:  # the first one warms both up
                many[side].append(several)
                one[side].append(alone)
    rates = {side: median(found.rate for found in many[side]) for side in SIDES}
    firsts = {side: 1000 * median(found.first for found in one[side]) for side in SIDES}
    streams = [found for side in SIDES for found in (*many[side], *one[side])]
    cost = [found.cpu["envoy"] / (found.rate * found.seconds) * 1e6 for found in many["gateway"]]
    print(
        f"streams: direct_tokens_s={rates['direct']:.0f} gateway_tokens_s={rates['gateway']:.0f} "
        f"ratio={rates['gateway'] / rates['direct']:.3f} "
        f"first_direct_ms={firsts['direct']:.1f} first_gateway_ms={firsts['gateway']:.1f} "
        f"added_ms={firsts['gateway'] - firsts['direct']:.1f} "
        f"envoy_us_token={median(cost):.0f} "
        f"first_before_last={sum(found.early for found in streams)}"
        f"/{sum(found.streams for found in streams)}"
    )


if __name__ == "__main__":
    main()
