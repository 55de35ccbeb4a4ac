"""Which gate refuses what: sabotaged trainings must be refused, sound ones must pass.

    python -m benchmarks.gates --dataset DIR --work DIR [--model indigo] [--sound 20] [--each 3]

DIR is a dataset artifact (the asset's `path` in Dagster). A champion is trained with the model's
seed, then --sound trainings with other seeds, and --each of every sabotage:

    rate         the learning rate times 100
    noise        the training images replaced by noise
    one_image    one training image alone
    scaled       a sound adapter with its B matrices times 3
    other_style  trained on what the base was trained on, under the captions of the model
    half         half of the steps, stopped where the schedule is at its height

Each is evaluated like a release and judged by the model's gates, those against the champion too. A
trainer that refuses to give an adapter has refused. What stands in --work and was made by today's
code from the same data and settings is not made again, so an interrupted run goes on. It takes
hours; started once per
core with OMP_NUM_THREADS=1 and the same --work, each process takes what no other has begun. Prints
each condition's scores, the ranges by which to set floors and margins, the table of gate against
sabotage for docs/evaluation.md, and last

    gates: refused_bad=<n>/<n> refused_good=<n>/<n>
"""

import argparse
import fcntl
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from adire_assets.config.model import ModelConfig, load_model
from adire_assets.core.errors import UserError
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import read_json, write_json
from adire_assets.core.worker import print_progress
from adire_assets.embedded.base.pattern_images import draw_pattern
from adire_assets.embedded.base.patterns import choose_pattern
from adire_assets.families.diffusion import FAMILY
from adire_assets.families.diffusion.base import resolve as base_resolve
from adire_assets.families.diffusion.evaluation.drawing import drawing_of
from adire_assets.families.diffusion.evaluation.evaluate import score
from adire_assets.families.diffusion.evaluation.images import draw
from adire_assets.families.diffusion.gates import METRICS, GateConfig
from adire_assets.families.diffusion.sampling import ADAPTER_FILE
from adire_assets.families.diffusion.training.lora import train
from adire_assets.families.diffusion.weights import WEIGHTS
from adire_assets.gates.promotion import comparisons
from adire_assets.gates.verdict import Verdict, checks, decide

CHAMPION = "champion"
BAD_SEEDS = 1000  # the first of the sabotages' seeds, far from those of sound trainings
SCALE = 3.0
PICTURES = (  # of a training's validation, which nobody looks at here
    *("validation_prompt", "num_validation_images"),
    *("validation_num_inference_steps", "validation_guidance_scale"),
)
SHOWN, TILE = 6, 96  # images in a row of the sheet, and their pixels


@dataclass(frozen=True)
class Condition:
    """What is trained: what differs from the config, and what happens to data or adapter."""

    name: str
    sabotage: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)


def conditions(config: ModelConfig, sound: int, each: int) -> Iterator[Condition]:
    """The champion first, since all others are held against it."""
    training = config.training
    yield Condition(CHAMPION, changes={"seed": training.seed})
    for seed in range(1, sound + 1):
        yield Condition(f"sound-{seed}", changes={"seed": seed})
    settings: dict[str, dict[str, Any]] = {
        "rate": {"learning_rate": training.learning_rate * 100},
        "noise": {},
        "one_image": {},
        "scaled": {},
        "other_style": {},
        "half": {
            "max_train_steps": training.max_train_steps // 2,
            "lr_scheduler": "constant_with_warmup",
        },
    }
    for sabotage, changes in settings.items():
        for number in range(each):
            seed = {"seed": number + 1 if sabotage == "scaled" else BAD_SEEDS + number}
            yield Condition(f"{sabotage}-{number + 1}", sabotage, changes | seed)


@dataclass(frozen=True)
class Keys:
    """What trainings, images and scores are made from, each with what comes before it."""

    trained: str
    drawn: str
    scored: str


