"""The verdict: what an evaluation is worth under a gate policy, gate by gate.

Contract: `decide(report, timings, policy, comparisons)` is a pure function of plain JSON and of
what `comparison.compare` says of champion and challenger, so the verdict of an artifact can be
recomputed anywhere with today's policy, in milliseconds and without torch. Every gate of
`rules(type(policy))` is always judged, in that order after whether the adapter is sound, then one
gate for each comparison. All gates must pass.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from adire_assets.config.gates import GateConfig
from adire_assets.core.gate import Facts, Gate, GateRule, judged, number, signed
from adire_assets.gates.policy import weakening_sentence

if TYPE_CHECKING:
    from adire_assets.gates.comparison import Comparison  # numpy: not in every Dagster process

SOUND = "adapter_sound"
CHAMPION = "champion_"  # and the metric: the name of a gate against the champion
DIFFERENCE = "lower bound of the difference to the champion, positive is better"
GENERAL = (  # the gates of every family, after its own
    GateRule(
        "peak_memory",
        "timings.peak_memory_bytes",
        "<=",
        "peak_memory_mebibytes_maximum",
        "MiB while the answers were made, of the accelerator or on the CPU of the process",
        parts=2**20,
    ),
    GateRule(
        "cold_load",
        "timings.cold_load_seconds",
        "<=",
        "cold_load_seconds_maximum",
        "seconds from nothing to ready to answer",
    ),
)


def rules(gates: type[GateConfig]) -> tuple[GateRule, ...]:
    """The gates of a family's policy that hold one value against one threshold."""
    return (*gates.GATES, *GENERAL)


def checks(gates: type[GateConfig]) -> dict[str, str]:
    """{gate: what it asks, for people} of a family's policy, whatever its thresholds."""
    return {name: asks for name, asks, _ in _asked(gates)}


def _asked(gates: type[GateConfig]) -> Iterator[tuple[str, str, str]]:
    """Each gate, what it asks, and the key of the policy that it goes by."""
    yield SOUND, "The adapter is sound: neither its weights nor its answers show a problem.", ""
    for rule in rules(gates):
        yield rule.name, rule.check, f"gates.{rule.key}"
    for metric in gates.METRICS:
        key = f"gates.champion.margins.{metric}"
        asks = f"{metric} is not worse than the live release's by {key}, where one is set."
        yield f"{CHAMPION}{metric}", f"By the lower bound of the paired difference, {asks}", key


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

    @staticmethod
    def from_dict(value: Facts) -> "Verdict":
        """From what `asdict` made, also in an earlier version with fewer fields."""
        return TypeAdapter(Verdict).validate_python(value)

    def checks(self, gates: type[GateConfig]) -> tuple[Gate, ...]:
        """One gate for each of `checks(gates)`; one that did not apply passes and says so. One that
        is weaker than it was says that as well."""
        judged = {gate.name: gate for gate in self.gates}
        why = (
            "the policy has no margin for this metric"
            if self.comparisons
            else "no champion to compare with, or no margin asked for"
        )
        found = []
        for name, _, key in _asked(gates):
            gate = judged.get(name) or Gate(name, None, None, ">", None, True, DIFFERENCE, why)
            weaker = [one for one in self.weakened if one["key"] == key]
            if told := weakening_sentence(self.weaker_than, weaker):
                gate = replace(gate, explanation=f"{gate.explanation}; {told}")
            found.append(gate)
        return tuple(found)

    def weakness(self) -> str:
        """What the policy asks less than the one before, in a sentence; empty for nothing."""
        return weakening_sentence(self.weaker_than, self.weakened)

    def sentence(self) -> str:
        """One line for people, such as "refused: clip_s 0.61 is below 0.75 (margin -0.14)"."""
        policy = f"; by a policy {told}" if (told := self.weakness()) else ""
        if not self.passed:
            small = [one for one in self.comparisons if not one["decidable"]]
            undecided = {f"{CHAMPION}{one['metric']}": one["explanation"] for one in small}
            failed = (gate for gate in self.gates if not gate.passed)
            why = "; ".join(undecided.get(gate.name) or gate.short() for gate in failed)
            return f"refused: {why}{policy}"
        asked = [gate for gate in self.gates if gate.threshold is not None]
        own = [gate for gate in asked if not gate.name.startswith(CHAMPION)]
        values = ", ".join(f"{gate.name} {number(gate.value)}" for gate in own)
        differences = ", ".join(
            f"{one['metric']} {signed(one['difference'])} (above {signed(one['lower_bound'])})"
            for one in self.comparisons
            if one["difference"] is not None
        )
        champion = f"; against the champion {differences}" if differences else ""
        return f"passed all {len(asked)} gates: {values}{champion}{policy}"


def decide(
    report: Facts, timings: Facts, policy: GateConfig, comparisons: "Iterable[Comparison]" = ()
) -> Verdict:
    """The verdict on an evaluation's report.json and timings.json, and against the champion."""
    evaluation, found = {**report, "timings": timings}, tuple(comparisons)
    problems = report.get("adapter_problems")
    known = problems if isinstance(problems, list) else None
    told = "; ".join((known or ())[:3])
    count = None if known is None else len(known)
    gates = (
        judged(SOUND, count, "==", 0.0, "problems found in the adapter", told),
        *(rule.judge(evaluation, policy) for rule in rules(type(policy))),
        *(_against_champion(comparison) for comparison in found),
    )
    passed = all(gate.passed for gate in gates)
    return Verdict(passed, gates, tuple(asdict(comparison) for comparison in found))


def _against_champion(found: "Comparison") -> Gate:
    lower, name = found.lower_bound, f"{CHAMPION}{found.metric}"
    above = None if lower is None else lower + found.margin
    told = (DIFFERENCE, found.explanation)
    return Gate(name, lower, -found.margin, ">", above, found.passed, *told)
