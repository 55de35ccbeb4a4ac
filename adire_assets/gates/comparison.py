"""Whether a challenger is not worse than the champion, metric by metric, with the uncertainty.

Contract: `compare` is a pure function of the statistics of two evaluations with the same prompts
and seeds, in numpy and scipy alone; equal input gives equal output.

**The question.** For each metric that has a margin: is the true difference (challenger minus
champion, turned so that positive is better; "true" is over all prompts and seeds that could have
been asked) above -margin? It is, when the one-sided lower confidence bound is.

**The clusters.** Answers of one prompt resemble each other, so prompts are the clusters; nothing
else ties answers together, since no two prompts share a seed. Whole prompts
are drawn again (the cluster bootstrap: Field and Welsh 2007, "Bootstrapping clustered data"): an
answer weighs how often its prompt was drawn. Both sides get the same weights, which keeps them
paired, and every metric is computed again from the weights, those of a whole set as well. The bound
is

    difference - t(P - 1) sqrt(P / (P - 1) var(resamples))

with P prompts; for a mean that is the paired t-test over the prompts' means.

**Where few prompts carry the difference** (half of them change by less than a fifth of the largest
change: a rare fault among small changes, or prompts that are equal because nothing is copied or
everything is as asked), a t knows nothing of the faults that were not drawn. The bound is then at
least as low as that of the shares of prompts that lose and that gain: the limits of Clopper and
Pearson 1934 for each, put together as Newcombe 1998 ("Interval estimation for the difference
between independent proportions", method 10) does, in units of the largest change seen. With no
change at all the unit is 1, the range of a share (or what values spread, where that is more), and
the bound that of "the rule of three", 1 - (1 - confidence)^(1/P). The same answers on both sides
pass at any size.

Where no fault was drawn at all among small changes, nothing tells of its size: a loss of `margin`
by faults of size f passes with (1 - margin / f)^P; with f = 1, margin 0.1: 18 % at 16 prompts, 8 %
at 24, 3 % at 32, 0 at 64. A bound for any variable within its range needs no such luck, and cannot
be had with few prompts: by bets (Waudby-Smith and Ramdas 2024) a range of +-R takes at least log
20 / log(R / (R - margin)) prompts without any spread, which is 48 for CLIP-S with the house
example's margin of 0.15, 58 for nsfw with 0.05 and 23 for attribute accuracy with 0.12. At 32
prompts the first two never pass, and the third passes in 59 % where a t passes in 99.7 % (a
standard deviation of 0.15 by prompt).

Simulated size of the superiority test (margin 0, lower bound > 0, nominally 5 %) through this
function, in per cent, with standard deviations of 0.5 by prompt and 1 by answer; and the other way
round. Means: 60,000 simulations each (0.1 points of doubt), the others 1,000 (up to 0.7):

    prompts x seeds     8x4          16x4         32x2         64x1
    mean             5.0   5.0    5.3   5.1    5.1   5.1    5.1   5.1
    KID              1.0   0.7    1.6   0.9    1.5   1.7    2.9   2.7
    diversity        2.7   2.2    2.2   2.9    3.7   3.4    3.5   3.7

Metrics of pairs are tested with care to spare, because a prompt that is drawn twice brings pairs
of like answers. Faults that spoil whole prompts, half of each or single answers, with a true loss
equal to a margin of 0.1, 0.2 or 0.3, pass in 0 to 5.1 % (16x4, 24x2, 32x2, 64x1; 20,000
simulations each), but for single answers at 16x4, margin 0.3: 5.8 %. Among small changes (standard
deviations of 0.02 to 0.2 by prompt), faults of 0.5 or 1 with margins of 0.1 or 0.2 pass in 0.9 to
5.6 % where (1 - margin / f)^P is below 5 %, but for 16 prompts, f = 0.5, margin 0.1, a standard
deviation of 0.2: 6.2 %. A t alone passes 5.2 to 16 % of them. The price at 32 prompts: equally
good sides whose prompts differ normally with a standard deviation of twice the margin pass in 84.5
% instead of 86.9 %, with one and a half in 97.1 % instead of 98.0 %.

**All must pass, without a correction for many tests.** The claim is "not worse in any metric"; its
opposite is a union ("worse in this one, or in that one, ..."), and that is refuted only if each of
its parts is. When the challenger is truly worse in some metric, passing requires in particular to
pass that one test, which happens with at most 5 %, however many others there are and however they
depend on each other (intersection-union test: Berger 1982, "Multiparameter hypothesis testing and
acceptance sampling"). More metrics cost power, not safety.

**What it can see.** `smallest_effect` is the true difference for which the test against margin 0
succeeds with 80 %, or as well: the margin that an equally good challenger passes with 80 %. It is
estimated from the same variance by the noncentral t. A test that fails although the observed
difference is within the margin was too small and says so; it does not pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import betaincinv, nctdtrinc, poch, stdtrit

from adire_assets.core.statistic import Statistic

MINIMUM_PROMPTS = 4
POWER = 0.8
SMALL = 0.2  # of the largest change: normal ones have a median of 0.3 of it with 32 prompts
Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Comparison:
    """One metric's answer. Numbers are in the metric's unit, None where there is none.

    `difference`, `lower_bound` and `smallest_effect` are turned so that positive is better.
    """

    metric: str
    champion: float | None
    challenger: float | None
    difference: float | None
    lower_bound: float | None  # one-sided, of the true difference
    margin: float
    smallest_effect: float | None
    passed: bool
    decidable: bool  # False: the test was too small, or could not be done
    explanation: str  # a full sentence with the values


@dataclass(frozen=True)
class _Design:
    """The prompts that count for a metric, each with so many seeds, and their resamples."""

    prompts: int
    seeds: int
    weights: np.ndarray  # float64 [resamples, prompts * seeds]

    def __str__(self) -> str:
        return f"{self.prompts} prompts x {self.seeds} seeds"


@dataclass(frozen=True)
class _Observed:
    """A metric on both sides, its difference, and how the resamples differ from each other."""

    metric: str
    champion: float
    challenger: float
    difference: float
    margin: float
    confidence: float
    design: _Design

    def answer(
        self,
        explanation: str,
        lower_bound: float | None = None,
        smallest_effect: float | None = None,
        *,
        passed: bool = False,
        decidable: bool = False,
    ) -> Comparison:
        return Comparison(
            self.metric,
            _finite(self.champion),
            _finite(self.challenger),
            _finite(self.difference),
            lower_bound,
            self.margin,
            smallest_effect,
            passed,
            decidable,
            f"{self.metric} {explanation}",
        )

    @property
    def values(self) -> str:
        return (
            f"{self.challenger:.4g} against the champion's {self.champion:.4g} "
            f"(difference {self.difference:+.3g}, positive is better)"
        )


def compare(
    challenger: Mapping[str, Statistic],
    champion: Mapping[str, Statistic],
    better: Mapping[str, Better],
    margins: Mapping[str, float],
    prompts: int,
    seeds: int,
    *,
    same_answers: bool = False,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """One comparison for each metric in `margins`, in that order.

    Answers lie prompt by prompt, within a prompt seed by seed, on both sides. `better` says which
    direction is good. A metric that one side lacks does not pass; one for which no answer counts on
    either side (all NaN: no prompt asks for it) has nothing to compare and passes.

    `same_answers`: both sides are the same bytes, so that nothing can be worse. Equal values do
    not show that: a fault that either side has seldom is in neither.
    """
    designs: dict[int, _Design] = {}
    found = []
    for metric, margin in margins.items():
        if metric not in challenger or metric not in champion:
            side = "champion" if metric in challenger else "challenger"
            found.append(_without(metric, margin, f"cannot be compared: the {side} has no value"))
            continue
        sides = (challenger[metric], champion[metric])
        if any(_size(side) not in (None, prompts * seeds) for side in sides):
            raise ValueError(f"{metric}: not {prompts} prompts x {seeds} seeds on both sides")
        counting = _counting_prompts(sides, prompts, seeds)
        count = int(counting.sum())
        if not count:
            why = "is asked for by no prompt, so there is nothing to compare"
            found.append(_without(metric, margin, why, passed=True))
            continue
        if count not in designs:
            designs[count] = _design(count, seeds, resamples, seed)
        chosen = np.repeat(counting, seeds)
        found.append(
            _compared(
                metric,
                _only(challenger[metric], chosen),
                _only(champion[metric], chosen),
                designs[count],
                sign=1.0 if better[metric] == "higher" else -1.0,
                margin=margin,
                confidence=confidence,
                same_answers=same_answers,
            )
        )
    return tuple(found)


def _compared(
    metric: str,
    challenger: Statistic,
    champion: Statistic,
    design: _Design,
    *,
    sign: float,
    margin: float,
    confidence: float,
    same_answers: bool,
) -> Comparison:
    ones = np.ones(design.prompts * design.seeds)
    values = float(challenger.value(ones)), float(champion.value(ones))
    difference = sign * (values[0] - values[1])
    seen = _Observed(metric, values[1], values[0], difference, margin, confidence, design)
    if same_answers:
        explanation = f"{values[0]:.4g} is the champion's: the answers are the same"
        return seen.answer(explanation, 0.0, 0.0, passed=True, decidable=True)
    if not np.isfinite(difference):
        return seen.answer("is not a finite number on both sides, so it cannot pass")
    changes = _changes(challenger, champion, design)
    if changes is not None and not changes.any():
        return _judged(seen, *_of_shares(seen, np.zeros(design.prompts), _range(challenger)))
    if design.prompts < MINIMUM_PROMPTS:
        return seen.answer(
            f"is {seen.values}, too small to decide: {design} are fewer than the "
            f"{MINIMUM_PROMPTS} prompts that a comparison needs"
        )
    drawn = sign * (challenger.value(design.weights) - champion.value(design.weights))
    spread = _spread(drawn, difference, design, confidence)
    if spread is None:
        return seen.answer(
            f"is {seen.values}, too small to decide: resampling {design} shows no spread or no "
            "finite one; use more prompts"
        )
    lower, smallest = difference - spread[0], spread[1]
    if changes is not None and _few_carry(changes):
        of_shares = _of_shares(seen, sign * changes, float(np.abs(changes).max()))
        lower, smallest = min(lower, of_shares[0]), max(smallest, of_shares[1])
    return _judged(seen, lower, smallest)


def _judged(seen: _Observed, lower: float, smallest: float) -> Comparison:
    known = f"with {seen.confidence:.0%} confidence the true one is above {lower:+.3g}"
    sees = f"{seen.design} can see a difference of {smallest:.2g}"
    if lower > -seen.margin:
        explanation = f"is {seen.values}: {known}, and the margin is {seen.margin:g}; {sees}"
        return seen.answer(explanation, lower, smallest, passed=True, decidable=True)
    if seen.difference <= -seen.margin and seen.difference < 0:
        explanation = f"is {seen.values}, which is worse by the margin of {seen.margin:g} or more"
        return seen.answer(f"{explanation}: {known}; {sees}", lower, smallest, decidable=True)
    return seen.answer(
        f"is {seen.values}, too small to decide: {known} only, and the margin is {seen.margin:g}; "
        f"{sees}: use more prompts, or a wider margin",
        lower,
        smallest,
    )


def _of_shares(seen: _Observed, changes: np.ndarray, unit: float) -> tuple[float, float]:
    """(lower bound, smallest effect) from the shares of prompts that lose and that gain `unit`.

    `changes` [prompts], positive is better.
    """
    prompts, confidence = len(changes), seen.confidence
    lost, gained = (np.maximum(side, 0).sum() / unit for side in (-changes, changes))
    most = 1.0 if lost >= prompts else betaincinv(lost + 1, prompts - lost, confidence)
    least = 0.0 if gained <= 0 else betaincinv(gained, prompts - gained + 1, 1 - confidence)
    below = unit * float(np.hypot(most - lost / prompts, gained / prompts - least))
    return seen.difference - below, below


def _spread(
    drawn: np.ndarray, difference: float, design: _Design, confidence: float
) -> tuple[float, float] | None:
    """(how far the bound lies below the difference, the smallest effect); None without a spread.

    `drawn` [resamples]: the differences of the resamples, as `_Design.weights` has them.
    """
    if not np.isfinite(drawn).all():
        return None
    freedom = design.prompts - 1
    variance = drawn.var() * design.prompts / freedom
    if variance <= (1e-12 * max(1.0, abs(difference))) ** 2:
        return None
    error = np.sqrt(variance)
    critical = stdtrit(freedom, confidence)
    # The noncentrality at which a t with these degrees of freedom is above `critical` with POWER.
    visible = nctdtrinc(freedom, 1.0 - POWER, critical)
    # A standard error from few degrees of freedom is too small on average, by this factor.
    visible /= np.sqrt(2 / freedom) * poch(freedom / 2, 0.5)
    return float(critical * error), float(visible * error)


def _design(prompts: int, seeds: int, resamples: int, seed: int) -> _Design:
    random = np.random.default_rng(seed)
    drawn = random.multinomial(prompts, np.full(prompts, 1 / prompts), resamples)
    weights = np.repeat(drawn, seeds, axis=1).astype(np.float64)
    # The rare resample of one answer alone has no pairs.
    return _Design(prompts, seeds, weights[(weights > 0).sum(axis=1) > 1])


def _counting_prompts(sides: tuple[Statistic, ...], prompts: int, seeds: int) -> np.ndarray:
    """bool [prompts]: those with an answer that counts; resampling silent ones would only blur."""
    each = [side.each for side in sides if side.each is not None and side.pairs is None]
    if len(each) < len(sides):
        return np.ones(prompts, bool)
    known = ~np.isnan(each).all(axis=0)
    return known.reshape(prompts, seeds).any(axis=1)


def _only(statistic: Statistic, chosen: np.ndarray) -> Statistic:
    if chosen.all():
        return statistic
    each = None if statistic.each is None else statistic.each[chosen]
    return Statistic(each, None, statistic.constant)


def _equal(one: Statistic, other: Statistic) -> bool:
    """Whether each answer and each pair has the same value on both sides."""
    constants = np.array(one.constant), np.array(other.constant)
    return _same(one.each, other.each) and _pairs_equal(one, other) and _same(*constants)


def _pairs_equal(one: Statistic, other: Statistic) -> bool:
    return _same(_off_diagonal(one.pairs), _off_diagonal(other.pairs))


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other, equal_nan=True)


def _off_diagonal(pairs: np.ndarray | None) -> np.ndarray | None:
    return None if pairs is None else pairs[~np.eye(len(pairs), dtype=bool)]


def _size(statistic: Statistic) -> int | None:
    parts = (statistic.each, statistic.pairs)
    return next((len(part) for part in parts if part is not None), None)


def _changes(one: Statistic, other: Statistic, design: _Design) -> np.ndarray | None:
    """How much each prompt's mean differs, float64 [prompts]; one whose answers differ, but not
    their mean, counts as the smallest gain. None for a metric of pairs that are not all equal."""
    if _equal(one, other):
        return np.zeros(design.prompts)
    if one.each is None or other.each is None or not _pairs_equal(one, other):
        return None
    tables = [each.reshape(design.prompts, design.seeds) for each in (one.each, other.each)]
    differ = ~((tables[0] == tables[1]) | (np.isnan(tables[0]) & np.isnan(tables[1])))
    sums = [np.nansum(table, axis=1) for table in tables]
    counts = [np.maximum((~np.isnan(table)).sum(axis=1), 1) for table in tables]
    means = sums[0] / counts[0] - sums[1] / counts[1]
    return np.where(differ.any(axis=1) & (means == 0), np.finfo(float).tiny, means)


def _few_carry(changes: np.ndarray) -> bool:
    """Whether half of the prompts change by less than `SMALL` of the largest change."""
    sizes = np.sort(np.abs(changes))
    return bool(sizes[(len(sizes) - 1) // 2] <= SMALL * sizes[-1])


def _range(statistic: Statistic) -> float:
    """How much a prompt can lose: 1, the range of a share, or what values were seen to spread."""
    if statistic.each is None:
        return 1.0
    return max(1.0, float(np.nanmax(statistic.each) - np.nanmin(statistic.each)))


def _without(metric: str, margin: float, why: str, *, passed: bool = False) -> Comparison:
    return Comparison(
        metric, None, None, None, None, margin, None, passed, passed, f"{metric} {why}"
    )


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
