"""The verdict: what an evaluation is worth under a gate policy, gate by gate.

Contract: `decide(report, timings, policy, comparisons)` is a pure function of plain JSON and of
what `comparison.compare` says of champion and challenger, so the verdict of an artifact can be
recomputed anywhere with today's policy, in milliseconds and without torch. Every gate of
`GATE_NAMES` is always judged, in that order, then one gate for each comparison. A value that is
missing, null or not finite never passes a gate that the policy asks for; a gate of BOUNDS without a
threshold only shows its value. All gates must pass.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from adire_assets.config.gates import METRICS, GateConfig
from adire_assets.gates import policy as policy_of

if TYPE_CHECKING:
    from adire_assets.gates.comparison import Comparison  # numpy: not in every Dagster process

Facts = Mapping[str, Any]

COMPARISONS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    ">=": ("at or above", lambda value, threshold: value >= threshold),
    ">": ("above", lambda value, threshold: value > threshold),
    "<=": ("at or below", lambda value, threshold: value <= threshold),
    "<": ("below", lambda value, threshold: value < threshold),
    "==": ("equal to", lambda value, threshold: value == threshold),
}
OPPOSITE = {">=": "below", ">": "not above", "<=": "above", "<": "not below", "==": "not"}


@dataclass(frozen=True)
class Gate:
    """One gate's judgement. `margin` is how far the value is on the good side (negative: bad)."""

    name: str
    value: float | None
    threshold: float | None  # None and passed: the policy asks for none
    comparison: str  # a key of COMPARISONS: value <comparison> threshold
    margin: float | None
    passed: bool
    unit: str
    explanation: str  # a full sentence with value, threshold, margin and scale


@dataclass(frozen=True)
class Verdict:
    """All gates together; `passed` is the only thing that lets a release be built.

    `comparisons` holds each `Comparison` behind a champion gate as plain JSON. `weakened` is what
    the policy asks less than that of `weaker_than`, such as "release 3" (see
    `adire_assets.gates.policy`).
    """

    passed: bool
    gates: tuple[Gate, ...]
    comparisons: tuple[Facts, ...] = ()
    weakened: tuple[Facts, ...] = ()
    weaker_than: str = ""

    def as_dict(self) -> dict[str, Any]:
        facts = asdict(self)
        lists = ("gates", "comparisons", "weakened")
        return {**facts, **{name: list(facts[name]) for name in lists}}

    @staticmethod
    def from_dict(value: Facts) -> "Verdict":
        gates = tuple(Gate(**gate) for gate in value["gates"])
        comparisons, weakened = (tuple(value.get(n, ())) for n in ("comparisons", "weakened"))
        than = value.get("weaker_than", "")
        return Verdict(value["passed"], gates, comparisons, weakened, than)

    def checks(self) -> tuple[Gate, ...]:
        """One gate for each of `CHECK_NAMES`; one that did not apply passes and says so. One that
        is weaker than it was says that as well."""
        judged = {gate.name: gate for gate in self.gates}
        why = (
            "the policy has no margin for this metric"
            if self.comparisons
            else "no champion to compare with, or no margin asked for"
        )
        found = (
            judged.get(name) or Gate(name, None, None, ">", None, True, DIFFERENCE, why)
            for name in CHECK_NAMES
        )
        return tuple(self._with_weakening(gate) for gate in found)

    def _with_weakening(self, gate: Gate) -> Gate:
        own = [one for one in self.weakened if policy_of.gate_of(one["key"]) == gate.name]
        if not own:
            return gate
        told = policy_of.weakening_sentence(self.weaker_than, own)
        return replace(gate, explanation=f"{gate.explanation}; {told}")

    def weakness(self) -> str:
        """What the policy asks less than the one before, in a sentence; empty for nothing."""
        return policy_of.weakening_sentence(self.weaker_than, self.weakened)

    def gate(self, name: str) -> Gate:
        return next(gate for gate in self.gates if gate.name == name)

    def sentence(self) -> str:
        """One line for people, such as "refused: clip_s 0.61 is below 0.75 (margin -0.14)"."""
        if self.passed:
            asked = [gate for gate in self.gates if gate.threshold is not None]
            values = ", ".join(
                f"{gate.name} {_number(gate.value)}"
                for gate in asked
                if gate.name not in CHAMPION_GATE_NAMES
            )
            passed = f"passed all {len(asked)} gates: {values}{self._against_champion()}"
            return f"{passed}{self._weakness()}"
        undecided = {
            f"champion_{facts['metric']}": facts["explanation"]
            for facts in self.comparisons
            if not facts["decidable"]
        }
        failed = (
            undecided.get(gate.name) or _short(gate) for gate in self.gates if not gate.passed
        )
        return f"refused: {'; '.join(failed)}{self._weakness()}"

    def _weakness(self) -> str:
        return f"; by a policy {told}" if (told := self.weakness()) else ""

    def _against_champion(self) -> str:
        known = [facts for facts in self.comparisons if facts["difference"] is not None]
        values = ", ".join(
            f"{facts['metric']} {_signed(facts['difference'])} (above "
            f"{_signed(facts['lower_bound'])})"
            for facts in known
        )
        return f"; against the champion {values}" if known else ""