def keys_of(project: Project, config: ModelConfig, dataset: Path) -> Keys:
    base, judge = (
        base_resolve(one.source, one.revision, one.variant, project.root, marker=marker, key=key)
        for one, (marker, key) in (
            (config.base_model, WEIGHTS["base_model"]),
            (config.evaluation.judge, WEIGHTS["judge"]),
        )
    )
    inputs = {"dataset": read_json(dataset / "manifest.json")["content_hash"]}
    inputs["base_model"] = base.content_hash
    settings = config.evaluation.settings(project)
    trained = Recipe("trained", "gates", FAMILY.train.modules, inputs, config.training.model_dump())
    drawing = drawing_of(settings, dataset)
    drawn = Recipe("drawn", "gates", FAMILY.generate.modules, {"trained": trained.key}, drawing)
    inputs = {"drawn": drawn.key, "judge": judge.content_hash}
    scored = Recipe("scored", "gates", FAMILY.evaluate.modules, inputs, settings)
    return Keys(trained.key, drawn.key, scored.key)


def is_done(folder: Path, key: str) -> bool:
    """Whether `folder` holds what has this key."""
    marker = marker_of(folder)
    return folder.is_dir() and marker.is_file() and marker.read_text(encoding="utf-8") == key


def done(folder: Path, key: str) -> None:
    marker_of(folder).write_text(key, encoding="utf-8")


def marker_of(folder: Path) -> Path:
    """Beside the folder: an adapter with a file more is not sound."""
    return folder.with_name(f"{folder.name}.key")


def emptied(folder: Path) -> Path:
    marker_of(folder).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@contextmanager
def taken(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Whether this process alone makes what stands in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def spoilt(dataset: Path, target: Path, change: Callable[[int, Image.Image], Image.Image]) -> Path:
    """A copy of the dataset whose training images went through `change`."""
    content = read_json(dataset / "manifest.json")["content_hash"]
    with taken(target):
        if is_done(target, content):
            return target
        shutil.rmtree(target, ignore_errors=True)
        left_out = shutil.ignore_patterns("manifest.json")  # its hashes are no longer true
        shutil.copytree(dataset, target, copy_function=shutil.copyfile, ignore=left_out)
        lines = (dataset / "train.jsonl").read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            path = target / json.loads(line)["file_name"]
            with Image.open(path) as image:
                changed = change(number, image.convert("RGB"))
            changed.save(path)
        done(target, content)
    return target


def noise(number: int, image: Image.Image) -> Image.Image:
    shape = (image.height, image.width, 3)
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8))


def other_style(number: int, image: Image.Image) -> Image.Image:
    rng = np.random.default_rng(number)
    return Image.fromarray(draw_pattern(choose_pattern(rng), rng, image.width))


def data_for(condition: Condition, dataset: Path, work: Path) -> Path:
    if condition.sabotage == "noise":
        return spoilt(dataset, work / "noise", noise)
    if condition.sabotage == "other_style":
        return spoilt(dataset, work / "other_style", other_style)
    if condition.sabotage == "one_image":
        target = spoilt(dataset, work / condition.name / "dataset", lambda _, image: image)
        lines = (dataset / "train.jsonl").read_text(encoding="utf-8").splitlines()
        chosen = lines[condition.changes["seed"] % len(lines)]
        (target / "train.jsonl").write_text(f"{chosen}\n", encoding="utf-8")
        return target
    return dataset


def scale(source: Path, target: Path) -> None:
    """The adapter in `source` with each B times SCALE."""
    with safe_open(source / ADAPTER_FILE, "numpy") as file:
        metadata = file.metadata()
    tensors = {
        name: tensor * SCALE if "lora_B" in name else tensor
        for name, tensor in load_file(source / ADAPTER_FILE).items()
    }
    save_file(tensors, target / ADAPTER_FILE, metadata)


