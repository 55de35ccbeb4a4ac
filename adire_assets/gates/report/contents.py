"""From artifacts to the report's view: the only place that knows what their files call things.

    view_of(project, evaluation, ...)    a ReportView for `document.html` and `document.ab_sheet`

Contract: reads folders of the artifact store and changes nothing. What was asked and answered, the
family reads (`samples`). An evaluation made by an older version lacks some files or keys; what is
not there is left out of the view, never made up.
"""

from collections.abc import Iterable, Mapping
from statistics import mean, quantiles

from adire_assets.config.model import family_of
from adire_assets.core.project import Project
from adire_assets.core.sample import Answer, Sample
from adire_assets.core.store import Artifact, Store, read_json
from adire_assets.gates.report.document import (
    BatchSpeed,
    Distribution,
    GateView,
    Json,
    Pair,
    PromptView,
    ReportView,
    Shown,
    Variant,
)
from adire_assets.gates.verdict import CHAMPION, Verdict

Key = tuple[str, int]  # prompt and seed: what pairs the answers of all variants
Samples = Mapping[Key, Sample]

PROMPTS_SHOWN = 4  # worst, and as many best
MAXIMUM_PAIRS = 40  # of the blind sheet: what one person rates in some ten minutes


def view_of(
    project: Project,
    evaluation: Artifact,
    release: int | None,
    verdict: Artifact | None,
    champion: Artifact | None,
    champion_release: int | None,
    *,
    pairs: bool = False,
) -> ReportView:
    """The view of an evaluation, of release `release` if there is one, beside that of the champion;
    with `pairs` also the answers of the blind sheet."""
    made_from = {
        kind: Store(project).recall(evaluation.manifest[kind])
        for kind in ("dataset", "lora_weights", "base_model")
    }
    report, timings = evaluation.json("report.json"), evaluation.json("timings.json")
    kept = champion.path / "timings.json" if champion else None  # gone where only its manifest is
    other = read_json(kept) if kept and kept.is_file() else {}
    decided = verdict.json("verdict.json") if verdict else {}
    family = family_of(project, evaluation.model)
    answer, gates = family.answer, family.gate_config()

    def samples(of: Artifact | None) -> Samples:
        found = family.samples.functions.samples(of.path, made_from["dataset"].path) if of else []
        return {sample.key: sample for sample in found}

    speeds: dict[Variant, tuple[BatchSpeed, ...]] = {
        "challenger": _speed(timings, answer),
        "champion": _speed(other, answer),
    }
    own, rival = samples(evaluation), samples(champion)
    metric = gates.METRICS[0]
    better = report.get("metrics", {}).get(metric, {}).get("better", "higher")
    ranked = sorted(
        (key for key, sample in own.items() if metric in sample.adapter.scores),
        key=lambda key: own[key].adapter.scores[metric] * (1 if better == "higher" else -1),
    )
    shown = min(PROMPTS_SHOWN, len(ranked) // 2)
    weakest = _one_a_prompt(ranked)[:shown]
    strongest = [key for key in _one_a_prompt(ranked[::-1]) if key not in weakest][:shown]
    adapter = made_from["lora_weights"]
    return ReportView(
        model=evaluation.model,
        answer=answer,
        name=f"release {release}" if release else f"adapter {adapter.key[:12]}",
        release=release,
        champion_release=champion_release,
        sentence=_sentence(decided),
        report=report,
        timings=timings,
        champion_timings=other,
        verdict=decided,
        decided=verdict.manifest if verdict else {},
        evaluation=evaluation.manifest,
        adapter=adapter.manifest,
        base_model=made_from["base_model"].manifest,
        gates=tuple(_gates(decided)),
        ranked_by=metric,
        worst=tuple(_prompt(key, own, rival) for key in weakest),
        best=tuple(_prompt(key, own, rival) for key in strongest),
        distributions=tuple(_distributions(report, own, rival, answer)),
        speed={variant: points for variant, points in speeds.items() if points},
        pairs=tuple(_pairs(own, rival)) if pairs else (),
        names=gates.NAMES,
    )


def _prompt(key: Key, own: Samples, champion: Samples) -> PromptView:
    sample = own[key]
    found: list[tuple[Variant, Answer | None]] = [
        ("base", sample.base),
        ("champion", champion[key].adapter if key in champion else None),
        ("challenger", sample.adapter),
        ("real", sample.real),
    ]
    shown = (Shown(of, one.show(), one.scores, one.note) for of, one in found if one)
    return PromptView(*key, tuple(shown))


def _one_a_prompt(keys: Iterable[Key]) -> list[Key]:
    """The first key of each prompt: one prompt that failed must not fill the page."""
    return list({prompt: (prompt, seed) for prompt, seed in reversed(list(keys))}.values())[::-1]


def _pairs(own: Samples, champion: Samples) -> Iterable[Pair]:
    """What both have answered, spread evenly over prompts when it is too much for one person."""
    common = [key for key in own if key in champion]
    if len(common) > MAXIMUM_PAIRS:
        step = (len(common) - 1) / (MAXIMUM_PAIRS - 1)
        common = [common[round(place * step)] for place in range(MAXIMUM_PAIRS)]
    for key in common:
        challenger, other = own[key].adapter.show(), champion[key].adapter.show()
        yield Pair(own[key].name, *key, challenger, other)


def _gates(verdict: Json) -> Iterable[GateView]:
    compared = {f"{CHAMPION}{one['metric']}": one for one in verdict.get("comparisons", ())}
    for gate in verdict.get("gates", ()):
        found = compared.get(gate["name"], {})
        undecided = not gate["passed"] and not found.get("decidable", True)
        waived = gate["explanation"].startswith("not required")
        yield GateView(
            **{**gate, "name": gate["name"].removeprefix(CHAMPION)},
            against_champion=gate["name"].startswith(CHAMPION),
            difference=found.get("difference"),
            smallest_effect=found.get("smallest_effect"),
            special="undecided" if undecided else "not required" if waived else "",
        )


def _sentence(verdict: Json) -> str:
    if not verdict:
        return "no verdict yet: materialize promotion_verdict to have this evaluation judged"
    return Verdict.from_dict(verdict).sentence()


def _distributions(
    report: Json, own: Samples, champion: Samples, answer: str
) -> Iterable[Distribution]:
    known, keys = report.get("metrics", {}), list(own)  # dots are labelled by place
    sides: dict[Variant, list[Answer | None]] = {
        "base": [own[key].base for key in keys],
        "champion": [champion[key].adapter if key in champion else None for key in keys],
        "challenger": [own[key].adapter for key in keys],
    }
    for metric in dict.fromkeys(name for sample in own.values() for name in sample.adapter.scores):
        values = {
            variant: tuple(one.scores[metric] for one in answers if one and metric in one.scores)
            for variant, answers in sides.items()
        }
        held_out = report.get(f"{metric}_held_out_mean")
        complete = all(len(found) in (0, len(keys)) for found in values.values())
        yield Distribution(
            metric,
            {variant: found for variant, found in values.items() if found},
            tuple(f"{prompt}, seed {seed}" for prompt, seed in keys) if complete else (),
            unit=known.get(metric, {}).get("unit", ""),
            better=known.get(metric, {}).get("better", ""),
            marks={} if held_out is None else {f"mean of the held-out real {answer}s": held_out},
        )


def _speed(timings: Json, answer: str) -> tuple[BatchSpeed, ...]:
    """By batch size where that was measured, else single answers alone."""
    seconds = f"seconds_per_{answer}"
    if by_size := timings.get("by_batch_size"):
        names = ("batch_size", f"{answer}s_per_second", f"{seconds}_p50", f"{seconds}_p95")
        return tuple(BatchSpeed(*(entry[name] for name in names)) for entry in by_size)
    singles = timings.get(seconds) or ()
    if len(singles) < 2:
        return ()
    twentieths = quantiles(singles, n=20, method="inclusive")
    return (BatchSpeed(1, 1 / mean(singles), twentieths[9], twentieths[18]),)