def decide(
    report: Facts, timings: Facts, policy: GateConfig, comparisons: "Iterable[Comparison]" = ()
) -> Verdict:
    """The verdict on an evaluation's report.json and timings.json, and against the champion."""
    found = tuple(comparisons)
    gates = (
        *(gate(report, timings, policy) for gate in GATES.values()),
        *(_against_champion(comparison) for comparison in found),
    )
    passed = all(gate.passed for gate in gates)
    return Verdict(passed, gates, tuple(asdict(comparison) for comparison in found))


def _adapter_sound(report: Facts, timings: Facts, policy: GateConfig) -> Gate:
    problems = report.get("adapter_problems")
    unit = "problems found in the adapter"
    if not isinstance(problems, list):
        return _gate("adapter_sound", None, "==", 0.0, unit)
    return _gate("adapter_sound", len(problems), "==", 0.0, unit, "; ".join(problems[:3]))


def _clip_s(report: Facts, timings: Facts, policy: GateConfig) -> Gate:
    bare = _finite(report.get("clip_s_base_mean"))
    note = f"without the LoRA it is {_number(bare)}" if bare is not None else ""
    unit = "CLIP-S, 2.5 * max(cosine, 0), mean over the evaluated images"
    value = _finite(report.get("clip_s_mean"))
    return _gate("clip_s", value, ">=", policy.clip_s_minimum, unit, note)


def _seconds_per_image(report: Facts, timings: Facts, policy: GateConfig) -> Gate:
    slow = _finite(timings.get("seconds_per_image_p95"))
    notes = [f"95 % take at most {_number(slow)} s"] if slow is not None else []
    if len(means := timings.get("seconds_per_image_means", ())) > 1:
        each = ", ".join(_number(mean) for mean in means)
        notes.append(f"the median of {len(means)} measurements: {each}")
    gate = _gate(
        "seconds_per_image",
        _finite(timings.get("seconds_per_image_mean")),
        "<=",
        policy.seconds_per_image_maximum,
        "seconds, mean of single images after warm-up",
        "; ".join(notes),
    )
    if gate.passed or gate.value is None:
        return gate
    advice = (
        f"{gate.explanation}; if the machine was busy, `adire measure MODEL` adds a measurement, "
        "and the median of all decides"
    )
    return replace(gate, explanation=advice)


def _kid_below_base(report: Facts, timings: Facts, policy: GateConfig) -> Gate:
    gate = _gate(
        "kid_below_base",
        _finite(report.get("kid_adapter_mean")),
        "<",
        _finite(report.get("kid_base_mean")),
        "KID to the held-out images; the threshold is the base model without the LoRA",
    )
    if policy.kid_below_base:
        return gate
    explanation = f"not required (kid_below_base: false); {gate.explanation}"
    return replace(gate, passed=True, explanation=explanation)


def _safety(report: Facts, timings: Facts, policy: GateConfig) -> Gate:
    return _gate(
        "safety",
        _finite(report.get("nsfw_probability_maximum")),
        "<=",
        policy.nsfw_probability_maximum,
        "probability of the least safe image (open_nsfw)",
    )


# Gates that a policy need not ask for -> (comparison, threshold in the policy, unit). The value is
# that metric of report.json's scores, or what FROM_TIMINGS reads.
BOUNDS: dict[str, tuple[str, str, str]] = {
    "style_similarity": (
        ">=",
        "style_similarity_minimum",
        "cosine with the held-out images, relative to theirs with each other",
    ),
    "attribute_accuracy": (
        ">=",
        "attribute_accuracy_minimum",
        "share of the expected attributes that the judge sees",
    ),
    "diversity": (
        ">=",
        "diversity_minimum",
        "mean cosine distance between images, relative to the training images'",
    ),
    "memorisation": (
        "<=",
        "memorisation_maximum",
        "share of images too near to a training image",
    ),
    "sharpness": (">=", "sharpness_minimum", "share of images as sharp as real ones"),
    "exposure": (">=", "exposure_minimum", "share of images exposed as real ones are"),
    "peak_memory": (
        "<=",
        "peak_memory_mebibytes_maximum",
        "MiB while the images were drawn, of the accelerator or on the CPU of the process",
    ),
    "cold_load": ("<=", "cold_load_seconds_maximum", "seconds from nothing to ready to draw"),
}
FROM_TIMINGS = {  # gate -> (the field of timings.json, how many of its unit make one of the gate's)
    "peak_memory": ("peak_memory_bytes", 2**20),
    "cold_load": ("cold_load_seconds", 1),
}


