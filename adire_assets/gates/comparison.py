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
from dataclasses import dataclass, replace
from functools import lru_cache
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
    confidence: float

    def __str__(self) -> str:
        return f"{self.prompts} prompts x {self.seeds} seeds"


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
    found = []
    for metric, margin in margins.items():
        unknown = Comparison(metric, None, None, None, None, margin, None, False, False, "")
        if metric not in challenger or metric not in champion:
            side = "champion" if metric in challenger else "challenger"
            why = f"{metric} cannot be compared: the {side} has no value"
            found.append(replace(unknown, explanation=why))
            continue
        sides = (challenger[metric], champion[metric])
        if any(side.answers not in (0, prompts * seeds) for side in sides):
            raise ValueError(f"{metric}: not {prompts} prompts x {seeds} seeds on both sides")
        counting = _counting_prompts(sides, prompts, seeds)
        if not counting.any():
            why = f"{metric} is asked for by no prompt, so there is nothing to compare"
            found.append(replace(unknown, passed=True, decidable=True, explanation=why))
            continue
        chosen = np.repeat(counting, seeds)
        design = _design(int(counting.sum()), seeds, resamples, seed, confidence)
        sign = 1 if better[metric] == "higher" else -1
        ours, rival = (_only(side, chosen) for side in sides)
        found.append(_compared(unknown, ours, rival, design, sign, same_answers))
    return tuple(found)


