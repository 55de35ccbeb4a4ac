"""The evaluation as one HTML file: verdict, gates, samples, distributions, speed, lineage.

    view_of(project, evaluation, ...)    a ReportView, read from artifacts
    html(view)                           a page that runs no script
    ab_sheet(view, shuffle, rule)        challenger against champion, blind; ends in a ratings.json

Contract: `view_of` is the only place that knows what the files of artifacts call things, and
changes nothing. What was asked and answered, the family reads (`samples`). An evaluation made by an
older version lacks some files or keys; what is not there is left out of the view, never made up.

The pages are pure functions of a `ReportView`, whose parts are plain values; equal input gives
equal pages, but for the salt of a sheet. A page is one file that asks nothing of the network, and
its own content policy forbids it to. Every text of a view is escaped, so a prompt may hold
anything. templates/ holds the pages with their style and charts.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import mean, quantiles
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

from adire_assets.config.model import family_of
from adire_assets.core.errors import UserError
from adire_assets.core.gate import Gate
from adire_assets.core.project import Project
from adire_assets.core.sample import Answer, Content, Sample
from adire_assets.core.store import Artifact, Store, read_json
from adire_assets.gates.blind import BASE, Shuffle, champion_name
from adire_assets.gates.policy import shortened
from adire_assets.gates.report import charts
from adire_assets.gates.verdict import CHAMPION, Verdict

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")
SHOWN_DIGITS = 4
UNJUDGED = "no verdict yet: materialize promotion_verdict to have this evaluation judged"
PROMPTS_SHOWN = 4  # worst, and as many best
MAXIMUM_PAIRS = 40  # of the blind sheet: what one person rates in some ten minutes

Json = Mapping[str, Any]
Key = tuple[str, int]  # prompt and seed: what pairs the answers of all variants
Samples = Mapping[Key, Sample]
Variant = Literal["base", "champion", "challenger", "real"]
Answers = Mapping[Key, Mapping[Variant, Answer]]  # of each variant that answered, as they are shown
Outcome = Literal["passed", "failed", "undecided", "not required"]


@dataclass(frozen=True)
class GateView(Gate):
    """One gate as the page shows it.

    Against the champion, its value is the lower confidence bound of `difference` (challenger minus
    champion, better is greater), its threshold minus the loss that is allowed; `smallest_effect` is
    what the test could have seen.
    """

    against_champion: bool = False
    difference: float | None = None
    smallest_effect: float | None = None
    outcome: Outcome = "passed"


@dataclass(frozen=True)
class Distribution:
    """A metric's value for every answer: variant -> values, in the order of `labels`."""

    metric: str
    values: Mapping[Variant, tuple[float, ...]]
    labels: tuple[str, ...] = ()
    unit: str = ""
    better: Literal["higher", "lower", ""] = ""
    marks: Mapping[str, float] = field(default_factory=dict)  # lines to read the values against

    @property
    def span(self) -> list[float]:
        """What the axis must hold; zero is worth its place when it is near."""
        values = [value for values in self.values.values() for value in values]
        values += self.marks.values()
        return [*values, 0.0] if 0 < min(values) < 0.2 * max(values) else values


@dataclass(frozen=True)
class BatchSpeed:
    """Speed with `batch_size` answers in a forward pass; seconds are those of one answer."""

    batch_size: int
    answers_per_second: float
    seconds_p50: float
    seconds_p95: float


@dataclass(frozen=True)
class Pair:
    """The same prompt and seed by challenger and champion, or the base where no release is live,
    for the blind sheet."""

    name: str
    prompt: str
    seed: int
    challenger: Content
    champion: Content


