"""The evaluation as one HTML file: verdict, gates, samples, distributions, speed, lineage.

    html(view)                a page that runs no script
    ab_sheet(view, shuffle, rule)    challenger against champion, blind; ends in a ratings.json

Contract: pure functions of a `ReportView`, whose parts are plain values; equal input gives equal
pages, but for the salt of a sheet. A page is one file that asks nothing of the network, and its
own content policy forbids it to. Every text of a view is escaped, so a prompt may hold anything.
Where the numbers come from is no matter of this module: `contents` fills a view from artifacts,
templates/ holds the pages with their style and charts.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

from adire_assets.core.errors import UserError
from adire_assets.core.gate import Gate
from adire_assets.core.sample import Content
from adire_assets.gates.blind import Shuffle
from adire_assets.gates.policy import shortened
from adire_assets.gates.report import charts

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")
SHOWN_DIGITS = 4

Json = Mapping[str, Any]
Variant = Literal["base", "champion", "challenger", "real"]
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
    special: Literal["", "undecided", "not required"] = ""  # why it is not simply passed or failed

    @property
    def outcome(self) -> Outcome:
        return self.special or ("passed" if self.passed else "failed")


@dataclass(frozen=True)
class Shown:
    """The answer of one variant with its score by metric."""

    variant: Variant
    content: Content
    scores: Mapping[str, float | None] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class PromptView:
    """One prompt and seed, answered by each variant, in the order in which they are shown."""

    prompt: str
    seed: int
    shown: tuple[Shown, ...]


@dataclass(frozen=True)
class Distribution:
    """A metric's value for every answer: variant -> values; `labels` says which one, in order."""

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
    """The same prompt and seed by challenger and champion, for the blind sheet."""

    name: str
    prompt: str
    seed: int
    challenger: Content
    champion: Content


@dataclass(frozen=True)
class ReportView:
    """All that the page says. What is empty or None is left out, or said to be missing."""

    model: str
    answer: str  # what the model answers with, such as "image"
    name: str  # "release 4", or of an adapter without a number "adapter 1f3a..."
    sentence: str  # the verdict
    # The files of the evaluation, and what was decided; then the manifests.
    report: Json
    timings: Json
    champion_timings: Json
    verdict: Json
    decided: Json  # the verdict's manifest
    evaluation: Json
    adapter: Json
    base_model: Json
    release: int | None = None
    champion_release: int | None = None
    gates: tuple[GateView, ...] = ()
    ranked_by: str = ""  # the metric by which prompts are worst and best
    worst: tuple[PromptView, ...] = ()
    best: tuple[PromptView, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    speed: Mapping[Variant, tuple[BatchSpeed, ...]] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()  # for `ab_sheet` only
    names: Mapping[str, str] = field(default_factory=dict)  # as they are written: "kid" is KID

    def title(self, name: str) -> str:
        """`seconds_per_image` as people write it."""
        for word, written in self.names.items():
            name = re.sub(rf"(?<![a-z]){word}(?![a-z])", written, name)
        text = name.replace("_", " ")
        return text[:1].upper() + text[1:]


def html(view: ReportView) -> str:
    """The report of `view`: one self-contained page."""
    return _templates().get_template("report.html.j2").render(view=view)


def shuffle_of(view: ReportView, secret: bytes, salt: str | None = None) -> Shuffle:
    """Sides and order of the pairs of `view`, drawn anew for each sheet (or as `salt` says).

    UserError when there are no two releases to compare.
    """
    if view.release is None:
        raise UserError(
            f"{view.model}: {view.name} has no release number yet; materialize "
            f"{view.model}/triton_repository, then make the blind sheet of {view.model}@N"
        )
    if view.champion_release is None or not view.pairs:
        raise UserError(
            f"{view.model}, {view.name}: no champion has answered the same prompts and seeds, so "
            "there is nothing to rate it against"
        )
    names = [pair.name for pair in view.pairs]
    releases = view.release, view.champion_release
    return Shuffle.draw(secret, view.model, *releases, pairs=names, salt=salt)


def ab_sheet(view: ReportView, shuffle: Shuffle, rule: tuple[str, str]) -> str:
    """The pairs of `view` as `shuffle_of` drew them; `rule` says what they must bring, and how it
    is counted."""
    about = {"model": view.model, "answer": view.answer}
    releases = {"challenger": view.release, "champion": view.champion_release}
    pairs = {pair.name: pair for pair in view.pairs}
    shown = []
    for name in shuffle.order(pairs):
        left, right = pairs[name].challenger, pairs[name].champion
        if not shuffle.challenger_is_left(name):
            left, right = right, left
        told = {"name": name, "prompt": pairs[name].prompt}
        shown += [told | {"left": _side(left), "right": _side(right)}]
    sheet = {**about, **releases, "nonce": shuffle.nonce, "pairs": shown}
    script = (TEMPLATES / "ab_sheet.js").read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _templates().get_template("ab_sheet.html.j2")
    return page.render(
        sheet=sheet, rule=rule, script=Markup(script), script_hash=f"sha256-{allowed}"
    )


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
    environment.filters |= {"number": number, "signed": signed, "first": first}
    environment.filters |= {"shortened": shortened, "plain": plain, "percent": "{:.2f}%".format}
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


def first(text: str) -> tuple[str, str]:
    """A sentence as (what stands before its first colon, the rest), with a capital letter."""
    head, _, rest = text.partition(": ")
    return head[:1].upper() + head[1:], rest
