"""From artifacts to the report's view: the only place that knows what their files call things.

    view_of(Sources(...))    a ReportView for `document.html` and `document.ab_sheet`

Contract: reads folders of the artifact store and changes nothing. An evaluation made by an older
version lacks some files or keys; what is not there is left out of the view, never made up.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from PIL import Image

from adire_assets.core.errors import UserError
from adire_assets.gates import policy
from adire_assets.gates.report.document import (
    BatchSpeed,
    Change,
    Distribution,
    GateView,
    Pair,
    Picture,
    PromptView,
    ReportView,
    Shown,
    Variant,
    picture,
    title,
)
from adire_assets.gates.report.facts import Json, costs, json_of, lineage
from adire_assets.gates.verdict import CHAMPION, Verdict

Key = tuple[str, int]  # prompt and seed: what pairs the images of all variants

PROMPTS_SHOWN = 4  # worst, and as many best
MAXIMUM_PAIRS = 40  # of the blind sheet: what one person rates in some ten minutes
RANKED_BY = "clip_s"
# metric -> report.json's key of what real images reach, drawn as a line
HELD_OUT = {"clip_s": "clip_s_held_out_mean"}


@dataclass(frozen=True)
class Sources:
    """Folders of artifacts; what is None is not known."""

    model: str
    evaluation: Path
    name: str  # how people call the challenger: "release 4"
    release: int | None = None
    verdict: Path | None = None
    dataset: Path | None = None
    adapter: Path | None = None
    base_model: Path | None = None
    champion: Path | None = None  # the champion's evaluation
    champion_release: int | None = None


def view_of(sources: Sources, *, pairs: bool = False) -> ReportView:
    """The view of one evaluation; with `pairs` also the pictures of the blind sheet."""
    report = json_of(sources.evaluation / "report.json")
    if not report:
        raise UserError(
            f"{sources.evaluation} holds no report.json; materialize {sources.model}/"
            "evaluation_report"
        )
    timings = json_of(sources.evaluation / "timings.json")
    other = json_of(sources.champion / "timings.json") if sources.champion else {}
    speeds: dict[Variant, tuple[BatchSpeed, ...]] = {
        "challenger": _speed(timings),
        "champion": _speed(other),
    }
    own, champion = _Drawn(sources.evaluation), _Drawn(sources.champion)
    real = _Real(sources.dataset)
    verdict = json_of(sources.verdict / "verdict.json") if sources.verdict else {}
    decided = json_of(sources.verdict / "manifest.json") if sources.verdict else {}
    ranked = sorted(
        (key for key in own.images if own.scores.get(key, {}).get(RANKED_BY) is not None),
        key=lambda key: own.scores[key][RANKED_BY],
    )
    shown = min(PROMPTS_SHOWN, len(ranked) // 2)
    weakest = _one_a_prompt(ranked)[:shown]
    strongest = [key for key in _one_a_prompt(ranked[::-1]) if key not in weakest][:shown]
    return ReportView(
        model=sources.model,
        name=sources.name,
        release=sources.release,
        champion_release=sources.champion_release,
        sentence=_sentence(verdict),
        passed=verdict.get("passed"),
        summary=_summary(report),
        problems=tuple(report.get("adapter_problems") or ()),
        weakened=tuple(
            Change(one["key"], policy.shortened(one["before"]), policy.shortened(one["now"]))
            for one in verdict.get("weakened", ())
        ),
        weaker_than=verdict.get("weaker_than", ""),
        uncommitted=tuple(decided.get("uncommitted", ())),
        refused_before=decided.get("refused_before", 0),
        gates=(
            *(
                _gate(gate)
                for gate in verdict.get("gates", ())
                if not gate["name"].startswith(CHAMPION)  # shown with all that was compared
            ),
            *(_comparison(found) for found in verdict.get("comparisons", ())),
        ),
        ranked_by=title(RANKED_BY),
        worst=tuple(_prompt(key, own, champion, real) for key in weakest),
        best=tuple(_prompt(key, own, champion, real) for key in strongest),
        distributions=tuple(_distributions(report, own, champion)),
        speed={variant: points for variant, points in speeds.items() if points},
        costs=tuple(costs(timings, other)),
        lineage=tuple(lineage(sources.evaluation, sources.adapter, sources.base_model, report)),
        pairs=tuple(_pairs(own, champion)) if pairs else (),
    )


class _Drawn:
    """An evaluation's images and scores by prompt and seed; empty without a folder."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        listed = json_of(path / "images.json") if path else []
        report = json_of(path / "report.json") if path else {}
        self.images: dict[Key, Json] = {(e["prompt"], e["seed"]): e for e in listed}
        self.nearest: dict[Key, str] = {}  # to the adapter's image, of the held-out files
        self.scores: dict[Key, dict[str, float]] = {}
        self.base_scores: dict[Key, dict[str, float]] = {}
        for entry in report.get("per_image", ()):
            if "prompt" not in entry:
                continue
            key = (entry["prompt"], entry["seed"])
            if nearest := entry.get("nearest_held_out"):
                self.nearest[key] = nearest
            flat = {name: v for name, v in entry.items() if name not in ("prompt", "seed")}
            bare = {n.removesuffix("_base"): v for n, v in flat.items() if n.endswith("_base")}
            with_adapter = {n: v for n, v in flat.items() if not n.endswith("_base")}
            self.scores[key] = _finite(with_adapter | entry.get("scores", {}))
            self.base_scores[key] = _finite(bare | entry.get("base_scores", {}))

    def picture(self, key: Key, which: str = "file") -> Picture | None:
        """The image of `key`, or with which="base_file" the base's."""
        name = self.images.get(key, {}).get(which)
        return _picture(self.path, name) if self.path and name else None


