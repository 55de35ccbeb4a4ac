"""Whether a challenger is not worse than the champion, metric by metric, with the uncertainty.

Contract: `compare` is a pure function of the statistics of two evaluations with the same prompts
and seeds, in numpy and scipy alone; equal input gives equal output.

**The question.** For each metric that has a margin: is the true difference (challenger minus
champion, turned so that positive is better; "true" is over all prompts and seeds that could have
been asked) above -margin? It is, when the one-sided lower confidence bound is.

**The resamples.** Images of one prompt resemble each other, and so do those of one seed. Both are
drawn again as crossed clusters: an image weighs how often its prompt was drawn times how often its
seed was (Owen 2007, "The pigeonhole bootstrap"). Both sides get the same weights, which keeps them
paired, and every metric is computed again from the weights, those of a whole set as well.

**The bound.** The pigeonhole bootstrap's own interval does not hold with few clusters: drawing S
seeds again shows only (S - 1)/S of their variance, and a percentile knows no degrees of freedom.
Besides the crossed draw the same counts of prompts and of seeds are therefore applied alone. That
gives the mean squares of a two-way analysis of variance, for metrics of pairs too:

    a = var(prompts alone) P/(P-1)    b = var(seeds alone) S/(S-1)
    e = var(crossed - prompts alone - seeds alone) PS/((P-1)(S-1))
    v = max(a, b, a + b - e)          the variance of the difference, unbiased but for the maximum

and the bound is the lowest of three: difference - t(f) sqrt(variance) for (a, P-1), (b, S-1) and
(v, Satterthwaite's degrees of freedom from a and b). The first two guard the third when b, which
rests on two or four seeds, came out too small by chance.

Simulated size of the superiority test (margin 0, lower bound > 0, nominally 5 %): the highest over
90 mixtures of prompt, seed and residual variance, 100,000 normal differences each, in per cent; and
in brackets how far the bound lies below the difference, in true standard errors, mean over these.

    prompts x seeds        16x2        64x2        8x4         16x4        64x4        16x8
    pigeonhole, normal  21.8 (1.5)  22.3 (1.4)  12.0 (1.7)  12.2 (1.7)  12.6 (1.6)   8.3 (1.8)
    Satterthwaite        7.9 (3.7)   8.2 (3.9)   5.4 (2.1)   5.5 (2.0)   5.6 (2.0)   5.1 (1.8)
    t(min(P, S) - 1)     4.3 (6.1)   4.8 (5.8)   5.1 (2.3)   5.0 (2.3)   5.1 (2.3)   5.1 (1.9)
    lowest of the three  5.0 (4.5)   5.0 (4.6)   5.2 (2.1)   5.3 (2.0)   5.5 (2.0)   5.1 (1.8)

Through this function, 1,000 simulations each, size in per cent (percentile interval of the
pigeonhole bootstrap in brackets) with standard deviations of 0.5 by prompt, 0.3 by seed and 1 by
image; and with 0.3, 1 and 0.5, where few seeds carry everything:

                    16x2              64x2              8x4              16x4
    mean         2.4   4.2         4.4   6.2         3.7   5.7        4.1   5.0
                (7.0) (17.1)     (12.3) (24.6)      (4.2) (11.9)     (3.1) (11.1)
    KID          0.4   0.4         1.2   0.8         0.4   1.0        1.8   1.0
                (1.2) (11.1)      (5.6) (17.3)      (0.2) (2.1)      (0.8) (3.4)
    diversity    0.7   1.1         1.8   0.8         1.6   2.5        2.4   2.2
                (2.4) (8.5)       (7.6) (14.5)      (1.1) (3.0)      (1.4) (3.5)

(1,000 simulations leave 0.7 per cent points of doubt: 20,000 of the two highest of the mean, 64x2
and 8x4, give 5.0 and 5.2.) Metrics of pairs are tested with care to spare, because a prompt that is
drawn twice brings pairs of like images.

**All must pass, without a correction for many tests.** The claim is "not worse in any metric"; its
opposite is a union ("worse in this one, or in that one, ..."), and that is refuted only if each of
its parts is. When the challenger is truly worse in some metric, passing requires in particular to
pass that one test, which happens with at most 5 %, however many others there are and however they
depend on each other (intersection-union test: Berger 1982, "Multiparameter hypothesis testing and
acceptance sampling"). More metrics cost power, not safety.

**What it can see.** `smallest_effect` is the true difference for which the test against margin 0
succeeds with 80 %, or as well: the margin that an equally good challenger passes with 80 %. It is
estimated from the same variances by the noncentral t; simulated as above, its power is 79 to 83 %
for means and 82 to 88 % for KID and diversity. A test that fails although the observed
difference is within the margin was too small and says so; it does not pass.

Equal images pass at any size. A metric that is equal on images which are not is a share that has
come to its end (nothing copied, everything as asked), where a resample shows no spread; its bound
is then the share of images that may yet differ, 1 - (1 - confidence)^(1/n), "the rule of three".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import nctdtrinc, poch, stdtrit

from adire_assets.evaluation.statistic import Statistic

MINIMUM_PROMPTS, MINIMUM_SEEDS = 4, 2
POWER = 0.8
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
    """The prompts and seeds that count for a metric, and their resamples."""

    prompts: int
    seeds: int
    weights: np.ndarray  # float64 [3, resamples, prompts * seeds]: prompts alone, seeds alone, both

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
        lower_bound: float | None,
        smallest_effect: float | None,
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
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """One comparison for each metric in `margins`, in that order.

    Images lie prompt by prompt, within a prompt seed by seed, on both sides. `better` says which
    direction is good. A metric that one side lacks does not pass; one for which no image counts on
    either side (all NaN: no prompt asks for it) has nothing to compare and passes.
    """
    designs: dict[int, _Design] = {}
    identical = challenger.keys() == champion.keys() and all(
        _equal(challenger[name], champion[name]) for name in champion
    )
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
                identical=identical,
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
    identical: bool,
) -> Comparison:
    ones = np.ones(design.prompts * design.seeds)
    values = float(challenger.value(ones)), float(champion.value(ones))
    difference = sign * (values[0] - values[1])
    seen = _Observed(metric, values[1], values[0], difference, margin, confidence, design)
    if identical:
        explanation = f"{values[0]:.4g} is the champion's: the images are the same"
        return seen.answer(explanation, 0.0, 0.0, passed=True, decidable=True)
    if not np.isfinite(difference):
        return seen.answer("is not a finite number on both sides, so it cannot pass", None, None)
    if _equal(challenger, champion):
        return _saturated(seen, _known(challenger))
    if design.prompts < MINIMUM_PROMPTS or design.seeds < MINIMUM_SEEDS:
        return seen.answer(
            f"is {seen.values}, too small to decide: {design} are fewer than the "
            f"{MINIMUM_PROMPTS} prompts and {MINIMUM_SEEDS} seeds that a comparison needs",
            None,
            None,
        )
    drawn = sign * (challenger.value(design.weights) - champion.value(design.weights))
    spread = _spread(drawn, difference, design, confidence)
    if spread is None:
        return seen.answer(
            f"is {seen.values}, too small to decide: resampling {design} shows no spread or no "
            "finite one; use more prompts or seeds",
            None,
            None,
        )
    below, smallest = spread
    return _judged(seen, difference - below, smallest)


def _judged(seen: _Observed, lower: float, smallest: float) -> Comparison:
    known = f"with {seen.confidence:.0%} confidence the true one is above {lower:+.3g}"
    sees = f"{seen.design} can see a difference of {smallest:.2g}"
    if lower > -seen.margin:
        explanation = f"is {seen.values}: {known}, and the margin is {seen.margin:g}; {sees}"
        return seen.answer(explanation, lower, smallest, passed=True, decidable=True)
    if seen.difference <= -seen.margin:
        explanation = f"is {seen.values}, which is worse by the margin of {seen.margin:g} or more"
        return seen.answer(f"{explanation}: {known}; {sees}", lower, smallest, decidable=True)
    return seen.answer(
        f"is {seen.values}, too small to decide: {known} only, and the margin is {seen.margin:g}; "
        f"{sees}: use more prompts or seeds, or a wider margin",
        lower,
        smallest,
    )


def _saturated(seen: _Observed, images: int) -> Comparison:
    """Equal in every image, although the images are not."""
    share = 1.0 - (1.0 - seen.confidence) ** (1.0 / images)
    passed = share < seen.margin
    verdict = "" if passed else ", too small to decide"
    explanation = (
        f"{seen.challenger:.4g} is the champion's in each of {images} images{verdict}: with "
        f"{seen.confidence:.0%} confidence less than {share:.2g} of all images differ, and the "
        f"margin is {seen.margin:g}"
    )
    explanation += "" if passed else "; use more prompts or seeds, or a wider margin"
    return seen.answer(explanation, -share, share, passed=passed, decidable=passed)


def _spread(
    drawn: np.ndarray, difference: float, design: _Design, confidence: float
) -> tuple[float, float] | None:
    """(how far the bound lies below the difference, the smallest effect); None without a spread.

    `drawn` [3, resamples]: the differences of the resamples, as `_Design.weights` has them.
    """
    if not np.isfinite(drawn).all():
        return None
    free = design.prompts - 1, design.seeds - 1
    alone = drawn[:2].var(axis=1) * (design.prompts / free[0], design.seeds / free[1])
    if alone.max() <= (1e-12 * max(1.0, abs(difference))) ** 2:
        return None
    crossed = (drawn[2] - drawn[0] - drawn[1]).var() * design.prompts * design.seeds
    both = max(*alone, alone.sum() - crossed / (free[0] * free[1]))
    satterthwaite = max(both**2 / (alone**2 / free).sum(), min(free))
    freedom = np.array([*free, satterthwaite], float)
    errors = np.sqrt([*alone, both])
    critical = stdtrit(freedom, confidence)
    # The noncentrality at which a t with these degrees of freedom is above `critical` with POWER.
    visible = nctdtrinc(freedom, 1.0 - POWER, critical)
    # A standard error from few degrees of freedom is too small on average, by this factor.
    visible /= np.sqrt(2 / freedom) * poch(freedom / 2, 0.5)
    return float((critical * errors).max()), float((visible * errors).max())


def _design(prompts: int, seeds: int, resamples: int, seed: int) -> _Design:
    random = np.random.default_rng(seed)
    of_prompts = random.multinomial(prompts, np.full(prompts, 1 / prompts), resamples)
    of_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), resamples)
    alone = np.repeat(of_prompts, seeds, axis=1), np.tile(of_seeds, (1, prompts))
    weights = np.stack([*alone, alone[0] * alone[1]]).astype(np.float64)
    # The rare resample of one image alone has no pairs.
    return _Design(prompts, seeds, weights[:, (weights[2] > 0).sum(axis=1) > 1])


def _counting_prompts(sides: tuple[Statistic, ...], prompts: int, seeds: int) -> np.ndarray:
    """bool [prompts]: those with an image that counts; resampling silent ones would only blur."""
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
    """Whether each image and each pair has the same value on both sides."""
    parts = [(side.each, _off_diagonal(side.pairs), side.constant) for side in (one, other)]
    return all(
        first is second
        if first is None or second is None
        else np.array_equal(first, second, equal_nan=True)
        for first, second in zip(*parts, strict=True)
    )


def _off_diagonal(pairs: np.ndarray | None) -> np.ndarray | None:
    return None if pairs is None else pairs[~np.eye(len(pairs), dtype=bool)]


def _size(statistic: Statistic) -> int | None:
    parts = (statistic.each, statistic.pairs)
    return next((len(part) for part in parts if part is not None), None)


def _known(statistic: Statistic) -> int:
    """The images that count."""
    if statistic.each is None:
        return _size(statistic) or 0
    return int((~np.isnan(statistic.each)).sum())


def _without(metric: str, margin: float, why: str, *, passed: bool = False) -> Comparison:
    return Comparison(
        metric, None, None, None, None, margin, None, passed, passed, f"{metric} {why}"
    )


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
