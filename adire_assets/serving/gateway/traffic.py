"""What a release has answered, as the gateway's statistics tell it.

Every request to a release is in one of these, so that none is evidence for something that it does
not show:

- **answered**: it ended well, or in the server's fault (`failed`);
- **refused**: the client got something wrong. It shows nothing about the release;
- **unanswered**: the client gave it up, or the gateway did after its timeout. It took at least as
  long as was waited for it; what the gateway gave up is in `failed` too;
- **active**: it is being answered still;
- refused by the gateway, because as many requests as allowed were being answered: counted nowhere.

While a slot does not answer the gateway's health checks (`out`), others answer for it: what is
counted then is not its own, and the checks that failed (`unhealthy`) are what it was asked.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from re import fullmatch
from typing import Any

from adire_assets.serving.gateway.config import parse_cluster_name
from adire_assets.serving.gateway.protocol import all_protocols

EJECTIONS = "outlier_detection.ejections_enforced_total"
# What the access log counts by cluster (see `bootstrap`): how long was waited for requests that
# their client or the gateway gave up, and answers that broke off in the middle.
LOG_SCOPE, UNANSWERED, BROKEN = "adire", "unanswered_time", "broken_answers"
Histogram = tuple[tuple[float, int], ...]  # (upper bound in ms, how many up to it), rising


def statistics_pattern(clusters: str) -> str:
    """The pattern of what `read_traffic` needs of the clusters that match `clusters`.

    '.' in the names stands for any character, which does no harm here.
    """
    outcomes = {outcome.statistic for one in all_protocols() for outcome in one.outcomes}
    names = "|".join(
        [
            *sorted(outcomes),
            f"upstream_rq_(retry|time|active)|{EJECTIONS}",
            "health_check.failure|membership_(healthy|total)",
        ]
    )
    logged = rf"{LOG_SCOPE}\.({UNANSWERED}|{BROKEN})\.cluster"
    return rf"^(cluster\.{clusters}\.({names})|{logged}\.{clusters})$"


@dataclass(frozen=True)
class Traffic:
    """What became of a release's requests since the gateway started, but for `active` and `out`,
    which are about this moment.

    `failed` counts the server's faults and what the gateway asked again elsewhere; `latency` and
    `unanswered` are histograms; `ejected`: how often its slot was taken out.
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

    def since(self, before: "Traffic") -> "Traffic":
        """What came after `before`; everything, when the gateway was started in between."""
        after = Traffic(
            self.answered - before.answered,
            # Made of several counters, which are not read at one moment.
            max(0, self.failed - before.failed),
            self.ejected - before.ejected,
            _less(self.latency, before.latency),
            self.refused - before.refused,
            _less(self.unanswered, before.unanswered),
            self.active,
            self.unhealthy - before.unhealthy,
            self.out,
        )
        counts = (
            *(after.answered, after.ejected, after.refused, after.unhealthy),
            *(count for _, count in after.latency + after.unanswered),
        )
        return self if min(counts) < 0 else after

    def plus(self, other: "Traffic") -> "Traffic":
        """Both together."""
        return Traffic(
            self.answered + other.answered,
            self.failed + other.failed,
            self.ejected + other.ejected,
            _together(self.latency, other.latency),
            self.refused + other.refused,
            _together(self.unanswered, other.unanswered),
            self.active + other.active,
            self.unhealthy + other.unhealthy,
            self.out or other.out,
        )

    def quantile(self, share: float) -> float | None:
        """The latency in ms that `share` of the answers stayed within; None without answers.

        Linear between the bounds of the histogram.
        """
        total = histogram_total(self.latency)
        if not total:
            return None
        wanted, bound, below = share * total, 0.0, 0
        for upper, count in self.latency:
            if count >= wanted:
                inside = (wanted - below) / (count - below) if count > below else 1.0
                return bound + (upper - bound) * inside
            bound, below = upper, count
        return bound


def histogram_total(histogram: Histogram) -> int:
    """How many it holds."""
    return histogram[-1][1] if histogram else 0


def without_fastest(histogram: Histogram, count: int) -> Histogram:
    """Without so many of the shortest in it."""
    return tuple((bound, max(0, within - count)) for bound, within in histogram)


def from_record(values: Mapping[str, Any]) -> Traffic:
    """From JSON, where a histogram is a list of lists; an earlier version may lack some."""
    found = dict(values)
    for name in ("latency", "unanswered"):
        found[name] = tuple((bound, count) for bound, count in values.get(name, ()))
    return Traffic(**found)


def read_traffic(statistics: Iterable[Mapping[str, Any]]) -> Traffic:
    """From Envoy's statistics of a release's clusters, with cumulative buckets."""
    answered = failed = ejected = refused = active = unhealthy = healthy = members = 0
    histograms: dict[str, dict[float, int]] = {"latency": {}, "unanswered": {}}
    for one in statistics:
        for histogram in one.get("histograms", ()):
            kind = "unanswered" if UNANSWERED in histogram["name"] else "latency"
            for bucket in histogram["buckets"]:
                bound, count = float(bucket["upper_bound"]), bucket["cumulative"]
                histograms[kind][bound] = histograms[kind].get(bound, 0) + count
        if "value" not in one:
            continue
        value = one["value"]
        if one["name"].startswith(f"{LOG_SCOPE}.{BROKEN}."):
            failed += value
            # Where it began with a status, it is counted as an answer already.
            grpc = parse_cluster_name(one["name"].rpartition(".")[2])[1].grpc
            answered += value if grpc else 0
            continue
        cluster, _, rest = one["name"].removeprefix("cluster.").partition(".")
        pinned, protocol = parse_cluster_name(cluster)
        if rest == EJECTIONS:
            ejected += value
        elif rest.startswith(("health_check.", "membership_")):
            # Every protocol of a slot is looked at; only a pinned cluster has one slot.
            unhealthy += value if pinned and rest.endswith(".failure") else 0
            members += value if pinned and rest.endswith("_total") else 0
            healthy += value if pinned and rest.endswith("_healthy") else 0
        elif rest == "upstream_rq_active":
            active += value
        elif rest == "upstream_rq_retry":
            failed += value
        else:
            fits = (found for found in protocol.outcomes if fullmatch(found.statistic, rest))
            if outcome := next(fits, None):
                answered += value * outcome.answered
                failed += value * outcome.failed
                refused += value * outcome.refused
    return Traffic(
        max(0, answered),
        max(0, failed),
        ejected,
        tuple(sorted(histograms["latency"].items())),
        refused,
        tuple(sorted(histograms["unanswered"].items())),
        active,
        unhealthy,
        members > 0 and healthy == 0,
    )


def _less(histogram: Histogram, before: Histogram) -> Histogram:
    earlier = dict(before)
    return tuple((bound, count - earlier.get(bound, 0)) for bound, count in histogram)


def _together(one: Histogram, other: Histogram) -> Histogram:
    found = dict(one)
    for bound, count in other:
        found[bound] = found.get(bound, 0) + count
    return tuple(sorted(found.items()))
