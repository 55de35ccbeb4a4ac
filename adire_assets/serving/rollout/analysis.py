"""Is a canary good enough to go on, bad enough to go back, or neither yet: pure statistics.

`signals` lists what a release is judged by. Each look at its counters adds one observation to the
`Tally` of a signal, and `analyse` decides: "on" needs evidence from every signal that is asked for
it, each at `RATE`; "back" needs evidence on any signal, at `RATE` divided by their number. Missing
data is no evidence. Evidence holds at every look (see `core.evidence`), so a
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
from adire_assets.serving.gateway.traffic import Histogram, Traffic, histogram_total

Outcome = Literal["good", "bad", "open"]
Limits = Mapping[str, Mapping[str, float]]  # kind of requests -> quantile -> milliseconds


@dataclass(frozen=True)
class Signal:
    """One signal by which a release is judged.

    `share`: of the answers, at most `limit` may be faults. `quantile`: of the answers, at most
    `limit` may take longer than what the step allows. `bounded mean`: the mean of values within
    `range` is at least `limit`. `wanted`: going on asks for evidence of it; going back takes any.
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


def signals(config: RolloutConfig) -> dict[str, Signal]:
    """{name: signal} for errors and latencies; `quality_signal` is the one for quality."""
    found = [Signal("errors", "share", config.error_rate_maximum)]
    for name, tail in TAILS.items():
        wanted = name in config.promotion_quantiles
        found.append(Signal(f"latency_{name}", "quantile", tail, wanted=wanted))
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
) -> Analysis:
    """What to do after `seconds` of a step.

    `tallies` by the names of `signals`; `limits`: those of `latency_limits`;
    `ejected`: how often the gateway took the release's slot out;
    `waiting`: how many requests have been waiting for an answer for longer than a good one takes.
    They may fail, so they count against going on; only requests that have failed count for going
    back.
    """
    known = signals(config)
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


# --- latencies ---------------------------------------------------------------------------------

# Answers of the running release that bound its p95: with fewer, even the slowest of them is below
# the p95 with more than a chance of 5 %. Its p50 takes 5, its p99 299.
REFERENCE_ANSWERS = 59


def count_slower(histogram: Histogram, milliseconds: float) -> tuple[int, int]:
    """(how many in it took possibly, and surely, longer than this): a histogram knows only between
    which bounds each of them lies."""
    total = histogram_total(histogram)
    within = [count for bound, count in histogram if bound <= milliseconds]
    beyond = [count for bound, count in histogram if bound >= milliseconds]
    return total - (within[-1] if within else 0), total - (beyond[0] if beyond else total)


def upper_quantile(traffic: Traffic, share: float) -> float | None:
    """A latency in ms that a quantile is below with 95 % confidence, None with too few answers.

    The order statistic whose rank a binomial of the quantile stays below (Hahn and Meeker 1991,
    "Statistical Intervals", 5.2), and of that the upper bound of its bucket.
    """
    from scipy.stats import binom

    rank = int(binom.ppf(1 - RATE, traffic.timed, share)) + 1
    return next((bound for bound, count in traffic.latency if count >= rank), None)


def latency_limits(config: RolloutConfig, running: Traffic | None) -> dict[str, float]:
    """The latency in ms that each quantile may have, by name.

    `running`: the running release's answers to requests of the same kind. A quantile for which
    these are too few has the absolute limit alone; without `running` all quantiles do.
    """
    absolute = config.latency_maximum_seconds * 1000
    found: dict[str, float] = dict.fromkeys(TAILS, absolute)
    increase, slack = config.latency_increase_maximum, config.latency_slack_seconds * 1000
    for name, tail in TAILS.items():
        highest = upper_quantile(running, 1 - tail) if running else None
        if highest is not None and increase is not None:
            found[name] = min(absolute, highest * (1 + increase) + slack)
    return found


def count_latencies(
    tallies: Mapping[str, Tally], limits: Limits, traffic: Mapping[str, Traffic]
) -> dict[str, Tally]:
    """The tallies of the latencies with one look's answers, which are pooled over the kinds of
    requests; each is held against the limits of its own kind.

    What was given up after longer than a limit is slower than it; what was given up before shows
    nothing.
    """
    found = dict(tallies)
    if not any(seen.timed or seen.given_up for seen in traffic.values()):
        return found
    for quantile in TAILS:
        answers = possibly = surely = 0
        for kind, seen in traffic.items():
            limit = limits[kind][quantile]
            more, certain = count_slower(seen.latency, limit)
            given_up, certainly = count_slower(seen.unanswered, limit)
            answers += seen.timed + given_up
            possibly, surely = possibly + more + given_up, surely + certain + certainly
        name = f"latency_{quantile}"
        found[name] = found.get(name, Tally()).plus(answers, possibly, surely)
    return found


# --- findings ----------------------------------------------------------------------------------


def _outcome(good: bool, bad: bool) -> Outcome:
    return "bad" if bad else "good" if good else "open"


def _share(
    signal: Signal, tally: Tally, waiting: int, limits: Limits, on: float, back: float
) -> Finding:
    below, _ = share_evidence(signal, tally.possibly_bad(waiting))
    _, above = share_evidence(signal, tally)
    outcome = _outcome(bool(below >= on), bool(above >= back))
    bad = tally.possibly if outcome == "good" else tally.surely
    value = bad / tally.answers if tally.answers else None
    if signal.kind == "share":
        text = f"{bad} of {tally.answers} answers were server faults"
    elif limits:
        quantile = signal.name.removeprefix("latency_")
        bounds = sorted({round(one[quantile]) for one in limits.values()})
        text = f"{bad} of {tally.answers} answers took longer than "
        text += f"{' or '.join(map(str, bounds))} ms"
    else:
        text = "the running release has answered too little to compare latencies with"
        return Finding(signal.name, outcome, value, signal.limit, text, signal.wanted)
    if waiting:
        text += f", {waiting} more are not answered yet"
    shown = {"good": "shown to be below", "bad": "shown to be above", "open": "not decided against"}
    text += f", which is {shown[outcome]} the {signal.limit:.1%} that are allowed"
    return Finding(signal.name, outcome, value, signal.limit, text, signal.wanted)


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