@dataclass(frozen=True)
class ReportView:
    """All that the page says. A part that is empty or None is left out, or called missing."""

    model: str
    answer: str  # what the model answers with, such as "image"
    name: str  # "release 4", or of an adapter without a number "adapter 1f3a..."
    sentence: str  # the verdict
    # The files of the evaluation, and what was decided, with its manifest; then the manifests.
    report: Json
    timings: Json
    champion_timings: Json
    verdict: Json
    evaluation: Json
    adapter: Json
    base_model: Json
    release: int | None = None
    champion_release: int | None = None
    gates: tuple[GateView, ...] = ()
    ranked_by: str = ""  # the metric by which prompts are worst and best
    worst: Answers = field(default_factory=dict)
    best: Answers = field(default_factory=dict)
    distributions: tuple[Distribution, ...] = ()
    speed: Mapping[Variant, tuple[BatchSpeed, ...]] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()  # for `ab_sheet` only
    names: Mapping[str, str] = field(default_factory=dict)  # as they are written: "kid" is KID

    def title(self, name: str) -> str:
        """`seconds_per_image` as people write it."""
        for word, written in self.names.items():
            name = re.sub(rf"(?<![a-z]){word}(?![a-z])", written, name)
        text = name.replace("_", " ")
        written_so = text.startswith(tuple(self.names.values()))  # such as chrF
        return text if written_so else text[:1].upper() + text[1:]


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
    with `pairs` also the answers of the blind sheet, those of the bare base where
    `champion_release` is `blind.BASE`."""
    made_from = {
        kind: Store(project).recall(evaluation.manifest[kind])
        for kind in ("dataset", "lora_weights", "base_model")
    }
    report, timings = evaluation.json("report.json"), evaluation.json("timings.json")
    kept = champion.path / "timings.json" if champion else None  # gone where only its manifest is
    other = read_json(kept) if kept and kept.is_file() else {}
    decided = verdict.manifest | verdict.json("verdict.json") if verdict else {}
    family = family_of(project, evaluation.model)
    answer, gates = family.answer, family.gate_config()

    def samples(of: Artifact | None) -> Samples:
        found = family.samples.functions.samples(of.path, made_from["dataset"].path) if of else []
        return {sample.key: sample for sample in found}

    own, rival = samples(evaluation), samples(champion)
    answers = {key: _answers(sample, rival.get(key)) for key, sample in own.items()}
    sides: dict[Variant, Json] = {"challenger": timings, "champion": other}
    metric = gates.METRICS[0]
    sign = -1 if report.get("metrics", {}).get(metric, {}).get("better") == "lower" else 1
    ranked = [key for key, sample in own.items() if metric in sample.adapter.scores]
    ranked.sort(key=lambda key: sign * own[key].adapter.scores[metric])
    shown = min(PROMPTS_SHOWN, len(ranked) // 2)
    weakest = _one_a_prompt(ranked)[:shown]
    strongest = [key for key in _one_a_prompt(ranked[::-1]) if key not in weakest][:shown]
    others = {key: one.adapter for key, one in rival.items()}
    if champion_release == BASE:
        others = {key: one.base for key, one in own.items() if one.base}
    adapter = made_from["lora_weights"]
    return ReportView(
        model=evaluation.model,
        answer=answer,
        name=f"release {release}" if release else f"adapter {adapter.key[:12]}",
        release=release,
        champion_release=champion_release,
        sentence=Verdict.from_dict(decided).sentence() if decided else UNJUDGED,
        report=report,
        timings=timings,
        champion_timings=other,
        verdict=decided,
        evaluation=evaluation.manifest,
        adapter=adapter.manifest,
        base_model=made_from["base_model"].manifest,
        gates=tuple(_gates(decided)),
        ranked_by=metric,
        worst={key: answers[key] for key in weakest},
        best={key: answers[key] for key in strongest},
        distributions=tuple(_distributions(report, answers, answer)),
        speed={of: points for of, one in sides.items() if (points := _speed(one, answer))},
        pairs=tuple(_pairs(own, others)) if pairs else (),
        names=gates.NAMES,
    )


def _answers(own: Sample, champion: Sample | None) -> dict[Variant, Answer]:
    found: dict[Variant, Answer | None] = {
        "base": own.base,
        "champion": champion.adapter if champion else None,
        "challenger": own.adapter,
        "real": own.real,
    }
    return {variant: answer for variant, answer in found.items() if answer}


def _one_a_prompt(keys: Iterable[Key]) -> list[Key]:
    """The first key of each prompt: one prompt that failed must not fill the page."""
    return list({prompt: (prompt, seed) for prompt, seed in reversed(list(keys))}.values())[::-1]


def _pairs(own: Samples, others: Mapping[Key, Answer]) -> Iterable[Pair]:
    """What both have answered, and not alike: equal answers are a tie, which decides nothing.
    Spread evenly over prompts when it is too much for one person."""
    left = [key for key in own if key in others]
    pairs: dict[Key, Pair] = {}
    # To show an answer takes long, so that only those are shown that are needed.
    while left and len(pairs) < MAXIMUM_PAIRS:
        taken = _spread(left, MAXIMUM_PAIRS - len(pairs))
        left = [key for key in left if key not in taken]
        for key in taken:
            mine, other = own[key].adapter.show(), others[key].show()
            if mine != other:
                pairs[key] = Pair(own[key].name, *key, mine, other)
    return [pairs[key] for key in own if key in pairs]


def _spread(keys: list[Key], most: int) -> list[Key]:
    """At most so many of the keys, at even distances."""
    if len(keys) <= most:
        return keys
    step = (len(keys) - 1) / max(1, most - 1)
    return [keys[round(place * step)] for place in range(most)]


def _gates(verdict: Json) -> Iterable[GateView]:
    compared = {f"{CHAMPION}{one['metric']}": one for one in verdict.get("comparisons", ())}
    for gate in verdict.get("gates", ()):
        found = compared.get(gate["name"], {})
        outcome: Outcome = "passed" if gate["passed"] else "failed"
        if not gate["passed"] and not found.get("decidable", True):
            outcome = "undecided"
        elif gate["explanation"].startswith("not required"):
            outcome = "not required"
        yield GateView(
            **{**gate, "name": gate["name"].removeprefix(CHAMPION)},
            against_champion=gate["name"].startswith(CHAMPION),
            difference=found.get("difference"),
            smallest_effect=found.get("smallest_effect"),
            outcome=outcome,
        )


def _distributions(report: Json, answers: Answers, answer: str) -> Iterable[Distribution]:
    variants: tuple[Variant, ...] = ("base", "champion", "challenger")
    scores = {of: [one[of].scores for one in answers.values() if of in one] for of in variants}
    for metric in dict.fromkeys(name for known in scores["challenger"] for name in known):
        values = {
            of: tuple(one[metric] for one in known if metric in one) for of, known in scores.items()
        }
        known = report.get("metrics", {}).get(metric, {})
        held_out = report.get(f"{metric}_held_out_mean")
        # Dots are labelled by their place.
        complete = all(len(found) in (0, len(answers)) for found in values.values())
        yield Distribution(
            metric,
            {of: found for of, found in values.items() if found},
            tuple(f"{prompt}, seed {seed}" for prompt, seed in answers) if complete else (),
            unit=known.get("unit", ""),
            better=known.get("better", ""),
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


def html(view: ReportView) -> str:
    """The report of `view`: one self-contained page."""
    return _templates().get_template("report.html.j2").render(view=view)


def shuffle_of(view: ReportView, secret: bytes) -> Shuffle:
    """Sides and order of the pairs of `view`, drawn anew for each sheet.

    UserError when there are no two releases to compare.
    """
    if view.release is None:
        raise UserError(
            f"{view.model}: {view.name} has no release number yet; materialize "
            f"{view.model}/triton_repository, then make the blind sheet of {view.model}@N"
        )
    if view.champion_release is None or not view.pairs:
        raise UserError(
            f"{view.model}, {view.name}: neither a live release nor the base has answered the same "
            "prompts and seeds otherwise, so there is nothing to rate it against"
        )
    about = (view.model, view.release, view.champion_release)
    return Shuffle.draw(secret, about, [pair.name for pair in view.pairs])


def ab_sheet(view: ReportView, shuffle: Shuffle, rule: tuple[str, str]) -> str:
    """The pairs of `view` as `shuffle_of` drew them; `rule` says what they must bring, and how it
    is counted."""
    pairs = {pair.name: pair for pair in view.pairs}
    shown = []
    for name in shuffle.order(pairs):
        sides = [_side(content) for content in (pairs[name].challenger, pairs[name].champion)]
        left, right = sides if shuffle.challenger_is_left(name) else reversed(sides)
        shown += [{"name": name, "prompt": pairs[name].prompt, "left": left, "right": right}]
    about = {"model": view.model, "answer": view.answer, "nonce": shuffle.nonce, "pairs": shown}
    assert view.champion_release is not None
    sheet = about | {"challenger": view.release, "champion": view.champion_release}
    script = (TEMPLATES / "ab_sheet.js").read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _templates().get_template("ab_sheet.html.j2")
    scripts = {"script": Markup(script), "script_hash": f"sha256-{allowed}"}
    against = champion_name(view.champion_release)
    return page.render(sheet=sheet, against=against, rule=rule, **scripts)


def _side(content: Content) -> dict[str, str]:
    return {"text": content} if isinstance(content, str) else {"picture": content.uri}


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # not in every process

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        **{f.__name__: f for f in (charts.scale, charts.ticks, charts.quartiles, charts.plot_of)},
        "inline": lambda name: Markup((TEMPLATES / name).read_text(encoding="utf-8")),
    }
    environment.filters |= {f.__name__: f for f in (number, signed, plain, shortened)}
    environment.filters["percent"] = "{:.2f}%".format
    environment.filters["sentence"] = lambda text: text[:1].upper() + text[1:]
    return environment


def number(value: float | None) -> str:
    """A number for people: four digits that count, no exponent where it can be avoided."""
    if value is None:
        return "none"
    if value and abs(value) < 5e-4:
        return f"{value:.1e}".replace("-", "−")
    digits = len(str(int(abs(value))))
    text = f"{value:,.{max(0, SHOWN_DIGITS - digits)}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text.replace("-", "−")


def signed(value: float | None) -> str:
    text = number(value)
    return f"+{text}" if value is not None and value > 0 else text


def plain(value: Any) -> str:
    """A value of a manifest for people."""
    if isinstance(value, Mapping):
        value = [f"{name}: {item}" for name, item in value.items()]
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value)
