"""The trainer of language models beside TRL's SFTTrainer, in one run on one machine.

    python -m benchmarks.training --family causal_lm --peer trl [--base DIR] [--epochs 2]
        [--rounds 3] [--peer-python PYTHON] [--ours num_processes=2]

TRL has an environment of its own, which is made once by

    python3.11 -m venv .venv-trl
    .venv-trl/bin/pip install --requirement benchmarks/peer/trl/requirements.lock

All sides get the same base, letters, chat template, LoRA, AdamW, learning rate, seed and CPU
threads, in float32, and learn from the assistant's tokens alone. A step learns from 16 examples:
ours as the asset graph starts the house example, TRL in batches of 16 and once more packed, in as
many rows as those examples fill. Every side reads the same examples as often. Without --base it is
one of the embedded base's size with random weights: time and memory are those of a trained one.

Rounds take turns (TRL, TRL packed, ours), each with a seed of its own; figures are medians over
rounds. Tokens/s count no padding and leave out the start and the first steps; the tokens of a
second of processor time tell the same where other work shares the machine. Memory is the largest
sum of the process tree's resident sets. The loss on the held-out answers is measured here, for all
adapters in the same way. The last line is

    training: peer_ratio=<ours / the faster of TRL's, tokens/s> cpu_ratio=<the same, of processor
    time> memory_ratio=<ours / that one, peak memory>

(on one line).
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import yaml

from adire_assets.core.project import Project
from adire_assets.core.store import read_json
from adire_assets.families.causal_lm import FAMILY
from adire_assets.families.causal_lm.config import DataConfig
from adire_assets.families.causal_lm.data.dataset import build_dataset
from adire_assets.families.training.launch import launched
from benchmarks.watched import SPIN, Finished, job, machine, run

LETTERS = 480
BATCH = 16
MAX_LENGTH = 512
SKIPPED = 3  # steps, in which memory and kernels settle
SIDES = "benchmarks.training_language_sides"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TRAINING: dict[str, Any] = {
    "rank": 16,
    "lora_alpha": 32,
    "target_modules": TARGETS,
    "learning_rate": 2e-3,
    "lr_scheduler": "constant",
    "train_batch_size": BATCH,
    "gradient_accumulation_steps": 1,
    "max_length": MAX_LENGTH,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_weight_decay": 1e-2,
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
    "mixed_precision": "no",
    "packing": True,
    "num_processes": 1,  # as the house example has it
}
SFT = {  # the same in TRL's words
    "optim": "adamw_torch_fused",
    "learning_rate": TRAINING["learning_rate"],
    "lr_scheduler_type": "constant",
    "adam_beta1": TRAINING["adam_beta1"],
    "adam_beta2": TRAINING["adam_beta2"],
    "adam_epsilon": TRAINING["adam_epsilon"],
    "weight_decay": TRAINING["adam_weight_decay"],
    "max_grad_norm": TRAINING["max_grad_norm"],
    "max_length": MAX_LENGTH,
    "bf16": False,
    "use_cpu": True,
    "save_strategy": "no",
}


@dataclass(frozen=True)
class Bench:
    """What all sides get: `tokens` of the `examples` of one epoch, and where the rest goes."""

    base: Path
    dataset: Path
    scratch: Path
    examples: int
    tokens: int


@dataclass(frozen=True)
class Trained:
    """One training of one side."""

    adapter: Path
    tokens_per_second: float
    tokens_per_cpu_second: float
    losses: list[float]
    process: Finished


def prepare(project: Project, scratch: Path, base: Path | None) -> Bench:
    """Letters as a dataset, in whole steps to the epoch, and a random base where none is given."""
    dataset = scratch / "dataset"
    facts, _ = job(
        project,
        scratch / "prepare",
        f"{SIDES}:prepare",
        letters=scratch / "letters",
        count=LETTERS,
        base=base or scratch / "base",
        make_base=base is None,
    )
    config = DataConfig(path="letters", validation_fraction=0.05, held_out_fraction=0.15)
    build_dataset(scratch / "letters", dataset, config)
    train = dataset / "train.jsonl"
    lines = train.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = lines[: len(lines) // BATCH * BATCH]
    train.write_text("".join(whole), encoding="utf-8")
    tokens, _ = job(project, scratch / "count", f"{SIDES}:count", base=facts["base"], file=train)
    return Bench(Path(facts["base"]), dataset, scratch, len(whole), tokens)


def train_ours(
    project: Project, bench: Bench, name: str, epochs: int, seed: int, more: dict[str, Any]
) -> Trained:
    output = bench.scratch / f"{name}-adapter"
    output.mkdir()
    steps = epochs * bench.examples // BATCH
    wanted = {**TRAINING, "max_train_steps": steps, "checkpointing_steps": steps, "seed": seed}
    launch, training = launched({**wanted, **more}, "cpu", bench.base)
    record, finished = job(
        project,
        bench.scratch / name,
        f"{SIDES}:ours",
        launch,
        dataset=bench.dataset,
        base=bench.base,
        output=output,
        training=training,
        work=bench.scratch / f"{name}-work",
    )
    return _trained(output, record, epochs * bench.tokens, finished, training["num_processes"])


def train_peer(
    project: Project, bench: Bench, name: str, epochs: int, seed: int, packed: bool, python: Path
) -> Trained:
    output, record = bench.scratch / f"{name}-adapter", bench.scratch / f"{name}.json"
    settings = bench.scratch / f"{name}-settings.json"
    rows = max(1, round(BATCH * bench.tokens / bench.examples / MAX_LENGTH))
    asked = {
        "base": str(bench.base),
        "train": str(bench.dataset / "train.jsonl"),
        "output": str(output),
        "lora": {
            "r": TRAINING["rank"],
            "lora_alpha": TRAINING["lora_alpha"],
            "target_modules": TARGETS,
        },
        "sft": {
            **SFT,
            "per_device_train_batch_size": rows if packed else BATCH,
            "num_train_epochs": epochs,
            "packing": packed,
            "seed": seed,
        },
    }
    settings.write_text(json.dumps(asked))
    script = project.root / "benchmarks" / "peer" / "trl" / "start.py"
    arguments = [str(python), str(script), str(record), str(settings)]
    log = bench.scratch / f"{name}.log"
    finished = run(project, arguments, log, PYTHONPATH="", **SPIN)
    return _trained(output, read_json(record), epochs * bench.tokens, finished)


def _trained(
    output: Path, record: Any, tokens: int, finished: Finished, processes: int = 1
) -> Trained:
    """`record` has when each step ended, by the clock ("steps") and processor time ("cpu")."""
    counted = tokens * (1 - SKIPPED / len(record["steps"]))
    seconds, cpu = (record[key][-1] - record[key][SKIPPED - 1] for key in ("steps", "cpu"))
    return Trained(output, counted / seconds, counted / cpu / processes, record["losses"], finished)


def beside_trl(arguments: Sequence[str]) -> None:
    """The benchmark of a language model's training."""
    parser = argparse.ArgumentParser(description="Our trainer of language models beside TRL's.")
    parser.add_argument("--peer", choices=["trl"], default="trl")
    parser.add_argument(
        "--base", type=Path, help="a language model's folder; default: a random one"
    )
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-python", type=Path, default=Path(".venv-trl/bin/python"))
    parser.add_argument(
        "--ours", action="append", default=[], help="one more setting of our side, KEY=VALUE"
    )
    options = parser.parse_args(arguments)
    given = (setting.partition("=") for setting in options.ours)
    more = {key: yaml.safe_load(value) for key, _, value in given}
    if not options.peer_python.is_file():
        parser.error(
            f"--peer-python: there is no {options.peer_python}; make it by `python3.11 -m venv "
            ".venv-trl && .venv-trl/bin/pip install -r benchmarks/peer/trl/requirements.lock`"
        )
    python = Path.cwd() / options.peer_python  # not resolved: the link is what has the packages
    project = Project.find()
    print(f"machine: {machine(FAMILY.packages[:5])}", flush=True)
    with tempfile.TemporaryDirectory(prefix="adire-training-") as name:
        bench = prepare(project, Path(name), options.base and options.base.resolve())
        print(f"{bench.examples} examples, {bench.tokens} tokens an epoch", flush=True)
        sides: dict[str, list[Trained]] = {"TRL": [], "TRL packed": [], "ours": []}
        for number in range(options.rounds):
            seed = 42 + number
            common = options.epochs, seed
            for side, packed in (("TRL", False), ("TRL packed", True)):
                called = f"peer-{number}-{packed}"
                sides[side].append(train_peer(project, bench, called, *common, packed, python))
            sides["ours"].append(train_ours(project, bench, f"ours-{number}", *common, more))
            each = (f"{side} {made[-1].tokens_per_second:.0f}" for side, made in sides.items())
            print(f"round {number + 1}: {', '.join(each)} tokens/s", flush=True)
        adapters = {
            f"{side}-{number}": str(trained.adapter)
            for side, trainings in sides.items()
            for number, trained in enumerate(trainings)
        }
        losses, _ = job(
            project,
            bench.scratch / "judge",
            f"{SIDES}:judge",
            file=bench.dataset / "held_out.jsonl",
            base=bench.base,
            adapters=adapters,
        )
        report(sides, losses)


