"""How strongly observations speak for or against a limit, valid at every look.

Each function of observations returns the natural logarithm of an e-value: a bet that starts at 1
and is not expected to grow while its claim is false. By Ville's inequality (Ville 1939) the chance
that it ever reaches 1 / a is then at most a, however often one looks and whenever one stops; so
log(1 / a) is the threshold for an error rate of a. A survey: Ramdas, Grünwald, Vovk and Shafer
2023, "Game-theoretic statistics and safe anytime-valid inference".

Shares: the mixture of likelihood ratios against a share equal to the limit, over a Beta density of
the true share that ends at the limit (Robbins 1970; Howard, Ramdas, McAuliffe and Sekhon 2021,
"Time-uniform, nonparametric, nonasymptotic confidence sequences", beta-binomial mixture). It holds
for observations anywhere in [0, 1] (there: sub-Bernoulli), of which only the mean, given what came
before, is bounded by the limit. So answers that share their fate can be put in as one observation,
the share of them that is bad.

Means: bets on each value (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random
variables by betting"), the average over a few stakes.

scipy loads on use: configs/fleet.yaml is read by every command.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

RATE = 0.05  # of decisions that are wrong, over all looks
# Density of the true share beyond the limit, Beta(1, b): a bad release is more likely some times
# above its limit than all bad.
BAD_SHARES = 3.0
# Parts of the largest stake with which a bet cannot be lost altogether, but by the worst value.
STAKES = (0.5, 1.0)
COUNTED_AT_MOST = 1_000_000


def threshold(rate: float) -> float:
    """What a log e-value must reach for an error rate of `rate`."""
    return -math.log(rate)


def share_below(limit: float, observations: Any, bad: Any) -> Any:
    """Evidence that the mean of observations in [0, 1] is below `limit`, in (0, 1).

    `observations` is their number, `bad` their sum; arrays of one shape give a float64 array of it.
    The density of the true share is uniform below `limit`.
    """
    from scipy.special import betainc

    return _share(limit, observations, bad, 1.0, betainc)


def share_above(limit: float, observations: Any, bad: Any) -> Any:
    """Evidence that the mean of observations in [0, 1] is above `limit`; as `share_below`."""
    from scipy.special import betaincc

    return _share(limit, observations, bad, BAD_SHARES, betaincc)


def _share(limit: float, observations: Any, bad: Any, b: float, part: Callable[..., Any]) -> Any:
    import numpy as np
    from scipy.special import betaln

    bad = np.asarray(bad, dtype=float)
    good = np.asarray(observations, dtype=float) - bad
    with np.errstate(divide="ignore"):  # no evidence at all: the logarithm of 0
        mixed = betaln(bad + 1, good + b) + np.log(part(bad + 1, good + b, limit))
    density = betaln(1, b) + math.log(part(1, b, limit))
    return mixed - density - bad * math.log(limit) - good * math.log1p(-limit)


def mean_above(limit: float, values: "np.ndarray") -> "np.ndarray":
    """Evidence after each of the values in [0, 1] that their mean is above `limit`: float64 [N]."""
    return _bets(limit, values, 1 / limit)


def mean_below(limit: float, values: "np.ndarray") -> "np.ndarray":
    """Evidence after each of the values in [0, 1] that their mean is below `limit`: float64 [N]."""
    return _bets(limit, values, -1 / (1 - limit))


def _bets(limit: float, values: "np.ndarray", largest: float) -> "np.ndarray":
    import numpy as np
    from scipy.special import logsumexp

    stakes = largest * np.asarray(STAKES)[:, None]
    with np.errstate(divide="ignore"):
        won = np.cumsum(np.log(np.maximum(1 + stakes * (values - limit), 0)), axis=1)
    return np.asarray(logsumexp(won, axis=0, b=1 / len(STAKES)))


def answers_needed(limit: float) -> int:
    """How many answers, none of them bad, show that the share of bad ones is below `limit`."""

    def shown(count: int) -> bool:
        mixed = -math.expm1((count + 1) * math.log1p(-limit)) / ((count + 1) * limit)
        return math.log(mixed) - count * math.log1p(-limit) >= threshold(RATE)

    return _first(shown)


def values_needed(drop: float) -> int:
    """How many values, all equal to the expected mean, show that the mean has not fallen by the
    share `drop` of it, in (0, 1]; values that vary need more."""
    if drop >= 1:
        return 0
    gain = 1 / (1 - drop) - 1

    def shown(count: int) -> bool:
        won = [count * math.log1p(stake * gain) for stake in STAKES]
        mean = math.fsum(math.exp(one - max(won)) for one in won) / len(STAKES)
        return max(won) + math.log(mean) >= threshold(RATE)

    return _first(shown)


def _first(shown: Callable[[int], bool]) -> int:
    """The smallest count from which `shown` holds, by bisection; `COUNTED_AT_MOST` at most."""
    return 1 + bisect_left(range(1, COUNTED_AT_MOST), True, key=shown)
