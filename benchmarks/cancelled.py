"""What cancelled streams leave behind in the engine.

    python -m benchmarks.cancelled [--streams 50] [--rounds 3] [--seconds 12]

Real Triton, Envoy and supervisord, four models live on the embedded base. In each round eight
closed loops measure the throughput, then clients begin streams, eight at a time, and close each
after one to ten of its thirty passes, and the throughput is measured again. Last

    cancelled: streams=<all that were begun and closed> left_in_queue=<the most images that the
               engine still had one second after the last was closed>
               steps_after=<the most image steps that it drew after that second>
               throughput_ratio=<images/s after the cancelled streams / before, medians>
"""

import argparse
import random
import re
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from statistics import median

from adire_assets.core.family import family
from adire_assets.serving.client import stream
from benchmarks.serving import BATCH, MODELS, ask, houses, rate
from tests.support.house import TARGET, House
from tests.support.light import ROOT

STEPS = 30
SETTLED_SECONDS = 1.0


def metric(house: House, name: str) -> float:
    """A metric of the engine in the active slot."""
    port = house.fleet.targets[TARGET].slots[house.record.active or ""].metrics_port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        text = page.read().decode()
    return sum(float(value) for value in re.findall(rf"^{name}{{.*}} (\S+)$", text, re.MULTILINE))


def cancel_stream(address: str, number: int) -> None:
    """Cancel a stream after one to ten of its passes."""
    chance = random.Random(number)
    request = {"prompt": f"indigo cloth {number}", "seed": number, "num_inference_steps": STEPS}
    model = MODELS[number % len(MODELS)]
    answers = stream(address, family("diffusion"), model, request, timeout=120)
    assert len(list(islice(answers, chance.randint(1, 10)))) > 0
    answers.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=50, help="per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each measurement")
    options = parser.parse_args()
    base = ROOT / "base_models" / "tiny" / "pipeline"
    figures: dict[str, list[float]] = {"before": [], "after": [], "left": [], "steps": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        houses(Path(folder) / "p", base, maximum_concurrent_requests=64) as found,
        ThreadPoolExecutor(BATCH) as pool,
    ):
        house, address = found[0], found[0].address

        def throughput() -> float:
            answers = ask(address, MODELS[:1], BATCH, options.seconds, False)
            return rate(answers, options.seconds, lambda steps: 1.0)

        throughput()  # warms all up
        for number in range(options.rounds):
            figures["before"].append(throughput())
            list(pool.map(lambda one: cancel_stream(address, one), range(options.streams)))
            time.sleep(SETTLED_SECONDS)
            figures["left"].append(metric(house, "adire_images_waiting"))
            drawn = metric(house, "adire_image_steps_total")
            time.sleep(SETTLED_SECONDS)
            figures["steps"].append(metric(house, "adire_image_steps_total") - drawn)
            figures["after"].append(throughput())
            told = ", ".join(f"{name} {values[-1]:.2f}" for name, values in figures.items())
            print(f"round {number + 1}: {told}", flush=True)
    print(
        f"cancelled: streams={options.rounds * options.streams} "
        f"left_in_queue={max(figures['left']):.0f} steps_after={max(figures['steps']):.0f} "
        f"throughput_ratio={median(figures['after']) / median(figures['before']):.2f}"
    )


if __name__ == "__main__":
    main()
