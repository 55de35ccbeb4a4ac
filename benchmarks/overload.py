"""What happens when ten times as much is asked as can be done, while a canary takes its share.

    python -m benchmarks.overload [--seconds 60] [--times 10] [--timeout 120]

Real Triton, Envoy and supervisord. Four models are live in one slot, on one base; the gateway has
the limits that follow from what was measured when their releases were checked. Requests have 20 or
30 steps and one or two images. Closed loops of eight clients measure the capacity. Then a canary
of one model, as good as the release before it, gets a fifth of that one's requests. Once its limits
are fixed by what the release before has answered to a few clients, requests come by an open loop:
at random moments, ten times as many as were answered. Last

    overload: accepted_in_time=<share of the requests that were not refused that was answered within
              the timeout> refused_p99_ms=<how long a refusal took>
              throughput_ratio=<image steps per second, over the capacity>
              memory_ratio=<the most PSS of the slots' processes meanwhile, over that before>
              canary_failures=<faults and ejections that were counted against the canary, and 1 for
              its being sent back>
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from adire_assets.core.store import Store
from benchmarks.serving import BATCH, MODELS, SERVING, houses
from benchmarks.serving_memory import pss
from tests.support.diffusion import add_release
from tests.support.house import TARGET, House, awaited
from tests.support.light import ROOT

SHARE = 20  # percent of the requests that the canary gets
LEAD_SECONDS = 5.0  # of a measurement, which do not count
SIZES = [(20, 1), (20, 1), (30, 1), (20, 2)]  # steps, images
CHANNELS, AGAIN_SECONDS = 8, 0.1
REFUSED = "RESOURCE_EXHAUSTED"
# The house's limits, but for the seconds of an answer, which are those of the machine; the step
# lasts as long as it is measured.
LIMITS = {
    "steps": [SHARE, 100],
    "minimum_seconds": 86_000.0,
    "maximum_seconds": 86_400.0,
    "error_rate_maximum": 0.05,
    "latency_increase_maximum": 0.5,
    "latency_maximum_seconds": 60.0,
    "promotion_quantiles": ["p50", "p95"],
    "quality_drop_maximum": 0.1,
}
Asked = list[list[Any]]  # (began, seconds, status, image steps) of each request


def load(address: str, options: dict[str, Any]) -> Asked:
    """What became of the requests of a process of its own (see `send`)."""
    command = [sys.executable, "-m", "benchmarks.overload", "send", address, json.dumps(options)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return list(json.loads(found))


def send(address: str, text: str) -> None:
    """Ask for `seconds`: `rate` times a second, or by so many `clients` that each wait."""
    import grpc
    import numpy as np
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    options = json.loads(text)
    chance = random.Random(options["seed"])
    channel_options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", -1),
    ]
    channels = [grpc.insecure_channel(address, channel_options) for _ in range(CHANNELS)]
    stubs = [service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in channels]
    found: Asked = []

    def request() -> tuple[Any, int]:
        steps, images = chance.choice(options["sizes"])
        made = service_pb2.ModelInferRequest(model_name=chance.choice(options["models"]))
        values = {
            "prompt": ("BYTES", b"indigo cloth"),
            "seed": ("INT64", np.int64(chance.randrange(2**30))),
            "num_inference_steps": ("INT32", np.int32(steps)),
            "num_images": ("INT32", np.int32(images)),
        }
        for name, (kind, value) in values.items():
            made.inputs.add(name=name, datatype=kind, shape=[1, 1])
            raw = value if isinstance(value, bytes) else value.tobytes()
            size = len(raw).to_bytes(4, "little") if kind == "BYTES" else b""
            made.raw_input_contents.append(size + raw)
        return made, steps * images

    def ask(stub: Any, done: Any = None) -> Any:
        made, worth = request()
        began = time.time()
        call = stub.ModelInfer.future(made, timeout=options["timeout"] + 10)

        def ended(call: Any) -> None:
            found.append([began, time.time() - began, call.code().name, worth])

        call.add_done_callback(ended)
        return call

    end = time.time() + options["seconds"]
    if clients := options.get("clients"):

        def loop(number: int) -> None:
            while time.time() < end:
                if ask(stubs[number % CHANNELS]).exception():
                    time.sleep(AGAIN_SECONDS)

        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(loop, range(clients)))
    else:
        calls, at = [], time.time()
        while (at := at + chance.expovariate(options["rate"])) < end:
            time.sleep(max(0.0, at - time.time()))
            calls.append(ask(stubs[len(calls) % CHANNELS]))
        for call in calls:
            call.exception()
    for channel in channels:
        channel.close()
    print(json.dumps(found))


def steps_per_second(asked: Asked, begin: float, end: float) -> float:
    """Image steps of the answers that fall into a span of time, per second."""
    total = 0.0
    for began, seconds, status, worth in asked:
        if status == "OK":
            overlap = min(began + seconds, end) - max(began, begin)
            total += worth * max(0.0, overlap) / seconds
    return total / (end - begin)


class Memory:
    """The PSS of the processes of all slots, looked at every few seconds."""

    def __init__(self, house: House) -> None:
        self.folders = [
            house.slot_client(name).folder for name in house.fleet.targets[TARGET].slots
        ]
        self.over = threading.Event()
        self.seen: list[int] = []
        self.thread = threading.Thread(target=self._look)

    def now(self) -> int:
        return sum(pss(folder) for folder in self.folders)

    def _look(self) -> None:
        while not self.over.wait(3):
            self.seen.append(self.now())

    def __enter__(self) -> "Memory":
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.thread.join()


def limits_of(house: House) -> dict[str, int]:
    """What Envoy lets through at once, by cluster of gRPC."""
    found = json.loads((house.gateway.folder / "clusters.json").read_text())["resources"]
    of_models = [one for one in found if one["name"].partition("-")[0] in MODELS]
    return {
        one["name"]: one["circuit_breakers"]["thresholds"][0]["max_requests"]
        for one in of_models
        if one["name"].rpartition("-")[2].isdecimal()
    }


def measure(options: argparse.Namespace, folder: Path) -> str:
    with houses(folder / "p", options.base, request_timeout_seconds=options.timeout) as found:
        house = found[0]
        told = {"models": MODELS, "sizes": SIZES, "timeout": options.timeout, "seed": 1}

        def closed(clients: int, seconds: float, **other: Any) -> Asked:
            asked = {**told, "clients": clients, "seconds": seconds, **other}
            return load(house.address, asked)

        def calm() -> Asked:
            """Users of the canary's model alone, fewer than fill a pass."""
            return closed(4, 10, models=[house.model], sizes=SIZES[:1])

        began = time.time()
        asked = closed(BATCH, options.capacity_seconds)
        last = began + options.capacity_seconds
        capacity = steps_per_second(asked, began + LEAD_SECONDS, last)
        per_request = sum(worth for *_, worth in asked) / len(asked)
        rate = options.times * capacity / per_request
        print(f"capacity: {capacity:.1f} image steps/s; limits {limits_of(house)}", flush=True)

        first = house.releases[1]
        store = Store(house.project)
        base, adapter = store.open(first.base_model), store.open(first.adapter)
        number = add_release(house, base, adapter, adapter, serving=SERVING)
        rollout = threading.Thread(target=lambda: house.deploy(number, **LIMITS), daemon=True)
        rollout.start()

        def fixed() -> bool:
            assert rollout.is_alive(), house.record.last_rollout
            canary = house.record.rollout
            return canary is not None and "users" in canary.limits

        is_fixed = threading.Event()
        with ThreadPoolExecutor() as pool:
            asking = pool.submit(lambda: [calm() for _ in iter(is_fixed.is_set, True)])
            try:
                awaited(fixed, 600)
            finally:
                is_fixed.set()
            asking.result()
        print(f"calm: limits {limits_of(house)}; {house.record.rollout.limits}", flush=True)

        before = house.gateway.traffic(house.model, number)
        with Memory(house) as memory:
            settled = memory.now()
            began = time.time()
            asked = load(house.address, {**told, "rate": rate, "seconds": options.seconds})
        calm()  # it is watched on
        counted = house.gateway.traffic(house.model, number).since(before)
        pinned = house.gateway.pinned_traffic(house.model, number)
        back = house.record.rollout is None
        if back:
            print(f"sent back: {house.record.last_rollout}")
        else:
            house.roll_back(reason="measured")
        rollout.join()

    statuses = Counter(status for _, _, status, _ in asked)
    taken = [seconds for _, seconds, status, _ in asked if status == "OK"]
    refused = sorted(seconds for _, seconds, status, _ in asked if status == REFUSED)
    accepted = len(asked) - len(refused)
    in_time = sum(seconds <= options.timeout for seconds in taken)
    reached = steps_per_second(asked, began + LEAD_SECONDS, began + options.seconds)
    failures = counted.failed + counted.ejected + pinned.failed + pinned.ejected + back
    print(
        f"{len(asked)} requests, {rate:.1f}/s: {dict(statuses)}; answered after "
        f"{median(taken):.1f} s, the slowest {max(taken):.1f} s; {reached:.1f} image steps/s; the "
        f"canary has answered {counted.answered}; {settled / 2**20:.0f} MiB, at most "
        f"{max(memory.seen) / 2**20:.0f} MiB"
    )
    slowest = refused[int(len(refused) * 0.99)] * 1000 if refused else float("nan")
    return (
        f"overload: accepted_in_time={in_time / accepted:.4f} refused_p99_ms={slowest:.1f} "
        f"throughput_ratio={reached / capacity:.2f} "
        f"memory_ratio={max(memory.seen) / settled:.3f} canary_failures={failures}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0, help="of the overload")
    parser.add_argument("--capacity-seconds", type=float, default=30.0)
    parser.add_argument("--times", type=float, default=10.0, help="the capacity")
    parser.add_argument("--timeout", type=float, default=120.0, help="request_timeout_seconds")
    parser.add_argument("--base", type=Path, default=ROOT / "base_models" / "tiny" / "pipeline")
    options = parser.parse_args()
    options.base = options.base.resolve()
    with tempfile.TemporaryDirectory() as folder:
        print(measure(options, Path(folder)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["send"]:
        send(*sys.argv[2:])
    else:
        main()
