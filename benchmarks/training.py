"""Our trainer beside diffusers' own script and beside a bare loop, in one run on one machine.

    python -m benchmarks.training --peer-script PATH [--steps 200] [--rounds 3]
        [--peer-argument=--pre_compute_text_embeddings] [--ours torch_compile=true]

PATH is examples/dreambooth/train_dreambooth_lora.py of diffusers; it runs unedited. Both sides get
the same base (the embedded tiny one, in float32), images, caption, LoRA, AdamW, learning rate and
CPU threads: ours as the asset graph starts it, the peer as one process through
benchmarks/peer/start.py. The bare loop does the UNet's forward and backward and the
optimizer step on prepared tensors, nothing else.

Rounds take turns (peer, ours, bare), each with a seed of its own; figures are medians over rounds.
Steps/s leave out start-up and the first epoch (in which our trainer encodes the images), the whole
process's seconds leave out nothing; memory is the largest sum of the process tree's resident sets.
The validation loss of base and adapters is measured here, on the held-out images, with the same
timesteps and noise for all. The last line is

    training: peer_ratio=<ours / peer, steps/s> bare_ratio=<ours / bare, steps/s>
    memory_ratio=<ours / peer, peak memory>

(on one line), where bare is the faster of its two ways. Nothing else may run meanwhile.

    python -m benchmarks.training --family causal_lm --peer trl

is the benchmark of a language model's training, see benchmarks/training_language.py.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import yaml

from adire_assets.core.project import Project
from adire_assets.core.store import read_json
from adire_assets.families.diffusion import FAMILY
from adire_assets.families.diffusion.config import DataConfig
from adire_assets.families.diffusion.data.dataset import build_dataset
from adire_assets.families.training.launch import launcher, split_batch_across_processes
from benchmarks import training_language
from benchmarks.watched import Finished, job, machine, run

CAPTION = "a photo in nigerian_adire_style"
RESOLUTION = 128
VARIANT = "fp16"
BATCH, ACCUMULATION = 1, 4
BARE_STEPS = 60  # of each way and round; its rate settles at once
WINDOWS = 4  # into which a loss curve is cut
TRAINING: dict[str, Any] = {
    "rank": 4,
    "lora_alpha": 4,
    # The script's add_k_proj and add_v_proj name layers that no Stable Diffusion UNet has.
    "target_modules": ["to_k", "to_q", "to_v", "to_out.0"],
    "learning_rate": 1e-3,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "train_batch_size": BATCH,
    "gradient_accumulation_steps": ACCUMULATION,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_weight_decay": 1e-2,
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
    "mixed_precision": "no",
    "center_crop": True,
}
SHARED_WITH_PEER = set(TRAINING) - {"lora_alpha", "target_modules", "center_crop"}


@dataclass(frozen=True)
class Trained:
    """One training of one side."""

    adapter: Path
    steps_per_second: float
    losses: list[float]
    process: Finished


@dataclass(frozen=True)
class Bench:
    """The folders of one benchmark."""

    base: Path
    dataset: Path
    peer_images: Path  # the training images alone
    scratch: Path

    @property
    def epoch_steps(self) -> int:
        return len(list(self.peer_images.iterdir())) // (BATCH * ACCUMULATION)


def prepare(project: Project, scratch: Path) -> Bench:
    """The house example's dataset with one caption for all, in whole steps to the epoch."""
    config = DataConfig(
        path="data/indigo",
        resolution=RESOLUTION,
        instance_prompt=CAPTION,
        held_out_fraction=0.25,
    )
    dataset, images = scratch / "dataset", scratch / "peer_images"
    build_dataset(project.root / config.path, dataset, config)
    images.mkdir()
    for side in ("train", "validation", "held_out"):
        file = dataset / f"{side}.jsonl"
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        if side == "train":  # the script ends an epoch with a step of what is left
            rows = rows[: len(rows) // (BATCH * ACCUMULATION) * BATCH * ACCUMULATION]
            for row in rows:
                shutil.copy(dataset / row["file_name"], images)
        lines = [json.dumps({**row, "text": CAPTION}) + "\n" for row in rows]
        file.write_text("".join(lines), encoding="utf-8")
    return Bench(project.root / "base_models/tiny/pipeline", dataset, images, scratch)


def train_ours(
    project: Project, bench: Bench, name: str, steps: int, seed: int, more: dict[str, Any]
) -> Trained:
    output = bench.scratch / f"{name}-adapter"
    output.mkdir()
    training = {
        **TRAINING,
        "max_train_steps": steps,
        "checkpointing_steps": _checkpointing(steps),
        "seed": seed,
        **more,
    }
    training = split_batch_across_processes(training, "cpu", bench.base)
    record, finished = job(
        project,
        bench.scratch / name,
        "benchmarks.training_sides:ours",
        launcher("cpu", training),
        dataset=bench.dataset,
        base=bench.base,
        variant=VARIANT,
        output=output,
        training=training,
        work=bench.scratch / f"{name}-work",
        resolution=RESOLUTION,
    )
    return _trained(bench, output, record, finished)


def train_peer(
    project: Project, bench: Bench, name: str, steps: int, seed: int, script: Sequence[str]
) -> Trained:
    output, record = bench.scratch / f"{name}-adapter", bench.scratch / f"{name}.json"
    options = {
        **{key: TRAINING[key] for key in sorted(SHARED_WITH_PEER)},
        "pretrained_model_name_or_path": bench.base,
        "variant": VARIANT,
        "instance_data_dir": bench.peer_images,
        "instance_prompt": CAPTION,
        "output_dir": output,
        "resolution": RESOLUTION,
        "max_train_steps": steps,
        "checkpointing_steps": _checkpointing(steps),
        "seed": seed,
    }
    finished = run(
        project,
        [
            sys.executable,
            *("-m", "benchmarks.peer.start", str(record), *script, "--center_crop"),
            *(f"--{key}={value}" for key, value in options.items()),
        ],
        bench.scratch / f"{name}.log",
    )
    return _trained(bench, output, read_json(record), finished)


def _checkpointing(steps: int) -> int:
    return max(1, steps // 2)


def _trained(bench: Bench, output: Path, record: Any, finished: Finished) -> Trained:
    ends = record["steps"][bench.epoch_steps - 1 :]
    rate = (len(ends) - 1) / (ends[-1] - ends[0])
    return Trained(output, rate, record["losses"], finished)


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--family", choices=("diffusion", "causal_lm"), default="diffusion")
    chosen, others = parser.parse_known_args()
    {"diffusion": beside_diffusers, "causal_lm": training_language.beside_trl}[chosen.family](
        others
    )


def beside_diffusers(arguments: Sequence[str]) -> None:
    """The benchmark of a diffusion model's training."""
    parser = argparse.ArgumentParser(description="Our trainer beside diffusers' and a bare loop.")
    parser.add_argument("--peer-script", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps of each training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--peer-argument", action="append", default=[], help="one more argument for the script"
    )
    parser.add_argument(
        "--ours", action="append", default=[], help="one more setting of our side, KEY=VALUE"
    )
    options = parser.parse_args(arguments)
    given = (setting.partition("=") for setting in options.ours)
    more = {key: yaml.safe_load(value) for key, _, value in given}
    if not options.peer_script.is_file():
        parser.error(f"--peer-script: there is no file {options.peer_script}")
    script = [str(options.peer_script.resolve()), *options.peer_argument]
    project = Project.find()
    print(f"machine: {machine(FAMILY.packages[:5])}", flush=True)
    with tempfile.TemporaryDirectory(prefix="adire-training-") as name:
        bench = prepare(project, Path(name))
        if options.steps <= bench.epoch_steps:
            parser.error(f"--steps: more than one epoch, which has {bench.epoch_steps} steps")
        peer, ours, bare = [], [], []
        for number in range(options.rounds):
            seed = 42 + number
            peer.append(train_peer(project, bench, f"peer-{number}", options.steps, seed, script))
            ours.append(train_ours(project, bench, f"ours-{number}", options.steps, seed, more))
            rates, _ = job(
                project,
                bench.scratch / f"bare-{number}",
                "benchmarks.training_sides:bare",
                dataset=bench.dataset,
                base=bench.base,
                variant=VARIANT,
                training={**TRAINING, "seed": seed},
                steps=min(options.steps, BARE_STEPS),
            )
            bare.append(rates)
            print(
                f"round {number + 1}: peer {peer[-1].steps_per_second:.2f}, "
                f"ours {ours[-1].steps_per_second:.2f}, bare in passes of {BATCH} "
                f"{rates['accumulated']:.2f}, in one pass {rates['together']:.2f} steps/s",
                flush=True,
            )
        sides = {"peer": peer, "ours": ours}
        adapters = {
            f"{side}-{number}": str(trained.adapter)
            for side, trainings in sides.items()
            for number, trained in enumerate(trainings)
        }
        losses, _ = job(
            project,
            bench.scratch / "judge",
            "benchmarks.training_sides:judge",
            dataset=bench.dataset,
            base=bench.base,
            variant=VARIANT,
            adapters=adapters,
        )
        report(sides, bare, losses)


def report(
    sides: dict[str, list[Trained]], bare: list[dict[str, float]], losses: dict[str, float]
) -> None:
    """Print the tables and the line that is the benchmark's result."""
    print("\n|  | steps/s | whole process | peak memory | validation loss (each seed) |")
    print("|---|---|---|---|---|")
    print(f"| untrained base | | | | {losses['base']:.5f} |")
    rates, peaks = {}, {}
    for side, trainings in sides.items():
        rates[side] = median(trained.steps_per_second for trained in trainings)
        peaks[side] = median(trained.process.peak_bytes for trained in trainings)
        seconds = median(trained.process.seconds for trained in trainings)
        each = [losses[f"{side}-{number}"] for number in range(len(trainings))]
        print(
            f"| {side} | {rates[side]:.2f} | {seconds:.1f} s | {peaks[side] / 2**20:.0f} MiB | "
            f"{mean(each):.5f} ({', '.join(f'{loss:.5f}' for loss in each)}) |"
        )
    ways = {way: median(rates[way] for rates in bare) for way in bare[0]}
    print(f"| bare loop, {ACCUMULATION} passes of {BATCH} | {ways['accumulated']:.2f} | | | |")
    print(f"| bare loop, one pass | {ways['together']:.2f} | | | |")
    print(f"\n| mean training loss of | {' | '.join(sides)} |\n|---|{'---|' * len(sides)}")
    total = len(sides["ours"][0].losses)
    for window in range(WINDOWS):
        first, last = total * window // WINDOWS, total * (window + 1) // WINDOWS
        means = [
            mean(mean(trained.losses[first:last]) for trained in trainings)
            for trainings in sides.values()
        ]
        print(f"| steps {first + 1}-{last} | {' | '.join(f'{value:.5f}' for value in means)} |")
    print(
        f"training: peer_ratio={rates['ours'] / rates['peer']:.2f} "
        f"bare_ratio={rates['ours'] / max(ways.values()):.2f} "
        f"memory_ratio={peaks['ours'] / peaks['peer']:.2f}"
    )


if __name__ == "__main__":
    main()
