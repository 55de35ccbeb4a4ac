"""Is a canary good enough to go on, bad enough to go back, or neither yet: pure statistics.

`analyse` looks at what a release has answered in one step beside what the running release has
answered meanwhile. It goes back only on evidence (a confidence bound beyond the limit), goes on
only on evidence to the contrary, and otherwise waits, at the end holding. Bounds are those of the
Wilson score interval (Wilson 1927) for a share; 1.96 standard deviations, 95 % two-sided.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from statistics import mean, stdev
from typing import Literal

from adire_assets.fleet_config import RolloutConfig
from adire_assets.serving.gateway import Traffic

Pair = tuple[Traffic, Traffic]  # the canary's, the running release's
DEVIATIONS = 1.96
# Latencies come in bursts, and are looked at twice a second.
LATENCY_DEVIATIONS = 3.0
# Images vary more than requests fail: only a drop that chance hardly makes counts.
QUALITY_DEVIATIONS = 3.0
TAILS = {"p50": 0.5, "p99": 0.01}  # the share of the answers that may be slower


@dataclass(frozen=True)
class Finding:
    """One criterion: what was seen, the limit it is held against, and what that means."""

    name: str
    outcome: Literal["good", "bad", "open"]
    value: float | None
    limit: float | None
    sentence: str


@dataclass(frozen=True)
class Analysis:
    """`decision`: go on to the next step, go back, wait for more, or hold and tell."""

    decision: Literal["promote", "rollback", "wait", "hold"]
    findings: tuple[Finding, ...]

    def sentence(self) -> str:
        """Why."""
        wanted = {"promote": "good", "rollback": "bad"}.get(self.decision, "open")
        return "; ".join(one.sentence for one in self.findings if one.outcome == wanted)


def analyse(
    config: RolloutConfig,
    traffic: Sequence[Pair],
    seconds: float,
    quality: tuple[Sequence[float], Sequence[float]] | None,
) -> Analysis:
    """What to do after `seconds` of a step.

    `traffic`: what the canary and the running release have answered to each kind of requests
    (users' and the rollout's own), which are compared within their kind only. `quality`: (CLIP-S
    of images that the canary has drawn in this rollout, of its evaluation); None while they are
    being drawn.
    """
    canary = reduce(Traffic.plus, (pair[0] for pair in traffic), Traffic())
    findings = (
        _errors(config, canary),
        *_latency(config, canary, traffic),
        _ejections(canary),
        _quality(config, quality),
    )
    outcomes = {one.outcome for one in findings}
    if "bad" in outcomes:
        return Analysis("rollback", findings)
    if outcomes == {"good"} and seconds >= config.minimum_seconds:
        return Analysis("promote", findings)
    return Analysis("hold" if seconds > config.maximum_seconds else "wait", findings)


def wilson(successes: int, total: int, deviations: float = DEVIATIONS) -> tuple[float, float]:
    """The bounds of the Wilson score interval for a share; (0, 1) for a total of 0."""
    if not total:
        return 0.0, 1.0
    square = deviations**2
    share = successes / total
    centre = (share + square / (2 * total)) / (1 + square / total)
    width = math.sqrt(share * (1 - share) / total + square / (4 * total**2))
    half = deviations * width / (1 + square / total)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def share_above(traffic: Traffic, milliseconds: float) -> tuple[int, int]:
    """(how many answers took longer than this, how many there were); linear within a bucket."""
    total = traffic.latency[-1][1] if traffic.latency else 0
    bound, below = 0.0, 0
    for upper, count in traffic.latency:
        if upper >= milliseconds:
            inside = (milliseconds - bound) / (upper - bound)
            return total - round(below + (count - below) * inside), total
        bound, below = upper, count
    return total - below, total


def _errors(config: RolloutConfig, canary: Traffic) -> Finding:
    limit, answered = config.error_rate_maximum, canary.answered
    low, high = wilson(min(canary.failed, answered), answered)
    text = (
        f"{canary.failed} of {answered} answers were server faults, so that the rate is between "
        f"{low:.1%} and {high:.1%}, against a limit of {limit:.1%}"
    )
    if answered >= config.minimum_answers and low > limit:
        return Finding("errors", "bad", low, limit, text)
    return Finding("errors", "good" if high < limit else "open", high, limit, text)


def _latency(config: RolloutConfig, canary: Traffic, traffic: Sequence[Pair]) -> list[Finding]:
    """p50 and p99 against the running release's, and p99 against the absolute limit.

    A quantile is too high when the share of the answers above the allowed latency is, with
    confidence, more than the quantile leaves.
    """
    absolute = config.latency_maximum_seconds * 1000
    found = [_quantile(config, canary, "p99_seconds", TAILS["p99"], absolute)]
    slack = config.latency_slack_seconds * 1000
    for new, running in traffic:
        if min(_count(new), _count(running)) < config.minimum_answers:
            continue
        for name, tail in TAILS.items():
            reference = running.quantile(1 - tail) or 0.0
            allowed = reference * (1 + config.latency_increase_maximum) + slack
            found.append(_quantile(config, new, name, tail, allowed))
    return found


def _count(traffic: Traffic) -> int:
    return traffic.latency[-1][1] if traffic.latency else 0


def _quantile(
    config: RolloutConfig, canary: Traffic, name: str, tail: float, allowed: float
) -> Finding:
    slower, total = share_above(canary, allowed)
    found = canary.quantile(1 - tail)
    low, _ = wilson(slower, total, LATENCY_DEVIATIONS)
    text = f"{slower} of {total} answers took longer than {allowed:.0f} ms, which {tail:.0%} may"
    if total < config.minimum_answers:
        outcome: Literal["good", "bad", "open"] = "open"
    else:
        # One slow answer says nothing about a p99 before there are a hundred.
        outcome = "bad" if low > tail and total * tail >= 1 else "good"
    return Finding(f"latency_{name}", outcome, found, allowed, text)


def _ejections(canary: Traffic) -> Finding:
    text = f"the gateway took the release's slot out {canary.ejected} times"
    return Finding("ejections", "bad" if canary.ejected else "good", canary.ejected, 0, text)


def _quality(
    config: RolloutConfig, quality: tuple[Sequence[float], Sequence[float]] | None
) -> Finding:
    """The mean CLIP-S of the served images against that of the evaluated ones."""
    if quality is None or len(quality[0]) < config.judged_images:
        count = 0 if quality is None else len(quality[0])
        text = f"{count} of {config.judged_images} images of the release are judged"
        return Finding("quality", "open", None, None, text)
    served, evaluated = quality
    limit = mean(evaluated) * (1 - config.quality_drop_maximum)
    error = math.sqrt(
        stdev(served) ** 2 / len(served) + stdev(evaluated) ** 2 / max(len(evaluated), 2)
    )
    highest = mean(served) + QUALITY_DEVIATIONS * error
    text = (
        f"the served images score a CLIP-S of {mean(served):.3f}, the evaluated ones "
        f"{mean(evaluated):.3f}; at most {config.quality_drop_maximum:.0%} less is allowed"
    )
    return Finding("quality", "bad" if highest < limit else "good", mean(served), limit, text)
