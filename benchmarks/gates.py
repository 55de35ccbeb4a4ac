"""Which gate refuses what: sabotaged trainings must be refused, sound ones must pass.

    python -m benchmarks.gates --dataset DIR --work DIR [--family causal_lm] [--model NAME]
                               [--sound 20] [--each 3] [--only rate,half]

DIR is a dataset artifact (the asset's `path` in Dagster). A champion is trained with the model's
seed, then --sound trainings with other seeds, and --each of every sabotage: those of the model's
family (`sabotages`), all or --only these, and for diffusion

    other_style  trained on what the base was trained on, under the captions of the model

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
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from adire_assets.config import held_weights
from adire_assets.config.model import ModelConfig, load_model
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family, family
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.sabotage import Sabotage
from adire_assets.core.store import Artifact, read_json, write_json
from adire_assets.core.worker import print_progress
from adire_assets.embedded.base.pattern_images import draw_pattern
from adire_assets.embedded.base.patterns import choose_pattern
from adire_assets.families.diffusion.sabotages import change_images
from adire_assets.gates.promotion import comparisons
from adire_assets.gates.verdict import Verdict, checks, decide
from benchmarks.gates_outcome import (
    Condition,
    Outcome,
    among_sound,
    confusion,
    ranges,
    save_sheet,
    scores_of_each,
)

MODELS = {"diffusion": "indigo", "causal_lm": "adire_letters"}  # the house example of each family
CHAMPION = "champion"
BAD_SEEDS = 1000  # the first of the sabotages' seeds, far from those of sound trainings


def conditions(config: ModelConfig, options: Any) -> Iterator[Condition]:
    """The champion first, since all others are held against it."""
    training, plug = config.training, family(config.family)
    yield Condition(CHAMPION, settings={"seed": training.seed})
    for seed in range(1, options.sound + 1):
        yield Condition(f"sound-{seed}", settings={"seed": seed})
    found = dict(plug.sabotages.functions.sabotages(training)) if plug.sabotages else {}
    if plug.name == "diffusion":
        found["other_style"] = Sabotage(
            dataset=lambda dataset, seed: change_images(dataset, other_style)
        )
    for name in options.only or found:
        sabotage = found[name]
        for number in range(options.each):
            seed = number + 1 if sabotage.adapter else BAD_SEEDS + number
            settings = {**sabotage.settings, "seed": seed}
            yield Condition(f"{name}-{number + 1}", name, settings, sabotage)


@dataclass(frozen=True)
class Subject:
    """The model whose gates are tried: its family, weights and settings; and the keys of what is
    trained, answered and scored, each with what comes before it."""

    config: ModelConfig
    plug: Family
    base: Artifact
    judge: Artifact
    settings: dict[str, Any]
    drawing: dict[str, Any]
    trained: str
    drawn: str
    scored: str


def subject_of(project: Project, model: str, dataset: Path) -> Subject:
    config = load_model(project, model)
    plug = family(config.family)
    base, judge = (held_weights.known(project, model, kind) for kind in ("base_model", "judge"))
    if base is None or judge is None:
        raise UserError(f"the store lacks base or judge; run `adire materialize {model}` first")
    settings = config.evaluation_settings(project)
    drawing = plug.drawing.functions.drawing_of(settings, dataset)
    inputs = {"dataset": read_json(dataset / "manifest.json")["content_hash"]}
    inputs["base_model"] = base.content_hash
    trained = Recipe("trained", "gates", plug.train.modules, inputs, config.training.model_dump())
    drawn = Recipe("drawn", "gates", plug.generate.modules, {"trained": trained.key}, drawing)
    inputs = {"drawn": drawn.key, "judge": judge.content_hash}
    scored = Recipe("scored", "gates", plug.evaluate.modules, inputs, settings)
    keys = (trained.key, drawn.key, scored.key)
    return Subject(config, plug, base, judge, settings, drawing, *keys)


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


def spoilt(dataset: Path, target: Path, condition: Condition) -> Path:
    """A copy of the dataset as the condition's sabotage leaves it."""
    content = read_json(dataset / "manifest.json")["content_hash"]
    with taken(target):
        if not is_done(target, content):
            shutil.rmtree(target, ignore_errors=True)
            left_out = shutil.ignore_patterns("manifest.json")  # its hashes are no longer true
            shutil.copytree(dataset, target, copy_function=shutil.copyfile, ignore=left_out)
            assert condition.sabotage.dataset
            condition.sabotage.dataset(target, condition.settings["seed"])
            done(target, content)
    return target


def other_style(number: int, image: Image.Image) -> Image.Image:
    rng = np.random.default_rng(number)
    return Image.fromarray(draw_pattern(choose_pattern(rng), rng, image.width))