def _bounded(name: str) -> Callable[[Facts, Facts, GateConfig], Gate]:
    comparison, key, unit = BOUNDS[name]

    def gate(report: Facts, timings: Facts, policy: GateConfig) -> Gate:
        if name in FROM_TIMINGS:
            field, parts = FROM_TIMINGS[name]
            value = _finite(timings.get(field))
            value = None if value is None else value / parts
        else:
            value = _finite((report.get("scores") or {}).get(name))
        threshold = getattr(policy, key)
        if threshold is not None:
            return _gate(name, value, comparison, threshold, unit)
        explanation = f"not required ({key}: null); {name} {_number(value)} ({unit})"
        return Gate(name, value, None, comparison, None, True, unit, explanation)

    return gate


GATES: dict[str, Callable[[Facts, Facts, GateConfig], Gate]] = {
    "adapter_sound": _adapter_sound,
    "clip_s": _clip_s,
    "seconds_per_image": _seconds_per_image,
    "kid_below_base": _kid_below_base,
    "safety": _safety,
    **{name: _bounded(name) for name in BOUNDS},
}
GATE_NAMES: tuple[str, ...] = tuple(GATES)
CHAMPION_GATE_NAMES: tuple[str, ...] = tuple(f"champion_{metric}" for metric in METRICS)
# What each check asks, for people; fixed, whatever policy and champion are.
CHECKS: dict[str, str] = {
    "adapter_sound": "The adapter's weights fit the base, are numbers, and draw no flat images.",
    "clip_s": "Images fit their prompts: CLIP-S is at or above gates.clip_s_minimum.",
    "seconds_per_image": "A single image takes at most gates.seconds_per_image_maximum.",
    "kid_below_base": "The images are nearer to the held-out ones than the bare base's, by KID.",
    "safety": "No image is less safe than gates.nsfw_probability_maximum (open_nsfw).",
    **{
        name: f"gates.{key}, where one is set, is kept: {unit}."
        for name, (_, key, unit) in BOUNDS.items()
    },
    **{
        f"champion_{metric}": f"By the lower bound of the paired difference, {metric} is not worse "
        f"than the live release's by gates.champion.margins.{metric}, where one is set."
        for metric in METRICS
    },
}
CHECK_NAMES = tuple(CHECKS)
DIFFERENCE = "lower bound of the difference to the champion, positive is better"


def _against_champion(comparison: "Comparison") -> Gate:
    lower = comparison.lower_bound
    return Gate(
        f"champion_{comparison.metric}",
        lower,
        -comparison.margin,
        ">",
        None if lower is None else lower + comparison.margin,
        comparison.passed,
        DIFFERENCE,
        comparison.explanation,
    )


def _gate(
    name: str,
    value: float | None,
    comparison: str,
    threshold: float | None,
    unit: str,
    note: str = "",
) -> Gate:
    words, holds = COMPARISONS[comparison]
    if value is None or threshold is None:
        missing = "value" if value is None else "threshold"
        explanation = f"{name}: the evaluation gave no {missing} ({unit}), so it cannot pass"
        return Gate(name, value, threshold, comparison, None, False, unit, explanation)
    passed = holds(value, threshold)
    margin = value - threshold if comparison == ">=" else threshold - value
    relation = words if passed else OPPOSITE[comparison]
    explanation = (
        f"{name} {_number(value)} is {relation} {_number(threshold)} "
        f"(margin {_signed(margin)}; {unit})"
    )
    explanation += f": {note}" if note else ""
    return Gate(name, value, threshold, comparison, margin, passed, unit, explanation)


def _short(gate: Gate) -> str:
    if gate.value is None or gate.threshold is None or gate.margin is None:
        return f"{gate.name} has no {'value' if gate.value is None else 'threshold'}"
    if gate.comparison == "==":
        return gate.explanation
    relation = OPPOSITE[gate.comparison]
    margin = _signed(gate.margin)
    value, threshold = _number(gate.value), _number(gate.threshold)
    return f"{gate.name} {value} is {relation} {threshold} (margin {margin})"


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _signed(value: float) -> str:
    return f"{value:+.3g}"
