"""What a release has answered, by the gateway's statistics.

Every request to a release is in one of these classes:

- **answered**: it ended well, or in the server's fault (`failed`);
- **refused**: the client got something wrong. It shows nothing about the release;
- **unanswered**: the client gave it up, or the gateway did after its timeout. It took at least as
  long as was waited for it; what the gateway gave up is in `failed` too;
- **active**: it is being answered still;
- **full**: refused by the gateway, because as many requests as allowed were being answered. It
  shows how much is asked.

While a slot does not answer the gateway's health checks (`out`), others answer for it: what is
counted then is not its own, and the checks that failed (`unhealthy`) are what it was asked.
"""

import operator
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from re import fullmatch
from typing import Any

from adire_assets.serving.gateway.config import parse_cluster_name
from adire_assets.serving.gateway.protocol import all_protocols

# What the access log counts by cluster (see envoy.yml): answers that broke off in the middle, and
# times; how long was waited for requests that their client or the gateway gave up, and of answers
# in pieces those to the first token and from one to the next.
LOG_SCOPE, BROKEN = "adire", "broken_answers"
LOGGED_COUNTERS = {"ended_answers": "ended", "cut_off_answers": "cut_off"}
LOGGED_TIMES = {  # histogram of `Traffic`, and how many of its units are a millisecond
    "unanswered_time": ("unanswered", 1),
    "first_token_time": ("first_token", 1),
    "inter_token_time": ("inter_token", 1000),
}
# Envoy's statistics of a cluster, and what they count; of those of its slot only a pinned cluster's
# are looked at, which has one slot.
COUNTERS = {
    "outlier_detection.ejections_enforced_total": "ejected",
    "upstream_rq_active": "active",
    "upstream_rq_retry": "failed",
}
OF_THE_SLOT = {
    "health_check.failure": "unhealthy",
    "membership_healthy": "healthy",
    "membership_total": "members",
}
# What only rises in `Traffic`.
COUNTS = ("answered", "failed", "ejected", "refused", "full", "unhealthy", "ended", "cut_off")
OUTCOMES = ("answered", "failed", "refused", "full")  # as a protocol's `Outcome` has them
HISTOGRAMS = ("latency", "unanswered", "first_token", "inter_token")
Histogram = tuple[tuple[float, int], ...]  # (upper bound in ms, how many up to it), rising


def statistics_pattern(clusters: str) -> str:
    """The pattern of what `read_traffic` needs of the clusters that match `clusters`.

    '.' in the names stands for any character, which does no harm here.
    """
    outcomes = {outcome.statistic for one in all_protocols() for outcome in one.outcomes}
    names = "|".join([*sorted(outcomes), *COUNTERS, *OF_THE_SLOT, "upstream_rq_time"])
    of_the_log = "|".join([BROKEN, *LOGGED_COUNTERS, *LOGGED_TIMES])
    logged = rf"{LOG_SCOPE}\.({of_the_log})\.cluster"
    return rf"^(cluster\.{clusters}\.({names})|{logged}\.{clusters})$"


@dataclass(frozen=True)
class Traffic:
    """What became of a release's requests since the gateway started, but for `active` and `out`,
    which are about this moment.

    `failed` counts the server's faults and what the gateway asked again elsewhere; `ejected`: how
    often its slot was taken out. `latency`, `unanswered` and, of answers in pieces, `first_token`
    and `inter_token` are histograms. Of `ended` answers, so many as `cut_off` were as long as
    allowed; which ones say how they ended is the protocol's (see `answers` there).
    """

    answered: int = 0
    failed: int = 0
    ejected: int = 0
    latency: Histogram = ()
    refused: int = 0
    unanswered: Histogram = ()
    active: int = 0
    unhealthy: int = 0
    out: bool = False
    first_token: Histogram = ()
    inter_token: Histogram = ()
    ended: int = 0
    cut_off: int = 0
    full: int = 0

    @property
    def timed(self) -> int:
        """How many answers have a latency."""
        return histogram_total(self.latency)

    @property
    def given_up(self) -> int:
        """How many requests were given up."""
        return histogram_total(self.unanswered)

    @property
    def shows(self) -> bool:
        """Whether anything of how answers were is in it."""
        return any(histogram_total(getattr(self, name)) for name in HISTOGRAMS) or self.ended > 0

    def since(self, before: "Traffic") -> "Traffic":
        """What came after `before`; everything, when the gateway was started in between."""
        counts: Any = {name: getattr(self, name) - getattr(before, name) for name in COUNTS}
        # Made of several counters, which are not read at one moment.
        counts["failed"] = max(0, counts["failed"])
        later: Any = {
            name: _less(getattr(self, name), getattr(before, name)) for name in HISTOGRAMS
        }
        timed = (count for one in later.values() for _, count in one)
        return self if min(*counts.values(), *timed) < 0 else replace(self, **counts, **later)

    def plus(self, other: "Traffic") -> "Traffic":
        """Both together."""
        found: dict[str, Any] = {"out": self.out or other.out}
        for names, add in (((*COUNTS, "active"), operator.add), (HISTOGRAMS, _together)):
            found |= {name: add(getattr(self, name), getattr(other, name)) for name in names}
        return Traffic(**found)