def _compared(
    unknown: Comparison,
    challenger: Statistic,
    champion: Statistic,
    design: _Design,
    sign: int,
    same_answers: bool,
) -> Comparison:
    ones = np.ones(design.prompts * design.seeds)
    new, old = float(challenger.value(ones)), float(champion.value(ones))
    difference, metric = sign * (new - old), unknown.metric
    known = [value if np.isfinite(value) else None for value in (old, new, difference)]
    seen = replace(unknown, champion=known[0], challenger=known[1], difference=known[2])
    if same_answers:
        why = f"{metric} {new:.4g} is the champion's: the answers are the same"
        sure = replace(seen, lower_bound=0.0, smallest_effect=0.0, explanation=why)
        return replace(sure, passed=True, decidable=True)
    if not np.isfinite(difference):
        why = f"{metric} is not a finite number on both sides, so it cannot pass"
        return replace(seen, explanation=why)
    values = (
        f"{metric} is {new:.4g} against the champion's {old:.4g} (difference {difference:+.3g}, "
        "positive is better)"
    )
    changes = _changes(challenger, champion, design)
    if changes is not None and not changes.any():
        bounds = _of_shares(difference, changes, _range(challenger), design)
        return _judged(seen, values, difference, bounds, design)
    if design.prompts < MINIMUM_PROMPTS:
        why = f"{design} are fewer than the {MINIMUM_PROMPTS} prompts that a comparison needs"
        return replace(seen, explanation=f"{values}, too small to decide: {why}")
    drawn = sign * (challenger.value(design.weights) - champion.value(design.weights))
    spread = _spread(drawn, difference, design)
    if spread is None:
        why = f"resampling {design} shows no spread or no finite one; use more prompts"
        return replace(seen, explanation=f"{values}, too small to decide: {why}")
    bounds = (difference - spread[0], spread[1])
    if changes is not None:
        sizes = np.sort(np.abs(changes))
        if sizes[(len(sizes) - 1) // 2] <= SMALL * sizes[-1]:  # few prompts carry the difference
            of_shares = _of_shares(difference, sign * changes, float(sizes[-1]), design)
            bounds = (min(bounds[0], of_shares[0]), max(bounds[1], of_shares[1]))
    return _judged(seen, values, difference, bounds, design)


def _judged(
    seen: Comparison, values: str, difference: float, bounds: tuple[float, float], design: _Design
) -> Comparison:
    lower, smallest = bounds
    known = f"with {design.confidence:.0%} confidence the true one is above {lower:+.3g}"
    sees = f"{design} can see a difference of {smallest:.2g}"
    passed = lower > -seen.margin
    worse = not passed and difference <= -seen.margin and difference < 0
    if passed:
        why = f"{values}: {known}, and the margin is {seen.margin:g}; {sees}"
    elif worse:
        why = f"{values}, which is worse by the margin of {seen.margin:g} or more: {known}; {sees}"
    else:
        why = (
            f"{values}, too small to decide: {known} only, and the margin is {seen.margin:g}; "
            f"{sees}: use more prompts, or a wider margin"
        )
    bounded = replace(seen, lower_bound=lower, smallest_effect=smallest, explanation=why)
    return replace(bounded, passed=passed, decidable=passed or worse)


def _of_shares(
    difference: float, changes: np.ndarray, unit: float, design: _Design
) -> tuple[float, float]:
    """(lower bound, smallest effect) from the shares of prompts that lose and that gain `unit`.

    `changes` [prompts], positive is better.
    """
    prompts, confidence = design.prompts, design.confidence
    lost, gained = (np.maximum(side, 0).sum() / unit for side in (-changes, changes))
    most = 1.0 if lost >= prompts else betaincinv(lost + 1, prompts - lost, confidence)
    least = 0.0 if gained <= 0 else betaincinv(gained, prompts - gained + 1, 1 - confidence)
    below = unit * float(np.hypot(most - lost / prompts, gained / prompts - least))
    return difference - below, below


def _spread(drawn: np.ndarray, difference: float, design: _Design) -> tuple[float, float] | None:
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
    critical = stdtrit(freedom, design.confidence)
    # The noncentrality at which a t with these degrees of freedom is above `critical` with POWER.
    visible = nctdtrinc(freedom, 1.0 - POWER, critical)
    # A standard error from few degrees of freedom is too small on average, by this factor.
    visible /= np.sqrt(2 / freedom) * poch(freedom / 2, 0.5)
    return float(critical * error), float(visible * error)


@lru_cache(maxsize=4)
def _design(prompts: int, seeds: int, resamples: int, seed: int, confidence: float) -> _Design:
    random = np.random.default_rng(seed)
    drawn = random.multinomial(prompts, np.full(prompts, 1 / prompts), resamples)
    weights = np.repeat(drawn, seeds, axis=1).astype(np.float64)
    # The rare resample of one answer alone has no pairs.
    return _Design(prompts, seeds, weights[(weights > 0).sum(axis=1) > 1], confidence)


def _counting_prompts(sides: tuple[Statistic, ...], prompts: int, seeds: int) -> np.ndarray:
    """bool [prompts]: those with an answer that counts; resampling silent ones would only blur."""
    each = [side.each for side in sides if side.each is not None and side.pairs is None]
    if len(each) < len(sides):
        return np.ones(prompts, bool)
    known = ~np.isnan(each).all(axis=0)
    return known.reshape(prompts, seeds).any(axis=1)


def _only(statistic: Statistic, chosen: np.ndarray) -> Statistic:
    if chosen.all() or statistic.each is None:
        return statistic
    return Statistic(statistic.each[chosen], None, statistic.constant)


def _changes(one: Statistic, other: Statistic, design: _Design) -> np.ndarray | None:
    """How much each prompt's mean differs, float64 [prompts]; one whose answers differ, but not
    their mean, counts as the smallest gain. None for a metric of pairs that are not all equal."""
    if not _pairs_equal(one, other):
        return None
    if one.each is None or other.each is None:
        same = one.each is other.each and one.constant == other.constant
        return np.zeros(design.prompts) if same else None
    own, rival = (each.reshape(design.prompts, design.seeds) for each in (one.each, other.each))
    differ = ~np.isclose(own, rival, rtol=0, atol=0, equal_nan=True)
    changes = _row_means(own) - _row_means(rival)
    return np.where(differ.any(axis=1) & (changes == 0), np.finfo(float).tiny, changes)


def _row_means(table: np.ndarray) -> np.ndarray:
    """Of what is a number; 0 for a row without any."""
    return np.nansum(table, axis=1) / np.maximum((~np.isnan(table)).sum(axis=1), 1)


def _pairs_equal(one: Statistic, other: Statistic) -> bool:
    if one.pairs is None or other.pairs is None:
        return one.pairs is other.pairs
    beside = ~np.eye(len(one.pairs), dtype=bool)  # the diagonal is never read
    return np.array_equal(one.pairs[beside], other.pairs[beside], equal_nan=True)


def _range(statistic: Statistic) -> float:
    """How much a prompt can lose: 1, the range of a share, or what values were seen to spread."""
    if statistic.each is None:
        return 1.0
    return max(1.0, float(np.nanmax(statistic.each) - np.nanmin(statistic.each)))