class _Real:
    """The held-out images of a dataset."""

    def __init__(self, dataset: Path | None) -> None:
        self.path = dataset
        file = dataset / "held_out.jsonl" if dataset else None
        lines = file.read_text(encoding="utf-8").splitlines() if file and file.is_file() else []
        rows = [json.loads(line) for line in lines]
        self.by_caption = {row["text"]: row["file_name"] for row in reversed(rows)}

    def beside(self, prompt: str, nearest: str | None) -> Shown | None:
        """The nearest one, as the evaluation found it, else one with the prompt as its caption."""
        name = nearest or self.by_caption.get(prompt)
        found = _picture(self.path, name) if self.path and name else None
        if found is None:
            return None
        return Shown("real", found, note="the nearest one" if nearest else "the same caption")


def _picture(folder: Path, name: str) -> Picture | None:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    return picture(Image.open(path))


def _prompt(key: Key, own: _Drawn, champion: _Drawn, real: _Real) -> PromptView:
    found: list[tuple[Variant, Picture | None, Json]] = [
        ("base", own.picture(key, "base_file"), own.base_scores.get(key, {})),
        ("champion", champion.picture(key), champion.scores.get(key, {})),
        ("challenger", own.picture(key), own.scores.get(key, {})),
    ]
    shown = [
        Shown(variant, drawn, {title(name): value for name, value in scores.items()})
        for variant, drawn, scores in found
        if drawn is not None
    ]
    beside = real.beside(key[0], own.nearest.get(key))
    return PromptView(*key, (*shown, *([beside] if beside else [])))


def _one_a_prompt(keys: Iterable[Key]) -> list[Key]:
    """The first key of each prompt: one prompt that failed must not fill the page."""
    return list({prompt: (prompt, seed) for prompt, seed in reversed(list(keys))}.values())[::-1]


def _pairs(own: _Drawn, champion: _Drawn) -> Iterable[Pair]:
    """What both have drawn, spread evenly over prompts when it is too much for one person."""
    common = [key for key in own.images if key in champion.images]
    if len(common) > MAXIMUM_PAIRS:
        places = np.linspace(0, len(common) - 1, MAXIMUM_PAIRS).round().astype(int)
        common = [common[place] for place in places]
    for key in common:
        challenger, other = own.picture(key), champion.picture(key)
        if challenger and other:
            name = Path(own.images[key]["file"]).stem
            yield Pair(name, *key, challenger, other)


def _gate(gate: Json) -> GateView:
    known = {field.name for field in fields(GateView)}
    view = GateView(**{name: value for name, value in gate.items() if name in known})
    waived = view.explanation.startswith("not required")
    return replace(view, special="not required") if waived else view


def _comparison(found: Json) -> GateView:
    """A metric against the champion: what must hold is lower bound > -margin, the allowed loss."""
    lower, allowed = found["lower_bound"], found["margin"]
    undecided = not found["passed"] and not found.get("decidable", True)
    return GateView(
        name=found["metric"],
        value=lower,
        threshold=-allowed,
        comparison=">",
        margin=None if lower is None else lower + allowed,
        passed=found["passed"],
        explanation=found.get("explanation", ""),
        difference=found["difference"],
        lower_bound=lower,
        smallest_effect=found.get("smallest_effect"),
        special="undecided" if undecided else "",
    )


def _sentence(verdict: Json) -> str:
    if not verdict:
        return "no verdict yet: materialize promotion_verdict to have this evaluation judged"
    return Verdict.from_dict(verdict).sentence()


def _summary(report: Json) -> str:
    parts = [f"{report.get('images', 0)} images"]
    if report.get("prompts"):
        parts += [f" of {report['prompts']} prompts, each with seeds of its own"]
    if report.get("held_out_images"):
        parts += [f", against {report['held_out_images']} real images that training never saw"]
    if report.get("judge"):
        parts += [f". The judge is {report['judge']}; its scores compare with no other judge's"]
    return "".join(parts) + "."


def _distributions(report: Json, own: _Drawn, champion: _Drawn) -> Iterable[Distribution]:
    metrics = dict.fromkeys(name for scores in own.scores.values() for name in scores)
    known = report.get("metrics", {})
    keys = list(own.scores)  # dots are labelled by place, so all variants keep this order
    for metric in metrics:
        groups: dict[Variant, Mapping[Key, Json]] = {
            "base": own.base_scores,
            "champion": champion.scores,
            "challenger": own.scores,
        }
        values = {
            variant: tuple(scores[key][metric] for key in keys if metric in scores.get(key, {}))
            for variant, scores in groups.items()
        }
        held_out = report.get(HELD_OUT.get(metric, ""))
        complete = all(len(found) in (0, len(keys)) for found in values.values())
        yield Distribution(
            title(metric),
            {variant: found for variant, found in values.items() if found},
            tuple(f"{prompt}, seed {seed}" for prompt, seed in keys) if complete else (),
            unit=known.get(metric, {}).get("unit", ""),
            better=known.get(metric, {}).get("better", ""),
            marks={} if held_out is None else {"mean of the held-out real images": held_out},
        )


def _speed(timings: Json) -> tuple[BatchSpeed, ...]:
    """By batch size where that was measured, else single images alone."""
    if by_size := timings.get("by_batch_size"):
        names = (
            "batch_size",
            "images_per_second",
            "seconds_per_image_p50",
            "seconds_per_image_p95",
        )
        return tuple(BatchSpeed(*(entry[name] for name in names)) for entry in by_size)
    singles = timings.get("seconds_per_image") or ()
    if not singles:
        return ()
    middle, slow = np.percentile(singles, [50, 95])
    return (BatchSpeed(1, 1 / float(np.mean(singles)), float(middle), float(slow)),)


def _finite(values: Json) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
