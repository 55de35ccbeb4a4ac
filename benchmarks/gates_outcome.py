"""What the gates' benchmark prints: scores, ranges, and the table of gate against sabotage."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from adire_assets.config.model import ModelConfig
from adire_assets.core.sabotage import Sabotage
from adire_assets.core.store import read_json
from adire_assets.gates.promotion import comparisons
from adire_assets.gates.verdict import Verdict

SHOWN, TILE = 6, 96  # images in a row of the sheet, and their pixels


@dataclass(frozen=True)
class Condition:
    """What is trained: with which settings of its own, and what happens to data or adapter."""

    name: str
    kind: str = "sound"
    settings: dict[str, Any] = field(default_factory=dict)
    sabotage: Sabotage = Sabotage()  # noqa: RUF009 (it cannot be changed)


@dataclass(frozen=True)
class Outcome:
    """What became of a condition; without an evaluation when the trainer gave no adapter."""

    condition: Condition
    evaluated: Path | None = None
    verdict: Verdict | None = None

    @property
    def kind(self) -> str:
        return self.condition.kind

    @property
    def refused_by(self) -> list[str]:
        if self.verdict is None:
            return ["no adapter"]
        return [gate.name for gate in self.verdict.gates if not gate.passed]

    def score(self, metric: str) -> float | None:
        return self.evaluated and read_json(self.evaluated / "report.json")["scores"][metric]


def scores_of_each(outcomes: list[Outcome], metrics: tuple[str, ...]) -> None:
    print("| condition |", " | ".join(metrics), "| refused by |")
    print("|---" * (len(metrics) + 2) + "|")
    for one in outcomes:
        cells = (shown(one.score(metric)) for metric in metrics)
        print(f"| {one.condition.name} | {' | '.join(cells)} | {', '.join(one.refused_by)} |")


def ranges(outcomes: list[Outcome], metrics: tuple[str, ...]) -> None:
    """What floors can be set by: from the lowest to the highest score of each kind."""
    kinds = list(dict.fromkeys(one.kind for one in outcomes if one.evaluated))
    print(f"\n| metric | {' | '.join(kinds)} |")
    print("|---" * (len(kinds) + 1) + "|")
    for metric in metrics:
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
        known = bounds.get(metric)
        if known is None:  # no prompt asks for it
            continue
        cells = (margin, np.mean(known), np.quantile(known, 0.01), min(known))
        print(f"| {metric} | {' | '.join(f'{value:.3f}' for value in cells)} |")
    print(f"\nsound against sound: {refused} of {len(pairs)} comparisons refused")


def confusion(outcomes: list[Outcome], gates: tuple[str, ...]) -> None:
    """Gate against sabotage, in trainings refused; then the benchmark's result."""
    kinds = Counter(one.kind for one in outcomes)
    refusals = Counter((gate, one.kind) for one in outcomes for gate in one.refused_by)
    refused = Counter(one.kind for one in outcomes if one.refused_by)
    print(f"\n| gate | {' | '.join(f'{kind} ({count})' for kind, count in kinds.items())} |")
    print("|---" * (len(kinds) + 1) + "|")
    for gate in ("no adapter", *gates):
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