def histogram_total(histogram: Histogram) -> int:
    """How many it holds."""
    return histogram[-1][1] if histogram else 0


def without_fastest(histogram: Histogram, count: int) -> Histogram:
    """Without so many of the shortest in it."""
    return tuple((bound, max(0, within - count)) for bound, within in histogram)


def from_record(values: Mapping[str, Any]) -> Traffic:
    """From JSON, where a histogram is a list of lists; an earlier version may lack some."""
    histograms = {name: tuple(map(tuple, values.get(name, ()))) for name in HISTOGRAMS}
    return Traffic(**{**values, **histograms})


def read_traffic(statistics: Iterable[Mapping[str, Any]]) -> Traffic:
    """From Envoy's statistics of a release's clusters, with cumulative buckets."""
    found: Counter[str] = Counter()
    histograms: dict[str, Counter[float]] = {name: Counter() for name in HISTOGRAMS}
    for one in statistics:
        for histogram in one.get("histograms", ()):
            kind, units = _kind(histogram["name"])
            for bucket in histogram["buckets"]:
                histograms[kind][float(bucket["upper_bound"]) / units] += bucket["cumulative"]
        if "value" in one:
            for name, times in _meaning(one["name"]).items():
                found[name] += times * one["value"]
    counts: Any = {name: max(0, found[name]) for name in (*COUNTS, "active")}
    sorted_histograms: Any = {name: tuple(sorted(one.items())) for name, one in histograms.items()}
    out = found["members"] > 0 and found["healthy"] == 0
    return Traffic(**counts, **sorted_histograms, out=out)


def _kind(histogram: str) -> tuple[str, int]:
    """Which of `HISTOGRAMS` a statistic is, and how many of its units are a millisecond."""
    logged = histogram.removeprefix(f"{LOG_SCOPE}.").partition(".")[0]
    return LOGGED_TIMES.get(logged, ("latency", 1))


def _meaning(statistic: str) -> dict[str, int]:
    """How often each count of a statistic counts, and as what."""
    scope, _, logged = statistic.partition(".")
    if scope == LOG_SCOPE:
        name, _, cluster = logged.partition(".cluster.")
        if name in LOGGED_COUNTERS:
            return {LOGGED_COUNTERS[name]: 1}
        # Where it began with a status, it is counted as an answer already.
        grpc = parse_cluster_name(cluster)[1].grpc
        return {"failed": 1, "answered": int(grpc)}
    cluster, _, rest = statistic.removeprefix("cluster.").partition(".")
    pinned, protocol = parse_cluster_name(cluster)
    if rest in COUNTERS:
        return {COUNTERS[rest]: 1}
    if rest in OF_THE_SLOT:
        return {OF_THE_SLOT[rest]: int(pinned)}
    for one in protocol.outcomes:
        if fullmatch(one.statistic, rest):
            return {name: getattr(one, name) for name in OUTCOMES}
    return {}


def _less(histogram: Histogram, before: Histogram) -> Histogram:
    earlier = dict(before)
    return tuple((bound, count - earlier.get(bound, 0)) for bound, count in histogram)


def _together(one: Histogram, other: Histogram) -> Histogram:
    found = Counter(dict(one))
    found.update(dict(other))
    return tuple(sorted(found.items()))
