"""What a step allows, relative to what the running release's answers were, and what is beyond it.

The limits of a kind of requests are pure functions of what the running release has answered to it:
of its latencies (`latency_limits`), and of what its answers show of themselves (`shown_limits`).
Each look's answers are counted against those of their own kind, and pooled in one tally a signal.
"""

from collections.abc import Mapping

from adire_assets.config.fleet import TAILS, RolloutConfig
from adire_assets.core.evidence import RATE
from adire_assets.serving.gateway.traffic import Histogram, Traffic, histogram_total
from adire_assets.serving.rollout.analysis import MEDIAN, SHOWN, TIMES, Limits, Tally

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


def upper_quantile(histogram: Histogram, share: float) -> float | None:
    """A time in ms that a quantile is below with 95 % confidence, None with too few answers.

    The order statistic whose rank a binomial of the quantile stays below (Hahn and Meeker 1991,
    "Statistical Intervals", 5.2), and of that the upper bound of its bucket.
    """
    from scipy.stats import binom

    rank = int(binom.ppf(1 - RATE, histogram_total(histogram), share)) + 1
    return next((bound for bound, count in histogram if count >= rank), None)


def latency_limits(config: RolloutConfig, running: Traffic | None) -> dict[str, float]:
    """The latency in ms that each quantile may have, by name.

    `running`: the running release's answers to requests of the same kind. A quantile for which
    these are too few has the absolute limit alone; without `running` all quantiles do.
    """
    absolute = config.latency_maximum_seconds * 1000
    found: dict[str, float] = dict.fromkeys(TAILS, absolute)
    increase, slack = config.latency_increase_maximum, config.latency_slack_seconds * 1000
    for name, tail in TAILS.items():
        highest = upper_quantile(running.latency, 1 - tail) if running else None
        if highest is not None and increase is not None:
            found[name] = min(absolute, highest * (1 + increase) + slack)
    return found


def shown_limits(config: RolloutConfig, running: Traffic) -> dict[str, float]:
    """What the median of each of `TIMES` may be, in ms, and the share `cut_off` that may be.

    A signal of which the running release's answers show too little has none, and is not judged.
    """
    from scipy.stats import beta

    found: dict[str, float] = {}
    slacks = (config.latency_slack_seconds, config.inter_token_slack_seconds)
    increase, more_cut_off = config.latency_increase_maximum, config.cut_off_increase_maximum
    for name, slack in zip(TIMES, slacks, strict=True):
        highest = upper_quantile(getattr(running, name), MEDIAN)
        if highest is not None and increase is not None:
            found[name] = highest * (1 + increase) + slack * 1000
    if more_cut_off is not None and increase is not None and running.ended > 0:
        # Clopper and Pearson 1934: the share is below it with the same confidence.
        whole = running.ended - running.cut_off
        highest = float(beta.ppf(1 - RATE, running.cut_off + 1, whole)) if whole > 0 else 1.0
        if highest + more_cut_off < 1:
            found["cut_off"] = highest + more_cut_off
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


def count_shown(
    tallies: Mapping[str, Tally], limits: Limits, traffic: Mapping[str, Traffic]
) -> dict[str, Tally]:
    """The tallies of `SHOWN` with one look's answers, of the kinds of requests that have a limit;
    as `count_latencies`."""
    found = dict(tallies)
    for name in SHOWN:
        answers = possibly = surely = 0
        for kind, seen in traffic.items():
            limit = limits[kind].get(name)
            if limit is None:
                continue
            if name == "cut_off":
                total, more, certain = seen.ended, seen.cut_off, seen.cut_off
            else:
                histogram = getattr(seen, name)
                total, (more, certain) = histogram_total(histogram), count_slower(histogram, limit)
            answers, possibly, surely = answers + total, possibly + more, surely + certain
        if answers:
            found[name] = found.get(name, Tally()).plus(answers, possibly, surely)
    return found