def make(
    project: Project, config: ModelConfig, condition: Condition, options: Any, keys: Keys
) -> Path:
    """Train and evaluate, as far as that is not done; the evaluation's folder.

    UserError, each time again, when the trainer gave no adapter.
    """
    folder, base = options.work / condition.name, config.base_model
    evaluated, adapter, refused = (folder / name for name in ("evaluation", "adapter", "refused"))
    if is_done(evaluated, keys.scored):
        return evaluated
    if is_done(refused, keys.trained):
        raise UserError(read_json(refused / "refusal.json")["sentence"])
    shared: dict[str, Any] = {
        "base": str(project.root / base.source),
        "variant": base.variant,
        "device": "cpu",
        "progress": print_progress,
    }
    data = data_for(condition, options.dataset, options.work)
    if not is_done(adapter, keys.trained):
        if not is_done(folder / "checkpoints", keys.trained):
            done(emptied(folder / "checkpoints"), keys.trained)
        emptied(adapter)
        if condition.sabotage == "scaled":
            sound = options.work / f"sound-{condition.changes['seed']}" / "adapter"
            if not is_done(sound, keys.trained):
                raise UserError(f"{sound} holds no adapter to scale yet")
            scale(sound, adapter)
        else:
            training = config.training.model_dump() | condition.changes
            try:
                train(
                    **shared,
                    dataset=str(data),
                    output=str(adapter),
                    training={n: v for n, v in training.items() if n not in PICTURES},
                    work=str(folder / "checkpoints"),
                    cache=str(options.work / "cache"),
                    resolution=config.data.resolution,
                )
            except UserError as error:
                write_json(emptied(refused) / "refusal.json", {"sentence": str(error)})
                done(refused, keys.trained)
                raise
        done(adapter, keys.trained)
    settings = config.evaluation.settings(project)
    images = {"adapter_images": folder / "images", "base_images": options.work / "base_images"}
    for name, output in images.items():
        with taken(output):
            if is_done(output, keys.drawn):
                continue
            emptied(output)
            draw(
                **shared,
                adapter=str(adapter) if name == "adapter_images" else None,
                drawing=drawing_of(settings, options.dataset),
                output=str(output),
            )
            done(output, keys.drawn)
    emptied(evaluated)
    # A sabotage hides its data, except where it is what a user may have done: too few images.
    seen = data if condition.sabotage == "one_image" else options.dataset
    score(
        dataset=str(seen),
        **{name: str(path) for name, path in images.items()},
        judge=str(project.root / config.evaluation.judge.source),
        evaluation=settings,
        output=str(evaluated),
        device="cpu",
        progress=print_progress,
        base_statistics=str(options.work / f"base_statistics-{keys.scored[:12]}")
        if seen is options.dataset
        else None,
    )
    done(evaluated, keys.scored)
    return evaluated


def make_all(project: Project, config: ModelConfig, options: Any, keys: Keys) -> None:
    """Make every condition, sharing the work with the processes that do the same."""
    for wait in (False, True):
        for condition in conditions(config, options.sound, options.each):
            with taken(options.work / condition.name, wait) as mine:
                if mine:
                    try:
                        make(project, config, condition, options, keys)
                    except UserError as error:
                        print(f"{condition.name}: {error}", flush=True)


def judge(config: ModelConfig, evaluated: Path, champion: Path | None) -> Verdict:
    """The verdict under the model's gates."""
    report, policy = read_json(evaluated / "report.json"), config.evaluation.gates
    found = comparisons(evaluated, champion, policy) if champion else ()
    return decide(report, read_json(evaluated / "timings.json"), policy, found)


def main() -> None:
    parser = argparse.ArgumentParser(description="Which gate refuses what.")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="indigo")
    parser.add_argument("--sound", type=int, default=20)
    parser.add_argument("--each", type=int, default=3, help="trainings of each sabotage")
    parser.add_argument("--sheet", type=Path, help="PNG: a row of images for each kind of training")
    options = parser.parse_args()
    if options.sound < options.each:
        parser.error("--sound: at least --each, whose adapters are scaled")
    options.work.mkdir(parents=True, exist_ok=True)
    project = Project.find()
    config = load_model(project, options.model)
    keys = keys_of(project, config, options.dataset)
    make_all(project, config, options, keys)
    outcomes: list[Outcome] = []
    champion: Path | None = None
    for condition in conditions(config, options.sound, options.each):
        try:
            evaluated = make(project, config, condition, options, keys)
        except UserError:
            if condition.name == CHAMPION:
                raise
            outcomes.append(Outcome(condition))
            continue
        outcomes.append(Outcome(condition, evaluated, judge(config, evaluated, champion)))
        champion = champion or evaluated
    scores_of_each(outcomes)
    ranges(outcomes[1:])
    among_sound([one for one in outcomes if one.kind == "sound"], config)
    if options.sheet:
        save_sheet(options.sheet, outcomes[1:])
    confusion(outcomes[1:])


