"""Whether what is observed has changed, valid at every look.

A conformal test martingale (Vovk, Gammerman and Shafer 2022, "Algorithmic Learning in a Random
World", 2nd edition, part III). Each score gets a p-value: its rank among all scores before it, ties
broken at random. While nothing changes, scores are exchangeable, so the p-values are independent
and uniform, whatever the distribution of the scores is. Each p-value is bet against: on small and
on large ones, by the power bets e p^(e - 1) of that book and their mirror images.

A change comes late, when a single martingale would have lost much. So one bet starts with each
score, with the share 1 / (t (t + 1)) of the capital for the score t; these shares sum to 1, so the
sum of all is a martingale that starts at 1 (Shin, Ramdas and Rinaldo 2024, "E-detectors", section
3, with a spending sequence). By Ville's inequality the chance that it ever reaches 1 / a without a
change is at most a.
"""

import math
import random
from bisect import bisect_left, bisect_right, insort

EXPONENTS = (0.2, 0.5, 0.8)  # of the bets; small ones win more on p-values near 0
# Of the p-values that scores are bet by: a score that no other is like has 1 / n on average.
SMALLEST = 1e-9


class Martingale:
    """Bets against scores of one kind, in the order in which they come.

    `seed` breaks ties, so that the same scores give the same evidence. Memory and time of a score
    grow with the scores before it; `insort` moves some 10,000 in a few microseconds.
    """

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._before: list[float] = []  # sorted
        self._won = [-math.inf] * (2 * len(EXPONENTS))  # log capital of each bet, of those begun
        self.log_evidence = 0.0  # the natural logarithm of the capital

    def observe(self, score: float) -> float:
        """The log e-value that scores have changed, with this one. ValueError for NaN."""
        if math.isnan(score):
            raise ValueError("a score is NaN")
        p = self._p_value(score)
        started = len(self._before)
        insort(self._before, score)
        entering = -math.log(started * (started + 1)) if started else 0.0
        # The share that has not been bet yet: 1 / (t + 1) after t scores.
        waiting = -math.log(len(self._before))
        if started:
            entering -= math.log(len(self._won))
            self._won = [
                _log_sum(won, entering) + bet for won, bet in zip(self._won, _bets(p), strict=True)
            ]
        self.log_evidence = _log_sum(waiting, *self._won)
        return self.log_evidence

    def _p_value(self, score: float) -> float:
        below = bisect_left(self._before, score)
        equal = bisect_right(self._before, score) - below
        above = len(self._before) - below - equal
        rank = above + self._random.random() * (equal + 1)
        return rank / (len(self._before) + 1)


def _bets(p: float) -> list[float]:
    """The logarithm of what each bet pays for a p-value; each is 1 on average."""
    return [
        math.log(e) + (e - 1) * math.log(max(side, SMALLEST))
        for side in (p, 1 - p)
        for e in EXPONENTS
    ]


def _log_sum(*logs: float) -> float:
    most = max(logs)
    if most == -math.inf:
        return most
    return most + math.log(math.fsum(math.exp(one - most) for one in logs))