def make(subject: Subject, condition: Condition, options: Any) -> Path:
    """Train and evaluate, as far as that is not done; the evaluation's folder.

    UserError, each time again, when the trainer gave no adapter.
    """
    folder, plug, sabotage = options.work / condition.name, subject.plug, condition.sabotage
    evaluated, adapter, refused = (folder / name for name in ("evaluation", "adapter", "refused"))
    if is_done(evaluated, subject.scored):
        return evaluated
    if is_done(refused, subject.trained):
        raise UserError(read_json(refused / "refusal.json")["sentence"])
    shared: dict[str, Any] = {
        "base_model": str(subject.base.path),
        "device": "cpu",
        "progress": print_progress,
    }
    data = options.dataset
    if sabotage.dataset:
        data = spoilt(data, folder / "dataset", condition)
    if not is_done(adapter, subject.trained):
        if not is_done(folder / "checkpoints", subject.trained):
            done(emptied(folder / "checkpoints"), subject.trained)
        emptied(adapter)
        if sabotage.adapter:
            sound = options.work / f"sound-{condition.settings['seed']}" / "adapter"
            if not is_done(sound, subject.trained):
                raise UserError(f"{sound} holds no adapter to spoil yet")
            shutil.copytree(sound, adapter, dirs_exist_ok=True)
            sabotage.adapter(adapter)
        else:
            training = subject.config.training.model_dump() | condition.settings
            unneeded = plug.sabotages.functions.UNNEEDED if plug.sabotages else ()
            try:
                plug.train.functions.train(
                    **shared,
                    dataset=str(data),
                    output=str(adapter),
                    training={n: v for n, v in training.items() if n not in unneeded},
                    work=str(folder / "checkpoints"),
                    cache=str(options.work / "cache"),
                )
            except UserError as error:
                write_json(emptied(refused) / "refusal.json", {"sentence": str(error)})
                done(refused, subject.trained)
                raise
        done(adapter, subject.trained)
    answers = {"adapter_images": folder / "images", "base_images": options.work / "base_images"}
    for name, output in answers.items():
        with taken(output):
            if is_done(output, subject.drawn):
                continue
            emptied(output)
            plug.generate.functions.draw(
                **shared,
                adapter=str(adapter) if name == "adapter_images" else None,
                drawing=subject.drawing,
                output=str(output),
            )
            done(output, subject.drawn)
    emptied(evaluated)
    seen = data if sabotage.evaluated else options.dataset
    plug.evaluate.functions.score(
        dataset=str(seen),
        **{name: str(path) for name, path in answers.items()},
        judge=str(subject.judge.path),
        evaluation=subject.settings,
        output=str(evaluated),
        device="cpu",
        progress=print_progress,
        base_statistics=str(options.work / f"base_statistics-{subject.scored[:12]}")
        if seen is options.dataset
        else None,
    )
    done(evaluated, subject.scored)
    return evaluated


def make_all(subject: Subject, options: Any) -> None:
    """Make every condition, sharing the work with the processes that do the same."""
    for wait in (False, True):
        for condition in conditions(subject.config, options):
            with taken(options.work / condition.name, wait) as mine:
                if mine:
                    try:
                        make(subject, condition, options)
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
    parser.add_argument("--family", choices=MODELS, default="diffusion")
    parser.add_argument("--model", help="default: the house example of the family")
    parser.add_argument("--sound", type=int, default=20)
    parser.add_argument("--each", type=int, default=3, help="trainings of each sabotage")
    parser.add_argument("--only", type=lambda text: text.split(","), help="names of sabotages")
    parser.add_argument("--sheet", type=Path, help="PNG: a row of images for each kind of training")
    options = parser.parse_args()
    if options.sound < options.each:
        parser.error("--sound: at least --each, whose adapters are scaled")
    options.work.mkdir(parents=True, exist_ok=True)
    project = Project.find()
    subject = subject_of(project, options.model or MODELS[options.family], options.dataset)
    config = subject.config
    if options.sheet and subject.plug.answer != "image":
        parser.error("--sheet: shows images, and this model answers with none")
    make_all(subject, options)
    outcomes: list[Outcome] = []
    champion: Path | None = None
    for condition in conditions(config, options):
        try:
            evaluated = make(subject, condition, options)
        except UserError:
            if condition.name == CHAMPION:
                raise
            outcomes.append(Outcome(condition))
            continue
        outcomes.append(Outcome(condition, evaluated, judge(config, evaluated, champion)))
        champion = champion or evaluated
    metrics = config.evaluation.gates.METRICS
    scores_of_each(outcomes, metrics)
    ranges(outcomes[1:], metrics)
    among_sound([one for one in outcomes if one.kind == "sound"], config)
    if options.sheet:
        save_sheet(options.sheet, outcomes[1:])
    confusion(outcomes[1:], tuple(checks(type(config.evaluation.gates))))


if __name__ == "__main__":
    main()
