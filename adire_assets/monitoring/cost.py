"""What a slot costs in a time, divided among the releases that its engine worked for.

A slot costs its price for every hour in which it runs. A release's cost is the price times the
hours in which the slot's engine was busy for it, by the engine's own clock; the rest is idle cost:

    cost(release) = price * busy_seconds(release) / 3600
    idle          = price * (seconds - sum of busy_seconds) / 3600

The recording rules of serving/gateway/cost.rules.yml say the same for Prometheus.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from adire_assets.config.costs import HOUR

Key = tuple[str, str]  # model, release


@dataclass(frozen=True)
class Spent:
    """What a slot did and cost in `seconds`; without a price, costs are absent or None.

    `busy` are seconds of its engine, `made` is how much of `units` ("image") has been answered.
    `engine_seconds` is in how many of them the engine worked, for whomever; where that is not known
    it is the sum of `busy`. An engine that tells it adds to `busy` when a request ends alone, so in
    a short time the sum says little.
    """

    seconds: float
    cost_per_hour: float | None
    busy: Mapping[Key, float]
    made: Mapping[Key, float]
    units: Mapping[Key, str]
    engine_seconds: float | None = None

    @property
    def cost(self) -> dict[Key, float]:
        """Of each release, without idle cost."""
        if self.cost_per_hour is None:
            return {}
        return {key: self.cost_per_hour * seconds / HOUR for key, seconds in self.busy.items()}

    @property
    def busy_share(self) -> float:
        """0 to 1."""
        known = self.engine_seconds
        busy = sum(self.busy.values()) if known is None else known
        return min(busy / self.seconds, 1.0)

    @property
    def idle_cost_per_hour(self) -> float | None:
        return None if self.cost_per_hour is None else self.cost_per_hour * (1 - self.busy_share)


def spent(
    busy: Mapping[tuple[str, str, str], float],
    made: Mapping[tuple[str, str, str], float],
    seconds: float,
    cost_per_hour: float | None,
    engine_seconds: float | None = None,
) -> Spent:
    """From what counters by (model, release, unit) have risen by in `seconds`."""
    by_release: dict[str, defaultdict[Key, float]] = {
        name: defaultdict(float) for name in ("busy", "made")
    }
    for name, counters in (("busy", busy), ("made", made)):
        for (model, number, _), risen in counters.items():
            by_release[name][model, number] += risen
    units = {(model, number): unit for model, number, unit in made}
    return Spent(
        seconds, cost_per_hour, by_release["busy"], by_release["made"], units, engine_seconds
    )
