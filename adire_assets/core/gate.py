"""One gate: a value of an evaluation against a threshold of the policy.

    GateRule    how a gate is judged, a line of a table (a family's is `GateConfig.GATES`)
    Gate        what became of it in one verdict

An evaluation is plain JSON: its report.json, with its timings.json under `timings`. A value that is
missing, null or not finite never passes a gate that the policy asks for.
"""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

Facts = Mapping[str, Any]

COMPARISONS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    ">=": ("at or above", operator.ge),
    ">": ("above", operator.gt),
    "<=": ("at or below", operator.le),
    "<": ("below", operator.lt),
    "==": ("equal to", operator.eq),
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

    def short(self) -> str:
        """Why it refuses, such as "clip_s 0.61 is below 0.75 (margin -0.14)"."""
        if self.value is None or self.threshold is None or self.margin is None:
            return f"{self.name} has no {'value' if self.value is None else 'threshold'}"
        if self.comparison == "==":
            return self.explanation
        values = f"{number(self.value)} is {OPPOSITE[self.comparison]} {number(self.threshold)}"
        return f"{self.name} {values} (margin {signed(self.margin)})"


@dataclass(frozen=True)
class GateRule:
    """`value` `comparison` the policy's `key`; where that is null, the gate only shows its value.

    `value` is a dotted place in the evaluation, such as "scores.diversity". With `base`, another
    such place holds the threshold, and `key` is whether the policy asks for the gate. `unit` and
    `asks` are told to people, and `note` adds what an evaluation has to say; `advice` follows on a
    refusal. `parts` of the value's unit make one of the threshold's.
    """

    name: str
    value: str
    comparison: str
    key: str
    unit: str
    asks: str = ""
    base: str = ""
    parts: float = 1
    note: Callable[[Facts], str] = lambda evaluation: ""
    advice: str = ""

    @property
    def check(self) -> str:
        """What the gate asks, in a sentence."""
        return self.asks or f"gates.{self.key}, where one is set, is kept: {self.unit}."

    def judge(self, evaluation: Facts, policy: Any) -> Gate:
        """`policy` is a `GateConfig` with the rule's key."""
        asked, value = getattr(policy, self.key), number_at(evaluation, self.value)
        value = None if value is None else value / self.parts
        if asked is None:
            told = f"not required ({self.key}: null); {self.name} {number(value)} ({self.unit})"
            return Gate(self.name, value, None, self.comparison, None, True, self.unit, told)
        threshold = number_at(evaluation, self.base) if self.base else asked
        note = self.note(evaluation)
        gate = judged(self.name, value, self.comparison, threshold, self.unit, note)
        if self.base and not asked:
            told = f"not required ({self.key}: false); {gate.explanation}"
            return replace(gate, passed=True, explanation=told)
        if self.advice and not gate.passed and value is not None:
            return replace(gate, explanation=f"{gate.explanation}; {self.advice}")
        return gate


def latency(answer: str) -> GateRule:
    """The gate on how long one answer takes; `answer` is the family's word for one, "image"."""
    name = f"seconds_per_{answer}"

    def note(evaluation: Facts) -> str:
        slow = number_at(evaluation, f"timings.{name}_p95")
        notes = [f"95 % take at most {number(slow)} s"] if slow is not None else []
        if len(means := evaluation["timings"].get(f"{name}_means", ())) > 1:
            each = ", ".join(number(mean) for mean in means)
            notes.append(f"the median of {len(means)} measurements: {each}")
        return "; ".join(notes)

    return GateRule(
        name,
        f"timings.{name}_mean",
        "<=",
        f"{name}_maximum",
        f"seconds, mean of single {answer}s after warm-up",
        asks=f"A single {answer} takes at most gates.{name}_maximum.",
        note=note,
        advice="if the machine was busy, `adire measure MODEL` adds a measurement, and the median "
        "of all decides",
    )


def judged(
    name: str,
    value: float | None,
    comparison: str,
    threshold: float | None,
    unit: str,
    note: str = "",
) -> Gate:
    """The judgement on a value."""
    words, holds = COMPARISONS[comparison]
    if value is None or threshold is None:
        missing = "value" if value is None else "threshold"
        explanation = f"{name}: the evaluation gave no {missing} ({unit}), so it cannot pass"
        return Gate(name, value, threshold, comparison, None, False, unit, explanation)
    passed = holds(value, threshold)
    margin = value - threshold if comparison == ">=" else threshold - value
    explanation = (
        f"{name} {number(value)} is {words if passed else OPPOSITE[comparison]} "
        f"{number(threshold)} (margin {signed(margin)}; {unit})"
    )
    explanation += f": {note}" if note else ""
    return Gate(name, value, threshold, comparison, margin, passed, unit, explanation)


def number_at(evaluation: Facts, place: str) -> float | None:
    """The finite number at a dotted place; None where there is none."""
    value: Any = evaluation
    for name in place.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def number(value: float | None) -> str:
    """Four digits that count, or "none"."""
    return "none" if value is None else f"{value:.4g}"


def signed(value: float) -> str:
    """Three digits that count, with a sign."""
    return f"{value:+.3g}"