def report(sides: dict[str, list[Trained]], losses: dict[str, float]) -> None:
    """Print the table and the line that is the benchmark's result."""
    heads = ("tokens/s", "tokens per CPU second", "whole process", "peak memory")
    print(f"\n|  | {' | '.join(heads)} | held-out loss (each seed) |\n|---|---|---|---|---|---|")
    print(f"| untrained base | | | | | {losses['base']:.4f} |")
    rates, cpu, peaks = {}, {}, {}
    for side, trainings in sides.items():
        rates[side] = median(trained.tokens_per_second for trained in trainings)
        cpu[side] = median(trained.tokens_per_cpu_second for trained in trainings)
        peaks[side] = median(trained.process.peak_bytes for trained in trainings)
        seconds = median(trained.process.seconds for trained in trainings)
        each = [losses[f"{side}-{number}"] for number in range(len(trainings))]
        print(
            f"| {side} | {rates[side]:,.0f} | {cpu[side]:,.0f} | {seconds:.1f} s | "
            f"{peaks[side] / 2**20:,.0f} MiB | "
            f"{mean(each):.4f} ({', '.join(f'{loss:.4f}' for loss in each)}) |"
        )
    peer = max(("TRL", "TRL packed"), key=lambda side: rates[side])
    print(
        f"training: peer_ratio={rates['ours'] / rates[peer]:.2f} "
        f"cpu_ratio={cpu['ours'] / cpu[peer]:.2f} "
        f"memory_ratio={peaks['ours'] / peaks[peer]:.2f}"
    )
