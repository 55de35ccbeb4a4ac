"""From artefacts to the report's view: the only place that knows what their files call things.

    view_of(Sources(...))    a ReportView for `html_report.html` and `html_report.ab_sheet`

Contract: reads folders of the artefact store and changes nothing. An evaluation made by an older
version lacks some files or keys; what is not there is left out of the view, never made up.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from adire_assets import policy
from adire_assets.errors import UserError
from adire_assets.evaluation.html_report import (
    BatchSpeed,
    Change,
    Distribution,
    Fact,
    Facts,
    GateView,
    Pair,
    Picture,
    PromptView,
    ReportView,
    Shown,
    Variant,
    number,
    picture,
    title,
)
from adire_assets.evaluation.verdict import CHAMPION_GATE_NAMES, Verdict

Json = Mapping[str, Any]
Key = tuple[str, int]  # prompt and seed: what pairs the images of all variants

PROMPTS_SHOWN = 4  # worst, and as many best
MAXIMUM_PAIRS = 40  # of the blind sheet: what one person rates in some ten minutes
RANKED_BY = "clip_s"
# metric -> report.json's key of what real images reach, drawn as a line
HELD_OUT = {"clip_s": "clip_s_held_out_mean"}
COST_NAMES = {
    "cold_load_seconds": ("Loading, cold", "s"),
    "first_image_seconds": ("First image", "s"),
    "seconds_per_image_mean": ("Seconds per image", "s"),
    "peak_memory_bytes": ("Peak memory", "MiB"),
}


@dataclass(frozen=True)
class Sources:
    """Folders of artefacts; what is None is not known."""

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
    report = _json(sources.evaluation / "report.json")
    if not report:
        raise UserError(
            f"{sources.evaluation} holds no report.json; materialize {sources.model}/"
            "evaluation_report"
        )
    timings = _json(sources.evaluation / "timings.json")
    other = _json(sources.champion / "timings.json") if sources.champion else {}
    speeds: dict[Variant, tuple[BatchSpeed, ...]] = {
        "challenger": _speed(timings),
        "champion": _speed(other),
    }
    own, champion = _Drawn(sources.evaluation), _Drawn(sources.champion)
    real = _Real(sources.dataset)
    verdict = _json(sources.verdict / "verdict.json") if sources.verdict else {}
    decided = _json(sources.verdict / "manifest.json") if sources.verdict else {}
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
            Change(one["key"], policy.shown(one["before"]), policy.shown(one["now"]))
            for one in verdict.get("weakened", ())
        ),
        weaker_than=verdict.get("weaker_than", ""),
        uncommitted=tuple(decided.get("uncommitted", ())),
        refused_before=decided.get("refused_before", 0),
        gates=(
            *(
                _gate(gate)
                for gate in verdict.get("gates", ())
                if gate["name"] not in CHAMPION_GATE_NAMES  # shown with all that was compared
            ),
            *(_comparison(found) for found in verdict.get("comparisons", ())),
        ),
        ranked_by=title(RANKED_BY),
        worst=tuple(_prompt(key, own, champion, real) for key in weakest),
        best=tuple(_prompt(key, own, champion, real) for key in strongest),
        distributions=tuple(_distributions(report, own, champion)),
        speed={variant: points for variant, points in speeds.items() if points},
        costs=tuple(_costs(timings, other)),
        lineage=tuple(_lineage(sources, report)),
        pairs=tuple(_pairs(own, champion)) if pairs else (),
    )


class _Drawn:
    """An evaluation's images and scores by prompt and seed; empty without a folder."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        listed = _json(path / "images.json") if path else []
        report = _json(path / "report.json") if path else {}
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


def _costs(timings: Json, champion: Json) -> Iterable[Fact]:
    for key, (name, unit) in COST_NAMES.items():
        if timings.get(key) is not None:
            other = champion.get(key)
            note = f"champion {_amount(other, unit)}" if other is not None else ""
            yield Fact(name, _amount(timings[key], unit), note)
    if device := timings.get("device"):
        threads = timings.get("threads")
        yield Fact("Device", device, f"{threads} threads" if device == "cpu" and threads else "")


def _amount(value: float, unit: str) -> str:
    return f"{number(value / 2**20 if unit == 'MiB' else value)} {unit}"


def _lineage(sources: Sources, report: Json) -> Iterable[Facts]:
    evaluation = _json(sources.evaluation / "manifest.json")
    adapter = _json(sources.adapter / "manifest.json") if sources.adapter else {}
    base = _json(sources.base_model / "manifest.json") if sources.base_model else {}
    recipe = evaluation.get("recipe", {})
    settings = recipe.get("config", {})
    yield _facts(
        "Adapter",
        {
            **_code(adapter.get("code", {})),
            "Trained": adapter.get("created"),
            "Recipe key": adapter.get("key"),
            "Content hash": adapter.get("content_hash"),
            "Training seed": adapter.get("seed"),
            "MLflow run": adapter.get("mlflow_run_id"),
        },
    )
    yield _facts(
        "Data and base model",
        {
            "DVC hash": adapter.get("dvc_hash"),
            "Data hash": adapter.get("data_hash"),
            "Dataset": adapter.get("dataset", {}).get("content_hash"),
            "Base model": base.get("source"),
            "Revision": base.get("revision"),
            "Base content": base.get("content_hash"),
        },
    )
    listed = "the config's list" if settings.get("prompts") else "captions of the held-out images"
    yield _facts(
        "Evaluation",
        {
            **_code(evaluation.get("code", {})),
            "Made": evaluation.get("created"),
            "Prompt set": settings.get("prompt_set") or listed,
            "Seeds, of the first prompt": ", ".join(map(str, report.get("seeds", ()))),
            "Steps": settings.get("num_inference_steps"),
            "Guidance scale": settings.get("guidance_scale"),
            "Negative prompt": settings.get("negative_prompt"),
            "Judge": report.get("judge"),
            "Judge's content": recipe.get("inputs", {}).get("judge"),
            "Recipe key": evaluation.get("key"),
            "Content hash": evaluation.get("content_hash"),
            "Processor": evaluation.get("hardware", {}).get("cpu"),
        },
    )
    hyperparameters = adapter.get("recipe", {}).get("config", {})
    yield _facts("Hyperparameters", hyperparameters, dense=True)
    yield _facts("Libraries and hardware", recipe.get("environment", {}), dense=True)


def _facts(heading: str, values: Json, *, dense: bool = False) -> Facts:
    known = {name: v for name, v in values.items() if dense or v not in (None, "")}
    return Facts(heading, tuple(Fact(name, _plain(v)) for name, v in known.items()), dense)


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {item}" for name, item in value.items()) or "none"
    return json.dumps(value)


def _code(identity: Json) -> dict[str, Any]:
    if "commit" not in identity:
        return {"Build": identity.get("build")}
    changed = "with local changes that the commit lacks" if identity.get("dirty") else "clean"
    return {"Git commit": identity["commit"], "Working tree": changed}


def _finite(values: Json) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