@dataclass(frozen=True)
class Outcome:
    """What became of a condition; without an evaluation when the trainer gave no adapter."""

    condition: Condition
    evaluated: Path | None = None
    verdict: Verdict | None = None

    @property
    def kind(self) -> str:
        return self.condition.sabotage or "sound"

    @property
    def refused_by(self) -> list[str]:
        if self.verdict is None:
            return ["no adapter"]
        return [gate.name for gate in self.verdict.gates if not gate.passed]

    def score(self, metric: str) -> float | None:
        return self.evaluated and read_json(self.evaluated / "report.json")["scores"][metric]


def scores_of_each(outcomes: list[Outcome]) -> None:
    print("| condition |", " | ".join(METRICS), "| refused by |")
    print("|---" * (len(METRICS) + 2) + "|")
    for one in outcomes:
        cells = (shown(one.score(metric)) for metric in METRICS)
        print(f"| {one.condition.name} | {' | '.join(cells)} | {', '.join(one.refused_by)} |")


def ranges(outcomes: list[Outcome]) -> None:
    """What floors can be set by: from the lowest to the highest score of each kind."""
    kinds = list(dict.fromkeys(one.kind for one in outcomes if one.evaluated))
    print(f"\n| metric | {' | '.join(kinds)} |")
    print("|---" * (len(kinds) + 1) + "|")
    for metric in METRICS:
        cells = []
        for kind in kinds:
            found = [one.score(metric) for one in outcomes if one.kind == kind]
            known = [score for score in found if score is not None]
            cells.append(f"{shown(min(known))} to {shown(max(known))}" if known else "")
        print(f"| {metric} | {' | '.join(cells)} |")


def among_sound(outcomes: list[Outcome], config: ModelConfig) -> None:
    """What margins can be set by: the lower bounds of each sound training against every other."""
    policy, refused = config.evaluation.gates, 0
    bounds: dict[str, list[float]] = {}
    pairs = list(permutations((one.evaluated for one in outcomes if one.evaluated), 2))
    for challenger, champion in pairs:
        found = comparisons(challenger, champion, policy)
        refused += not all(comparison.passed for comparison in found)
        for comparison in found:
            if comparison.lower_bound is not None:
                bounds.setdefault(comparison.metric, []).append(comparison.lower_bound)
    print("\n| metric | margin | lower bound: mean | 1 % | worst |\n|---|---|---|---|---|")
    for metric, margin in policy.champion.margins.items():
        known = bounds[metric]
        cells = (margin, np.mean(known), np.quantile(known, 0.01), min(known))
        print(f"| {metric} | {' | '.join(f'{value:.3f}' for value in cells)} |")
    print(f"\nsound against sound: {refused} of {len(pairs)} comparisons refused")


def confusion(outcomes: list[Outcome]) -> None:
    """Gate against sabotage, in trainings refused; then the benchmark's result."""
    kinds = Counter(one.kind for one in outcomes)
    refusals = Counter((gate, one.kind) for one in outcomes for gate in one.refused_by)
    refused = Counter(one.kind for one in outcomes if one.refused_by)
    print(f"\n| gate | {' | '.join(f'{kind} ({count})' for kind, count in kinds.items())} |")
    print("|---" * (len(kinds) + 1) + "|")
    for gate in ("no adapter", *checks(GateConfig)):
        if any(refusals[gate, kind] for kind in kinds):
            print(f"| {gate} | {' | '.join(str(refusals[gate, kind]) for kind in kinds)} |")
    print(f"| any | {' | '.join(str(refused[kind]) for kind in kinds)} |")
    good, of_good = refused.pop("sound", 0), kinds.pop("sound")
    print(f"gates: refused_bad={refused.total()}/{kinds.total()} refused_good={good}/{of_good}")


def save_sheet(path: Path, outcomes: list[Outcome]) -> None:
    """A row of images for the first of each kind, of the same prompts and seeds."""
    first = {one.kind: one.evaluated for one in reversed(outcomes) if one.evaluated}
    rows = []
    for kind in dict.fromkeys(one.kind for one in outcomes if one.kind in first):
        files = [entry["file"] for entry in read_json(first[kind] / "images.json")]
        chosen = files[:: len(files) // SHOWN][:SHOWN]
        tiles = (Image.open(first[kind] / file).resize((TILE, TILE)) for file in chosen)
        rows.append(np.hstack([np.asarray(tile) for tile in tiles]))
    Image.fromarray(np.vstack(rows)).save(path)


def shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
