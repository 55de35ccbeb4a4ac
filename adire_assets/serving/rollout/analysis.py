"""Is a canary good enough to go on, bad enough to go back, or neither yet: pure statistics.

`signals` lists what a release is judged by. Each look at its counters adds one observation to the
`Tally` of a signal (see `limits`), and `analyse` decides: "on" needs evidence from every signal
that is asked for it, each at `RATE`; "back" needs evidence on any signal, at `RATE` divided by
their number. Missing data is no evidence. Evidence holds at every look (see `core.evidence`), so a
rollout may look as often as it likes. At the limit itself neither comes, and the step holds.

What is answered between two looks may share its fate (a batch, a stall), and is one observation
together: the share of it that is bad. Bounds hold for any dependence within a look.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from adire_assets.config.fleet import TAILS, RolloutConfig
from adire_assets.core import evidence
from adire_assets.core.evidence import RATE
from adire_assets.core.family import Family

Outcome = Literal["good", "bad", "open"]
# Kind of requests -> quantile, or signal of `SHOWN` -> milliseconds; for `cut_off` a share.
Limits = Mapping[str, Mapping[str, float]]
# What answers show of themselves, where a protocol tells it (see `answers` there): the histograms,
# of which the median is judged, and the share of the answers as long as allowed. Each sends a
# release back; none is asked for going on, since users who do not stream have no tokens.
TIMES = ("first_token", "inter_token")
SHOWN = (*TIMES, "cut_off")
MEDIAN = 0.5


@dataclass(frozen=True)
class Signal:
    """One signal by which a release is judged.

    `share`: of the answers, at most `limit` may be faults, or cut off. `quantile`: of the answers,
    at most `limit` may take longer than what the step allows. `bounded mean`: the mean of values
    within `range` is at least `limit`. `wanted`: going on asks for evidence of it; going back takes
    any.
    """

    name: str
    kind: Literal["share", "quantile", "bounded mean"]
    limit: float
    range: tuple[float, float] = (0.0, 1.0)
    wanted: bool = True


@dataclass(frozen=True)
class Tally:
    """The counts of all looks at one signal; arrays count several rollouts at once.

    `answers`: how many there were, of which `possibly` and `surely` many were bad. An answer in the
    histogram bucket that contains the limit is possibly slow, not surely. `looks`: how many looks
    had answers, and the sums over them of the bad shares.
    """

    answers: Any = 0
    possibly: Any = 0
    surely: Any = 0
    looks: Any = 0
    possible_shares: Any = 0.0
    sure_shares: Any = 0.0

    def plus(self, answers: int, possibly: int, surely: int) -> "Tally":
        """With what one look has found; nothing new without answers."""
        if answers <= 0:
            return self
        # A failure is counted a moment before its answer, and once for each try.
        possibly, surely = min(possibly, answers), min(surely, answers)
        return Tally(
            self.answers + answers,
            self.possibly + possibly,
            self.surely + surely,
            self.looks + 1,
            self.possible_shares + possibly / answers,
            self.sure_shares + surely / answers,
        )

    def possibly_bad(self, more: int) -> "Tally":
        """With `more` answers that may turn out bad, spread evenly over the looks."""
        if not more:
            return self
        answers, possibly = self.answers + more, self.possibly + more
        possible = self.possible_shares + more / answers * (self.looks - self.possible_shares)
        return replace(self, answers=answers, possibly=possibly, possible_shares=possible)


@dataclass(frozen=True)
class Finding:
    """One signal: the observed value, its limit, and the outcome."""

    name: str
    outcome: Outcome
    value: float | None
    limit: float | None
    sentence: str
    wanted: bool = True


@dataclass(frozen=True)
class Analysis:
    """`decision`: go on to the next step, go back, wait for more, or hold and tell."""

    decision: Literal["promote", "rollback", "wait", "hold"]
    findings: tuple[Finding, ...]

    @property
    def numbers(self) -> dict[str, Any]:
        """What it rests on: finding -> {outcome, value, limit}."""
        return {
            one.name: {"outcome": one.outcome, "value": one.value, "limit": one.limit}
            for one in self.findings
        }

    def sentence(self) -> str:
        """Why."""
        outcome = {"promote": "good", "rollback": "bad"}.get(self.decision, "open")
        said = [one for one in self.findings if one.outcome == outcome]
        # What is open and was not asked for holds nothing up.
        return "; ".join(one.sentence for one in said if one.wanted or outcome != "open")


def signals(config: RolloutConfig, shown: bool = False) -> dict[str, Signal]:
    """{name: signal} for errors, latencies and, with `shown`, what answers show of themselves;
    `quality_signal` is the one for quality.

    The limit of `cut_off` is that beside a running release without any, see `shown_limits`.
    """
    found = [Signal("errors", "share", config.error_rate_maximum)]
    for name, tail in TAILS.items():
        wanted = name in config.promotion_quantiles
        found.append(Signal(f"latency_{name}", "quantile", tail, wanted=wanted))
    if shown and config.latency_increase_maximum is not None:
        found += [Signal(name, "quantile", MEDIAN, wanted=False) for name in TIMES]
        if config.cut_off_increase_maximum is not None:
            found.append(Signal("cut_off", "share", config.cut_off_increase_maximum, wanted=False))
    return {one.name: one for one in found}


@dataclass(frozen=True)
class Quality:
    """(the score of a served answer, the mean of those evaluated for the same prompt, above 0)."""

    plug: Family  # whose answers and scores they are
    judged: Sequence[tuple[float, float]]


def quality_signal(config: RolloutConfig, plug: Family) -> Signal:
    """The score of a served answer, divided by the one evaluated for the same prompt."""
    limit = 1 - config.quality_drop_maximum
    return Signal("quality", "bounded mean", limit, plug.served.quality_range)


def share_evidence(signal: Signal, tally: Tally) -> tuple[Any, Any]:
    """Logarithms of the e-values that a share is (below, above) its limit; arrays as the tally's.

    What is possibly bad speaks against the first, what is surely bad for the second.
    """
    return (
        evidence.share_below(signal.limit, tally.looks, tally.possible_shares),
        evidence.share_above(signal.limit, tally.looks, tally.sure_shares),
    )


def thresholds(count: int) -> tuple[float, float]:
    """The thresholds of the log e-values for (on, back) on each of `count` signals."""
    return evidence.threshold(RATE), evidence.threshold(RATE / count)


def analyse(
    config: RolloutConfig,
    tallies: Mapping[str, Tally],
    limits: Limits,
    seconds: float,
    ejected: int,
    quality: Quality,
    waiting: int = 0,
    shown: bool = False,
) -> Analysis:
    """What to do after `seconds` of a step.

    `tallies` by the names of `signals`, and `shown` as there; `limits`: those of the
    step (see `limits`);
    `ejected`: how often the gateway took the release's slot out;
    `waiting`: how many requests have been waiting for an answer for longer than a good one takes.
    They may fail, so they count against going on; only requests that have failed count for going
    back.
    """
    known = signals(config, shown)
    on, back = thresholds(len(known) + 1)  # and the quality
    shares = [
        _share(one, tallies.get(name, Tally()), waiting, limits, on, back)
        for name, one in known.items()
    ]
    text = f"the gateway took the release's slot out {ejected} times"
    ejections = Finding("ejections", "bad" if ejected else "good", ejected, 0, text)
    findings = (*shares, ejections, _quality(config, quality, on, back))
    if any(one.outcome == "bad" for one in findings):
        return Analysis("rollback", findings)
    good = all(one.outcome == "good" for one in findings if one.wanted)
    if good and seconds >= config.minimum_seconds:
        return Analysis("promote", findings)
    return Analysis("hold" if seconds > config.maximum_seconds else "wait", findings)


# --- findings ----------------------------------------------------------------------------------


def _outcome(good: bool, bad: bool) -> Outcome:
    return "bad" if bad else "good" if good else "open"


# What is bad of so many answers, by signal.
BAD = {
    "errors": "answers were server faults",
    **{f"latency_{name}": "answers took longer than" for name in TAILS},
    "first_token": "streamed answers took longer to their first token than",
    "inter_token": "streamed answers took longer from one token to the next than",
    "cut_off": "answers to users were cut off, as long as allowed",
}


def _share(
    signal: Signal, tally: Tally, waiting: int, limits: Limits, on: float, back: float
) -> Finding:
    key = signal.name.removeprefix("latency_")
    bounds = sorted({one[key] for one in limits.values() if key in one})
    if signal.name == "cut_off" and bounds:
        signal = replace(signal, limit=bounds[-1])
    below, _ = share_evidence(signal, tally.possibly_bad(waiting))
    _, above = share_evidence(signal, tally)
    outcome = _outcome(bool(below >= on), bool(above >= back))
    bad = tally.possibly if outcome == "good" else tally.surely
    value = bad / tally.answers if tally.answers else None
    if signal.name != "errors" and not bounds:
        text = "the running release has answered too little to compare latencies with"
        return Finding(signal.name, outcome, value, signal.limit, text, signal.wanted)
    text = f"{bad} of {tally.answers} {BAD[signal.name]}"
    if signal.kind == "quantile":
        text += f" {' or '.join(dict.fromkeys(map(_milliseconds, bounds)))} ms"
    if waiting:
        text += f", {waiting} more are not answered yet"
    shown = {"good": "shown to be below", "bad": "shown to be above", "open": "not decided against"}
    text += f", which is {shown[outcome]} the {signal.limit:.1%} that are allowed"
    return Finding(signal.name, outcome, value, signal.limit, text, signal.wanted)


def _milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}"


def _quality(config: RolloutConfig, quality: Quality, on: float, back: float) -> Finding:
    """The scores of served answers against those of the evaluated ones.

    Once the quality is shown to be good, later answers are not judged.
    """
    import numpy as np

    plug, judged = quality.plug, quality.judged
    signal = quality_signal(config, plug)
    count = f"{len(judged)} of at most {config.judged_answers} {plug.answer}s are judged"
    if signal.limit <= 0:
        return Finding("quality", "good", None, signal.limit, "any quality is allowed")
    if not judged:
        return Finding("quality", "open", None, signal.limit, count)
    served, evaluated = np.asarray(judged, dtype=float).T
    low, high = signal.range
    served = np.nan_to_num(served, nan=0.0)  # an answer that no score can be given to is none
    values = (np.clip(served / evaluated, low, high) - low) / (high - low)
    limit = (signal.limit - low) / (high - low)
    good = bool((evidence.mean_above(limit, values) >= on).any())
    bad = bool((evidence.mean_below(limit, values) >= back).any())
    text = (
        f"{len(values)} served {plug.answer}s score a {plug.served.quality} of {served.mean():.3f},"
        f" those evaluated for the same prompts {evaluated.mean():.3f}, of which at most "
        f"{config.quality_drop_maximum:.0%} may be lost"
    )
    outcome = _outcome(good, bad)
    if outcome == "open":
        text += f": not decided, {count}"
    return Finding("quality", outcome, float((served / evaluated).mean()), signal.limit, text)
