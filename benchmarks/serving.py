"""How fast images are served, against the bare pipeline and a backend that draws one by one.

    python -m benchmarks.serving [--peer] [--rounds 5] [--seconds 12] [--base DIR]

Real Triton, Envoy and supervisord, both slots up, four models on one base, each with a LoRA of the
house's targets and random weights. All go through the gateway; their clients are closed loops in a
process of their own. Bare is the stock pipeline of diffusers in a process with all cores, with its
LoRA merged, decoding included. With --peer a second Triton has the stock pipeline in a Python
backend, one request after the other. All sides are measured in turn in each round, each while the
others are idle; the figures are ratios of medians over the rounds. Last

    serving: single_ratio=<bare merged seconds / our p50 at 1 client>
             uniform_ratio=<our images/s at 8 clients / bare merged batch of 8>
             mixed_ratio=<UNet rows per second with mixed steps and guidance / with equal ones>
             adapters_ratio=<4 adapters mixed / bare batch of 8 with one adapter, unmerged>
             peer_ratio=<ours at 8 clients / the peer, unmerged>
             merged_peer_ratio=<the same, merged>
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from string import Template
from typing import Any

from adire_assets.config.fleet import RolloutConfig
from adire_assets.core import lineage
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Store
from adire_assets.families.diffusion.config import ServingConfig
from adire_assets.serving.fleet.parity import scratch_server
from tests.support.diffusion import add_release
from tests.support.fleets import make_fleet
from tests.support.house import TARGET, House
from tests.support.light import ROOT

STEPS, GUIDANCE = 20, 2.0
MIXED = [(steps, guidance) for steps in (20, 23, 26, 29) for guidance in (1.5, 2.0, 3.0, 4.0)]
MODELS = ("indigo", "kampala", "oniko", "eleko")
LEAD_SECONDS = 3.0  # of a measurement, which do not count
BATCH = 8
# Whatever is drawn here, it is to go live at once.
AT_ONCE = RolloutConfig(
    minimum_seconds=0.0,
    error_rate_maximum=0.45,
    latency_increase_maximum=None,
    latency_maximum_seconds=60.0,
    promotion_quantiles=["p50"],
    quality_drop_maximum=0.9,
)
SERVING = ServingConfig(
    maximum_inference_steps=50,
    default_inference_steps=STEPS,
    default_guidance_scale=GUIDANCE,
    maximum_batch_size=BATCH,
)


def random_adapter(base: Path, folder: Path, seed: int) -> None:
    """A LoRA with the targets and ranks of the house example."""
    import torch
    import yaml
    from peft import LoraConfig

    from adire_assets.families.diffusion.engine import architectures
    from adire_assets.families.diffusion.formats.adapter_file import save_adapter

    text = (ROOT / "configs" / "models" / "indigo.yaml").read_text(encoding="utf-8")
    training = yaml.safe_load(text)["training"]
    names = ("lora_alpha", "rank_pattern", "target_modules")
    torch.manual_seed(seed)
    model = architectures.load(base, "fp16", torch.float32)
    config = LoraConfig(r=training["rank"], **{name: training[name] for name in names})
    model.pipe.unet.add_adapter(config)
    for name, weight in model.pipe.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    save_adapter(model, folder)


@contextmanager
def houses(folder: Path, base: Path, **gateway: Any) -> Iterator[list[House]]:
    """Four models, live on one slot; the other one holds their copies. `gateway`: other settings
    of the gateway."""
    (folder / "configs" / "models").mkdir(parents=True)
    (folder / "triton_models").symlink_to(ROOT / "triton_models")
    project, fleet = Project(folder, folder / "home"), make_fleet(AT_ONCE)
    target = fleet.targets[TARGET]
    fleet.targets[TARGET] = target.model_copy(
        update={"gateway": target.gateway.model_copy(update=gateway)}
    )
    store = Store(project)

    def lay(place: Path) -> None:
        shutil.copytree(base, place / "pipeline")
        (place / "base.json").write_text('{"variant": "fp16"}')

    laid = store.build(Recipe("base_model", "base"), lay).artifact
    found = [House(project, fleet, model) for model in MODELS]
    for seed, house in enumerate(found):

        def make(place: Path, seed: int = seed) -> None:
            random_adapter(laid.path / "pipeline", place, seed)

        adapter = store.build(Recipe("lora_weights", house.model), make).artifact
        add_release(house, laid, adapter, adapter, serving=SERVING)
    with found[0].up():
        for house in found:
            house.deploy(1)
        yield found


# --- sides ---------------------------------------------------------------------------------------


class Bare:
    """A process with the stock pipeline, which measures when it is told to."""

    def __init__(self, base: Path, adapter: Artifact) -> None:
        arguments = [str(base), str(adapter.path), str(lineage.threads())]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving", "bare", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self, merged: bool, images: int) -> float:
        """For so many images in one batch."""
        assert self.process.stdin and self.process.stdout
        print(json.dumps([merged, images]), file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()


def bare(base: str, adapter: str, threads: str) -> None:
    """What runs in the process of `Bare`."""
    sys.modules["triton_python_backend_utils"] = sys  # of which nothing is used here
    import torch

    from benchmarks.peer.serving.model import open_pipeline

    pipes = {merged: open_pipeline(base, adapter, merged, int(threads)) for merged in (True, False)}
    for line in sys.stdin:
        merged, images = json.loads(line)
        taken = []
        for seed in range(3):
            began = time.perf_counter()
            pipes[merged](
                [f"indigo cloth {seed}"] * images,
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                generator=[torch.Generator().manual_seed(seed + i) for i in range(images)],
                output_type="np",
            )
            taken.append(time.perf_counter() - began)
        print(median(taken), flush=True)


def ask(address: str, models: list[str], clients: int, seconds: float, mixed: bool) -> list[Any]:
    """[seconds since the start, how long it took, steps] of each answer to closed loops."""
    arguments = [address, json.dumps(models), str(clients), str(seconds), str(int(mixed))]
    command = [sys.executable, "-m", "benchmarks.serving", "clients", *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output)


def clients(address: str, models: str, count: str, seconds: str, mixed: str) -> None:
    """What runs in the process of `ask`."""
    import numpy as np
    from tritonclient.grpc import InferenceServerClient, InferInput

    named, answers, began = json.loads(models), [], time.perf_counter()
    end = began + float(seconds)

    def send(number: int) -> None:
        chance = random.Random(number)
        with InferenceServerClient(address) as client:
            while time.perf_counter() < end:
                steps, guidance = chance.choice(MIXED) if int(mixed) else (STEPS, GUIDANCE)
                values = [
                    ("prompt", np.array([[f"indigo cloth {number}".encode()]], object), "BYTES"),
                    ("seed", np.array([[chance.randrange(2**31)]], np.int64), "INT64"),
                    ("num_inference_steps", np.array([[steps]], np.int32), "INT32"),
                    ("guidance_scale", np.array([[guidance]], np.float32), "FP32"),
                ]
                inputs = []
                for name, value, kind in values:
                    inputs.append(InferInput(name, [1, 1], kind))
                    inputs[-1].set_data_from_numpy(value)
                asked = time.perf_counter()
                client.infer(named[number % len(named)], inputs)
                now = time.perf_counter()
                answers.append((now - began, now - asked, steps))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(int(count))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(answers))


def rate(answers: list[Any], seconds: float, worth: Callable[[int], float]) -> float:
    """What the answers are worth by their steps, per second of what counts of a measurement."""
    found = 0.0
    for ended, took, steps in answers:
        overlap = min(ended, seconds) - max(ended - took, LEAD_SECONDS)
        found += worth(steps) * max(0.0, overlap) / took
    return found / (seconds - LEAD_SECONDS)


@contextmanager
def peer(project: Project, base: Path, adapter: Artifact, merged: bool) -> Iterator[str]:
    """The address of a Triton whose backend draws one image after the other."""

    def fill(slot: Path) -> str:
        folder = slot / "models" / "peer"
        (folder / "1").mkdir(parents=True)
        template = (ROOT / "triton_models" / "diffusion" / "config.pbtxt").read_text("utf-8")
        text = Template(template).substitute(name="peer", maximum_batch_size=BATCH)
        (folder / "config.pbtxt").write_text(text)
        source = Path(__file__).parent / "peer" / "serving" / "model.py"
        shutil.copyfile(source, folder / "1" / "model.py")
        told = {"base": str(base), "adapter": str(adapter.path), "merged": merged}
        settings = {**told, "threads": lineage.threads()}
        (folder / "1" / "serving.json").write_text(json.dumps(settings))
        return "peer"

    with scratch_server(project, "triton", "cpu", fill, 300) as address:
        yield address


def measure(options: argparse.Namespace, stack: ExitStack, folder: Path) -> None:
    # Four models are live, and all clients may ask one.
    at_once = {"maximum_concurrent_requests": 64}
    found = stack.enter_context(houses(folder / "p", options.base, **at_once))
    adapter = Store(found[0].project).open(found[0].releases[1].adapter)
    one = Bare(options.base, adapter)
    stack.callback(one.close)
    address, names = found[0].address, list(MODELS)
    seconds = options.seconds

    def served(models: list[str], clients: int, mixed: bool = False) -> list[Any]:
        return ask(address, models, clients, seconds, mixed)

    def images(answers: list[Any]) -> float:
        return rate(answers, seconds, lambda steps: 1.0)

    def rows(answers: list[Any]) -> float:
        return rate(answers, seconds, lambda steps: 2.0 * steps)

    sides: dict[str, Callable[[], float]] = {
        "bare_single_seconds": lambda: one.seconds(True, 1),
        "single_seconds": lambda: median(took for _, took, _ in served(names[:1], 1)),
        "bare_batch": lambda: BATCH / one.seconds(True, BATCH),
        "uniform": lambda: images(served(names[:1], BATCH)),
        "mixed_rows": lambda: rows(served(names[:1], BATCH, mixed=True)),
        "bare_unmerged": lambda: BATCH / one.seconds(False, BATCH),
        "adapters": lambda: images(served(names, BATCH)),
    }
    if options.peer:
        for name, merged in (("peer", False), ("merged_peer", True)):
            place = stack.enter_context(peer(found[0].project, options.base, adapter, merged))
            sides[name] = lambda place=place: images(ask(place, ["peer"], BATCH, seconds, False))
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.rounds + 1):
        for name in sides if number % 2 else reversed(sides):
            figure = sides[name]()
            if number:  # the first round warms all up
                figures[name].append(figure)
            print(f"round {number} {name}: {figure:.3f}; load {os.getloadavg()[0]:.1f}", flush=True)
    told = {name: median(values) for name, values in figures.items()}
    ratios = {
        "single_ratio": told["bare_single_seconds"] / told["single_seconds"],
        "uniform_ratio": told["uniform"] / told["bare_batch"],
        "mixed_ratio": told["mixed_rows"] / (told["uniform"] * 2 * STEPS),
        "adapters_ratio": told["adapters"] / told["bare_unmerged"],
    }
    for name in ("peer", "merged_peer"):
        if name in told:
            ratios[f"{name}_ratio"] = told["uniform"] / told[name]
    for name, value in told.items():
        print(f"  {name}: {value:.3f}")
    print("serving: " + " ".join(f"{name}={value:.2f}" for name, value in ratios.items()))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each measurement")
    parser.add_argument("--base", type=Path, default=ROOT / "base_models" / "tiny" / "pipeline")
    options = parser.parse_args()
    options.base = options.base.resolve()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        measure(options, stack, Path(folder))


if __name__ == "__main__":
    roles = {"bare": bare, "clients": clients}
    if len(sys.argv) > 1 and sys.argv[1] in roles:
        roles[sys.argv[1]](*sys.argv[2:])
    else:
        main()
