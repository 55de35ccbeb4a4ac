"""Which scheduler draws as well as the base's own in fewer steps.

    python -m benchmarks.few_steps --dataset DIR --adapter DIR [--model indigo] [--rounds 5]
        [--schedulers UniPCMultistepScheduler,...] [--steps 4,6,8,10,12,15,20,30]

DIR are artifacts (the assets' `path` in Dagster). The model's prompts and seeds are drawn with the
adapter by each scheduler that fits the base, in each number of steps, and scored as an evaluation
scores them. Each is compared with the base's own scheduler in the most steps as a release is with
the live one: it is as good where no metric is worse by the model's margins. Seconds are those of
one image at a time, the medians of --rounds rounds in which all have their turn. The last line
names the fastest that is as good; its quality_ratio is the least of CLIP-S, style similarity and
attribute accuracy against the base's own:

    few_steps: default=<scheduler>/<steps> quality_ratio=<x> time_ratio=<x>
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from adire_assets.config.model import load_model
from adire_assets.core.project import Project
from adire_assets.core.store import read_json
from adire_assets.families.diffusion.engine.sampling import Request, Sampler
from adire_assets.families.diffusion.evaluation.drawing import drawing_of
from adire_assets.families.diffusion.evaluation.evaluate import score
from adire_assets.families.diffusion.evaluation.images import draw
from adire_assets.families.diffusion.schedulers import SCHEDULERS, refusal
from adire_assets.gates.promotion import comparisons

STEPS = (4, 6, 8, 10, 12, 15, 20, 30)
SHARES = ("clip_s", "style_similarity", "attribute_accuracy")  # of which quality_ratio is the least
SHOWN = (*SHARES, "kid", "diversity", "sharpness", "exposure")


def silent(message: str, **numbers: Any) -> None:
    """The progress of hundreds of drawings is not looked at."""


@dataclass(frozen=True)
class Way:
    scheduler: str
    steps: int

    def __str__(self) -> str:
        return f"{self.scheduler}/{self.steps}"


class Bench:
    """What all ways are drawn and judged by; `root` keeps the evaluation of each."""

    def __init__(self, options: argparse.Namespace, root: Path) -> None:
        self.project, self.root, self.options = Project.find(), root, options
        self.config: Any = load_model(self.project, options.model)
        self.base = self.project.root / self.config.base_model.source
        self.settings = self.config.evaluation_settings(self.project)
        self.drawing = drawing_of(self.settings, options.dataset)
        self.own = read_json(self.base / "scheduler" / "scheduler_config.json")["_class_name"]

    def ways(self) -> list[Way]:
        """The base's own first."""
        most = max(self.options.steps)
        asked = self.options.schedulers or SCHEDULERS
        others = [n for n in asked if n != self.own and refusal(self.base, n, most) is None]
        return [Way(name, steps) for name in (self.own, *others) for steps in self.options.steps]

    def draw(self, way: Way, adapter: Path | None, folder: Path) -> Path:
        """The images of an evaluation in the new `folder`."""
        folder.mkdir()
        draw(
            base=str(self.base),
            variant=self.config.base_model.variant,
            adapter=str(adapter) if adapter else None,
            drawing=self.drawing | {"scheduler": way.scheduler, "num_inference_steps": way.steps},
            output=str(folder),
            device="cpu",
            progress=silent,
        )
        return folder

    def evaluate(self, way: Way, of_base: Path) -> Path:
        """The folder of an evaluation; its scores are in report.json."""
        name = str(way).replace("/", "-")
        drawn = self.draw(way, self.options.adapter, self.root / f"{name}-images")
        output = self.root / name
        output.mkdir()
        score(
            dataset=str(self.options.dataset),
            adapter_images=str(drawn),
            base_images=str(of_base),
            judge=str(self.project.root / self.config.evaluation.judge.source),
            evaluation=self.settings,
            output=str(output),
            device="cpu",
            progress=silent,
            base_statistics=str(self.root / "base_statistics"),
        )
        return output

    def seconds(self, ways: list[Way]) -> dict[Way, float]:
        """Of one image at a time."""
        options, variant = self.options, self.config.base_model.variant
        sampler = Sampler(self.base, variant, options.adapter, "cpu")
        taken: dict[Way, list[float]] = {way: [] for way in ways}
        for number in range(options.rounds + 1):
            for way in ways if number % 2 else reversed(ways):
                request = Request(
                    self.drawing["prompts"][0],
                    self.drawing["negative_prompt"],
                    number,
                    way.steps,
                    self.drawing["guidance_scale"],
                    scheduler=way.scheduler,
                )
                began = time.perf_counter()
                sampler.generate([request])
                if number:  # the first round warms all up
                    taken[way].append(time.perf_counter() - began)
        return {way: median(values) for way, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Which scheduler needs few steps.")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--model", default="indigo")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--schedulers", type=lambda text: text.split(","), default=[])
    parser.add_argument(
        "--steps", type=lambda text: [int(steps) for steps in text.split(",")], default=[*STEPS]
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="adire-few-steps-") as folder:
        bench = Bench(options, Path(folder))
        run(bench, bench.ways())


def run(bench: Bench, ways: list[Way]) -> None:
    reference = Way(bench.own, max(bench.options.steps))
    of_base = bench.draw(reference, None, bench.root / "base-images")
    champion = bench.evaluate(reference, of_base)
    seconds = bench.seconds(ways)
    best = read_json(champion / "report.json")["scores"]
    print(f"| way | s/image | {' | '.join(SHOWN)} | worse than {reference} |")
    print("|" + "---|" * (len(SHOWN) + 3))
    as_good: dict[Way, float] = {}
    for way in ways:
        found = champion if way == reference else bench.evaluate(way, of_base)
        scores = read_json(found / "report.json")["scores"]
        gates = bench.config.evaluation.gates
        compared = comparisons(found, champion, gates, same_answers=way == reference)
        worse = [one.metric for one in compared if not one.passed]
        values = " | ".join(f"{scores[name]:.3f}" for name in SHOWN)
        print(f"| {way} | {seconds[way]:.3f} | {values} | {', '.join(worse) or '-'} |", flush=True)
        if not worse:
            as_good[way] = min(scores[name] / best[name] for name in SHARES)
    chosen = min(as_good, key=lambda way: seconds[way])
    print(
        f"few_steps: default={chosen} quality_ratio={as_good[chosen]:.3f} "
        f"time_ratio={seconds[chosen] / seconds[reference]:.2f}"
    )


if __name__ == "__main__":
    main()
