"""Where a judge's CLIP-S threshold belongs: between what sound and what bad adapters reach.

    python benchmarks/calibrate_gates.py --dataset DIR --work DIR [--model indigo] [--seeds 1 2 3]

DIR is a dataset artefact (`adire status` names it). Trains the model's LoRA once per seed, and once
per sabotage and sabotage seed: the learning rate times 100, images replaced by noise, five steps.
Each is evaluated like a release. What stands in --work already is not made again, so an interrupted
run goes on: one --work per base, judge and dataset. The last line is the suggestion; write the
table beside the threshold in the YAML.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from adire_assets.config import ModelConfig, Project, load_model
from adire_assets.diffusion.lora import train
from adire_assets.errors import UserError
from adire_assets.evaluation.evaluate import score
from adire_assets.evaluation.images import draw
from adire_assets.evaluation_images import drawing_of
from adire_assets.roots import evaluation_settings
from adire_assets.store import read_json
from adire_assets.worker import print_progress


class Condition(NamedTuple):
    """What is trained: a name, whether a gate should pass it, and what differs from the config."""

    name: str
    sound: bool
    changes: dict[str, Any]
    on_noise: bool = False


def conditions(config: ModelConfig, seeds: list[int], sabotages: int) -> Iterator[Condition]:
    """The seeds as they are, then the sabotages with the first few of them."""
    fast = config.training.learning_rate * 100
    for seed in seeds:
        yield Condition(f"sound-seed{seed}", True, {"seed": seed})
    for seed in seeds[:sabotages]:
        yield Condition(f"rate-x100-seed{seed}", False, {"seed": seed, "learning_rate": fast})
        yield Condition(f"noise-seed{seed}", False, {"seed": seed}, on_noise=True)
        yield Condition(f"five-steps-seed{seed}", False, {"seed": seed, "max_train_steps": 5})


def noise_dataset(dataset: Path, target: Path) -> Path:
    """The same captions and held-out images; the training images are uniform noise."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(dataset, target, copy_function=shutil.copyfile)
    rng = np.random.default_rng(0)
    for line in (dataset / "train.jsonl").read_text(encoding="utf-8").splitlines():
        path = target / json.loads(line)["file_name"]
        width, height = Image.open(path).size
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return target


def measure(project: Project, config: ModelConfig, condition: Condition, options: Any) -> dict:
    """Train and evaluate one condition; returns its report."""
    folder = options.work / condition.name
    if (folder / "evaluation" / "report.json").is_file():
        return read_json(folder / "evaluation" / "report.json")
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("adapter", "evaluation"):
        (folder / name).mkdir(parents=True)
    dataset, base = options.dataset, config.base_model
    if condition.on_noise:
        dataset = noise_dataset(dataset, options.work / "noise")
    shared: dict[str, Any] = {
        "base": str(project.root / base.source),
        "variant": base.variant,
        "device": "cpu",
    }
    train(
        **shared,
        dataset=str(dataset),
        output=str(folder / "adapter"),
        training=config.training.model_dump() | condition.changes | {"validation_prompt": None},
        work=str(folder / "checkpoints"),
        resolution=config.data.resolution,
        progress=print_progress,
    )
    evaluation = evaluation_settings(project, config.evaluation)
    drawing = drawing_of(evaluation, options.dataset)
    variants = {"images": folder / "images", "base_images": options.work / "base_images"}
    for name, output in variants.items():
        if (output / "timings.json").is_file():
            continue  # the base's serve every condition
        output.mkdir(exist_ok=True)
        adapter = str(folder / "adapter") if name == "images" else None
        draw(
            **shared,
            adapter=adapter,
            drawing=drawing,
            output=str(output),
            progress=print_progress,
        )
    score(
        dataset=str(options.dataset),
        adapter_images=str(variants["images"]),
        base_images=str(variants["base_images"]),
        judge=str(project.root / config.evaluation.judge.source),
        evaluation=evaluation,
        output=str(folder / "evaluation"),
        device="cpu",
        progress=print_progress,
    )
    return read_json(folder / "evaluation" / "report.json")


def main() -> None:
    parser = argparse.ArgumentParser(description="Suggest the CLIP-S threshold of a model's judge.")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="indigo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--sabotages", type=int, default=1, help="seeds per sabotage")
    options = parser.parse_args()
    project = Project.find()
    config = load_model(project, options.model)
    lines: list[str] = []
    scores: dict[bool, list[float]] = {True: [], False: []}
    for condition in conditions(config, options.seeds, options.sabotages):
        try:
            report = measure(project, config, condition, options)
        except UserError as error:  # a learning rate that ends in NaN leaves no adapter
            lines.append(f"| {condition.name} | none: {error} | |")
            continue
        if report["clip_s_mean"] is None:
            lines.append(f"| {condition.name} | none: {report['adapter_problems'][0]} | |")
            continue
        if not scores[True] and condition.sound:
            scores[False].append(report["clip_s_base_mean"])
            lines.append(f"| held-out real images | {report['clip_s_held_out_mean']:.3f} | |")
            lines.append(line("base", report["clip_s_base_mean"], report["kid_base_mean"]))
        lines.append(line(condition.name, report["clip_s_mean"], report["kid_adapter_mean"]))
        scores[condition.sound].append(report["clip_s_mean"])
    print("\n| condition | CLIP-S | KID |\n|---|---|---|", *lines, sep="\n")
    bad, sound = max(scores[False], default=0.0), min(scores[True], default=0.0)
    if bad < sound:
        print(f"calibration: clip_s_minimum={(bad + sound) / 2:.2f} ({bad:.3f} to {sound:.3f})")
    else:
        print(f"calibration: none, a bad one reaches {bad:.3f} and a sound one {sound:.3f}")


def line(name: str, clip_s: float, kid: float | None) -> str:
    return f"| {name} | {clip_s:.3f} | {'none' if kid is None else f'{kid:.3f}'} |"


if __name__ == "__main__":
    main()
