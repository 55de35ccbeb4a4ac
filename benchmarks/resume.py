"""Trainings killed at random steps end in the bits of an undisturbed one.

    python -m benchmarks.resume --kills 10 [--seed 1] [--family causal_lm] [--base DIR]

A LoRA of the family's embedded base with everything that keeps state (dropout, EMA, cosine
schedule, best checkpoint; of images also random crops and flips, and the text encoder), in a worker
as the line runs it. Each run is killed with SIGKILL, with all its processes, when it reaches a step
drawn at random, started again, and its adapter's SHA-256 compared. The last line is

    resume: equal=<n>/<kills>
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adire_assets.core import job_folder, lineage
from adire_assets.core.project import Project
from adire_assets.embedded.letters.letters import write_letters
from adire_assets.families.causal_lm import adapter_files
from adire_assets.families.causal_lm.config import DataConfig as InstructionConfig
from adire_assets.families.causal_lm.data.dataset import build_dataset as build_instructions
from adire_assets.families.diffusion.data.dataset import build_dataset
from adire_assets.families.diffusion.engine.sampling import ADAPTER_FILE
from adire_assets.families.training.launch import launcher, split_batch_across_processes
from benchmarks.training import RESOLUTION, VARIANT, DataConfig

STEPS = 60
SHARED: dict[str, Any] = {
    "rank": 4,
    "lora_dropout": 0.1,
    "train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-3,
    "lr_scheduler": "cosine",
    "max_train_steps": STEPS,
    "checkpointing_steps": 7,
    "validation_steps": 10,
    "keep_checkpoint": "best",
    "use_ema": True,
}
IMAGES: dict[str, Any] = {
    **SHARED,
    "train_text_encoder": True,
    "random_flip": True,
    "center_crop": False,
    "noise_offset": 0.05,
    "proportion_empty_prompts": 0.1,
}
INSTRUCTIONS: dict[str, Any] = {**SHARED, "max_length": 256}


@dataclass(frozen=True)
class Subject:
    """What a family trains: the worker function with the arguments that are the family's, and the
    file of the adapter."""

    function: str
    file: str
    training: dict[str, Any]
    base: Path
    arguments: dict[str, Any]


def images(project: Project, base: Path | None, dataset: Path) -> Subject:
    config = DataConfig(
        path="data/indigo", resolution=RESOLUTION, instance_prompt="cloth", held_out_fraction=0.25
    )
    build_dataset(project.root / config.path, dataset, config)
    return Subject(
        "adire_assets.families.diffusion.training.lora:train",
        ADAPTER_FILE,
        IMAGES,
        base or project.root / "base_models/tiny/pipeline",
        {"variant": VARIANT, "resolution": RESOLUTION},
    )


def instructions(project: Project, base: Path | None, dataset: Path) -> Subject:
    letters = dataset.with_name("letters")
    write_letters(letters, 200)
    build_instructions(letters, dataset, InstructionConfig(path="data/letters"))
    return Subject(
        "adire_assets.families.causal_lm.training.lora:train",
        adapter_files.WEIGHTS,
        INSTRUCTIONS,
        base or project.root / "base_models/letters/model",
        {},
    )


SUBJECTS: dict[str, Callable[[Project, Path | None, Path], Subject]] = {
    "diffusion": images,
    "causal_lm": instructions,
}


def start(folder: Path, function: str, arguments: dict[str, Any]) -> subprocess.Popen:
    job = Path(tempfile.mkdtemp(dir=folder))
    threads = lineage.threads()
    job_folder.write_job(job, function, arguments, threads)
    return subprocess.Popen(
        job_folder.command(job, launcher=launcher("cpu", arguments["training"])),
        env={
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def train(
    folder: Path,
    function: str,
    given: dict[str, Any],
    kill_at: int | None = None,
    later: float = 0.0,
) -> int | None:
    """Train to the end; or kill it `later` seconds after the log tells of a step from `kill_at` on.

    The step that was told of last.
    """
    child = start(folder, function, given)
    assert child.stdout
    for line in child.stdout:
        told = re.match(r"step (\d+)", line)
        if kill_at is not None and told and int(told[1]) >= kill_at:
            time.sleep(later)
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return int(told[1])
    assert child.wait() == 0, "the training failed"
    return None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--family", choices=SUBJECTS, default="diffusion")
    parser.add_argument("--base", type=Path, help="Default: the family's embedded base.")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        subject = SUBJECTS[options.family](Project.find(), options.base, root / "dataset")
        training = split_batch_across_processes(subject.training, "cpu", subject.base)

        def arguments(run: str) -> dict[str, Any]:
            (root / run).mkdir(exist_ok=True)
            (root / run / "output").mkdir(exist_ok=True)
            return {
                **subject.arguments,
                "dataset": root / "dataset",
                "base": subject.base,
                "output": root / run / "output",
                "training": training,
                "work": root / run / "work",
                "cache": root / "cache",
                "device": "cpu",
            }

        def digest(run: str) -> str:
            return lineage.file_digest(root / run / "output" / subject.file)

        train(root, subject.function, arguments("whole"))
        print(f"undisturbed: {digest('whole')}", flush=True)
        equal = 0
        for kill in range(options.kills):
            run = f"kill-{kill}"
            # The log tells of every few steps; the moment of the kill is anywhere behind that.
            at = train(
                root,
                subject.function,
                arguments(run),
                rng.randint(1, STEPS - 10),
                rng.uniform(0.0, 1.0),
            )
            train(root, subject.function, arguments(run))
            same = digest(run) == digest("whole")
            equal += same
            print(f"killed after step {at}: {'equal' if same else digest(run)}", flush=True)
    print(f"resume: equal={equal}/{options.kills}")


if __name__ == "__main__":
    main()
