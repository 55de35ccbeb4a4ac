"""Challenger against champion: how often the test errs, what it sees, and when it does not decide.

The simulations draw both sides from one distribution, so the true difference is zero.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from adire_assets.core.statistic import Statistic
from adire_assets.gates.comparison import Comparison, compare

PROMPTS, SEEDS = 16, 4
BETTER = {"mean": "higher", "kid": "lower", "diversity": "higher"}
Sides = tuple[dict[str, Statistic], dict[str, Statistic]]


def means(random: np.random.Generator, prompts: int = PROMPTS, seeds: int = SEEDS) -> Sides:
    """A mean with what both sides share and, on each, variance by prompt and by image."""
    shared = 5 * random.normal(size=(prompts, 1))

    def side() -> dict[str, Statistic]:
        each = shared + 0.5 * random.normal(size=(prompts, 1))
        return {"mean": Statistic(each=(each + random.normal(size=(prompts, seeds))).ravel())}

    return side(), side()


def sets(random: np.random.Generator, prompts: int = PROMPTS, seeds: int = SEEDS) -> Sides:
    """KID and diversity of unit vectors that are alike within a prompt."""
    shared = random.normal(size=(prompts, 1, 16)) + np.eye(16)[0] * 2
    real = unit(random.normal(size=(24, 16)) * 1.2 + np.eye(16)[0] * 2)

    def side() -> dict[str, Statistic]:
        by_prompt = 0.5 * random.normal(size=(prompts, 1, 16))
        drawn = shared + by_prompt + random.normal(size=(prompts, seeds, 16))
        drawn = unit(drawn).reshape(-1, 16)
        kid = Statistic(-2 * ((drawn @ real.T + 1) ** 3).mean(1), (drawn @ drawn.T + 1) ** 3)
        return {"kid": kid, "diversity": Statistic(pairs=1 - drawn @ drawn.T)}

    return side(), side()


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def simulated(make: Callable[..., Sides], count: int) -> dict[str, list[Comparison]]:
    random = np.random.default_rng(0)
    found: dict[str, list[Comparison]] = {}
    for number in range(count):
        sides = make(random)
        margins = dict.fromkeys(sides[0], 0.0)
        for one in compare(*sides, BETTER, margins, PROMPTS, SEEDS, resamples=400, seed=number):
            found.setdefault(one.metric, []).append(one)
    return found


@pytest.fixture(scope="module", params=[200, pytest.param(1000, marks=pytest.mark.full)])
def equals(request: pytest.FixtureRequest) -> dict[str, list[Comparison]]:
    """So many comparisons of equally good sides for each metric, with margin 0."""
    return simulated(means, request.param) | simulated(sets, request.param)


def not_above(rate: float, count: int, total: int) -> bool:
    """Whether chance alone, at this rate, gives so many at least one time in a hundred."""
    return stats.binomtest(count, total, rate, "greater").pvalue > 0.01


def single(
    challenger: Statistic,
    champion: Statistic,
    margin: float = 0.1,
    prompts: int = PROMPTS,
    seeds: int = SEEDS,
    resamples: int = 2000,
) -> Comparison:
    """Beside a metric in which the images differ."""
    noise = np.random.default_rng(1).normal(size=prompts * seeds)
    sides = (
        {"mean": statistic, "other": Statistic(each=noise + place)}
        for place, statistic in enumerate((challenger, champion))
    )
    [found] = compare(*sides, BETTER, {"mean": margin}, prompts, seeds, resamples=resamples)
    return found


@pytest.mark.parametrize("metric", BETTER)
def test_no_difference_looks_better_in_at_most_one_of_twenty(equals, metric: str) -> None:
    passed = [found.passed for found in equals[metric]]
    assert passed == [found.lower_bound > 0 for found in equals[metric]]
    assert not_above(0.05, sum(passed), len(passed))


@pytest.mark.parametrize("metric", BETTER)
def test_the_smallest_effect_is_found_four_times_in_five(equals, metric: str) -> None:
    effect = np.mean([found.smallest_effect for found in equals[metric]])
    power = np.mean([found.lower_bound + effect > 0 for found in equals[metric]])
    doubt = 3 * math.sqrt(0.8 * 0.2 / len(equals[metric]))
    assert 0.8 - doubt <= power <= 0.88 + doubt  # pairs are tested with care to spare


def test_a_mean_gives_the_paired_t_test_over_prompts() -> None:
    challenger, champion = means(np.random.default_rng(3))
    [found] = compare(challenger, champion, BETTER, {"mean": 1.0}, PROMPTS, SEEDS, resamples=50_000)
    by_prompt = (challenger["mean"].each - champion["mean"].each).reshape(PROMPTS, SEEDS).mean(1)
    test = stats.ttest_1samp(by_prompt, 0.0, alternative="greater").confidence_interval(0.95)
    assert found.difference == pytest.approx(by_prompt.mean())
    below = by_prompt.mean() - test.low
    assert found.difference - found.lower_bound == pytest.approx(below, rel=0.02)


Make = Callable[[np.random.Generator, int, int], tuple[np.ndarray, np.ndarray]]


def by_prompt(random: np.random.Generator, prompts: int, seeds: int) -> tuple[np.ndarray, ...]:
    """A champion without a fault, and a challenger that fails in a tenth of the prompts."""
    sound = np.ones((prompts, seeds))
    return sound * (random.random((prompts, 1)) >= 0.1), sound


def half_of_a_prompt(random: np.random.Generator, prompts: int, seeds: int):
    """In every fifth prompt, half as good."""
    sound = np.ones((prompts, seeds))
    return sound - 0.5 * (random.random((prompts, 1)) < 0.2), sound


def beside_faults_of_both(random: np.random.Generator, prompts: int, seeds: int):
    """A tenth of the prompts fails on both sides, and another ninth of the rest here alone."""
    champion = (random.random((prompts, 1)) >= 0.1) * np.ones((prompts, seeds))
    return champion * (random.random((prompts, 1)) >= 1 / 9), champion


def by_image(random: np.random.Generator, prompts: int, seeds: int):
    """A tenth of the images."""
    return 1.0 * (random.random((prompts, seeds)) >= 0.1), np.ones((prompts, seeds))


@pytest.mark.parametrize(("prompts", "seeds"), [(16, 4), (32, 2), (64, 1)])
@pytest.mark.parametrize("faults", [by_prompt, half_of_a_prompt, beside_faults_of_both, by_image])
def test_a_share_that_loses_its_margin_passes_in_at_most_one_of_twenty(
    faults: Make, prompts: int, seeds: int
) -> None:
    """All true losses are 0.1, which is the margin."""
    random = np.random.default_rng(0)
    passed = sum(
        single(*map(as_statistic, faults(random, prompts, seeds)), 0.1, prompts, seeds, 200).passed
        for _ in range(300)
    )
    assert not_above(0.05, passed, 300)


@pytest.mark.parametrize(
    ("prompts", "seeds", "margin", "fault", "spread"),
    [
        (32, 2, 0.1, 1.0, 0.05),
        (64, 1, 0.1, 0.5, 0.02),
        (24, 2, 0.2, 1.0, 0.1),
        (16, 4, 0.2, 1.0, 0.02),
    ],
)
def test_a_fault_among_small_changes_that_loses_its_margin_passes_in_at_most_one_of_twenty(
    prompts: int, seeds: int, margin: float, fault: float, spread: float
) -> None:
    """A t alone passes it in 8 to 16 %."""
    random = np.random.default_rng(0)
    champion = as_statistic(np.zeros((prompts, seeds)))
    passed = 0
    for _ in range(300):
        by_prompt = spread * random.normal(size=(prompts, 1))
        spoilt = fault * (random.random((prompts, 1)) < margin / fault)
        table = by_prompt - spoilt + np.zeros((prompts, seeds))
        passed += single(as_statistic(table), champion, margin, prompts, seeds, 200).passed
    assert not_above(0.05, passed, 300)


def as_statistic(table: np.ndarray) -> Statistic:
    return Statistic(each=table.ravel())


def test_what_both_sides_share_does_not_blur_the_difference() -> None:
    """Paired: prompts that differ by 1,000 leave a difference of 0.1 visible."""
    random = np.random.default_rng(4)
    shared = 1000 * np.repeat(random.normal(size=PROMPTS), SEEDS)
    better, champion = (shared + 0.01 * random.normal(size=64) + shift for shift in (0.1, 0.0))
    found = single(Statistic(each=better), Statistic(each=champion), margin=0.0)
    assert found.passed and found.lower_bound == pytest.approx(0.1, abs=0.02)


def test_lower_is_better_turns_the_sign() -> None:
    random = np.random.default_rng(5)
    low, high = (Statistic(each=random.normal(size=64) * 0.1 + mean) for mean in (0.0, 1.0))
    answers = [
        compare({"kid": one}, {"kid": other}, BETTER, {"kid": 0.2}, PROMPTS, SEEDS)[0]
        for one, other in ((low, high), (high, low))
    ]
    assert [found.passed for found in answers] == [True, False]
    assert answers[0].difference == pytest.approx(-answers[1].difference)
    assert answers[1].decidable
    assert "worse by the margin of 0.2 or more" in answers[1].explanation


def test_too_small_a_test_says_what_it_could_have_seen() -> None:
    challenger, champion = means(np.random.default_rng(2), 4, 2)
    challenger = {"mean": Statistic(each=challenger["mean"].each - challenger["mean"].each.mean())}
    champion = {"mean": Statistic(each=champion["mean"].each - champion["mean"].each.mean())}
    [found] = compare(challenger, champion, BETTER, {"mean": 0.05}, 4, 2)
    assert not found.passed and not found.decidable
    assert found.smallest_effect > 0.05
    assert "too small to decide" in found.explanation
    assert f"4 prompts x 2 seeds can see a difference of {found.smallest_effect:.2g}" in (
        found.explanation
    )
    assert "the margin is 0.05" in found.explanation
    assert found.explanation.endswith("use more prompts, or a wider margin")
    [wide] = compare(challenger, champion, BETTER, {"mean": 50.0}, 4, 2)
    assert wide.passed and wide.decidable


def test_a_resample_of_a_single_image_has_no_pairs_and_does_not_count() -> None:
    """One of 128 resamples of 4 prompts x 2 seeds."""
    sides = sets(np.random.default_rng(6), 4, 2)
    [found] = compare(*sides, BETTER, {"diversity": 50.0}, 4, 2)
    assert found.passed and math.isfinite(found.lower_bound)


def test_more_images_see_smaller_differences() -> None:
    effects = []
    for prompts, seeds in ((8, 2), (16, 4), (64, 8)):
        sides = means(np.random.default_rng(6), prompts, seeds)
        [found] = compare(*sides, BETTER, {"mean": 0.1}, prompts, seeds)
        effects.append(found.smallest_effect)
    assert effects == sorted(effects, reverse=True)


@pytest.mark.parametrize(("prompts", "seeds"), [(16, 4), (2, 1), (1, 1)])
def test_the_same_answers_pass_at_any_size(prompts: int, seeds: int) -> None:
    [champion, _] = means(np.random.default_rng(7), prompts, seeds)
    champion["none"] = Statistic(constant=math.nan)
    again = {
        name: Statistic(None if one.each is None else one.each.copy(), constant=one.constant)
        for name, one in champion.items()
    }
    sides = again, champion, BETTER, {"mean": 0.0}, prompts, seeds
    [found] = compare(*sides, same_answers=True)
    assert found.passed and (found.difference, found.lower_bound) == (0.0, 0.0)
    assert "the answers are the same" in found.explanation
    [found] = compare(*sides)
    assert not found.passed and not found.decidable


@pytest.mark.parametrize(("prompts", "seeds", "rate"), [(8, 4, 0.1), (16, 4, 0.1), (24, 2, 0.05)])
def test_faults_that_neither_side_drew_are_not_ruled_out(
    prompts: int, seeds: int, rate: float
) -> None:
    """The only metric is equal on both sides, in up to half of the draws."""
    random = np.random.default_rng(8)
    clean = {"kid": Statistic(each=np.zeros(prompts * seeds))}
    passed = 0
    for _ in range(200):
        faults = np.repeat(random.random(prompts) < rate, seeds).astype(float)
        sides = {"kid": Statistic(each=faults)}, clean
        [found] = compare(*sides, BETTER, {"kid": rate}, prompts, seeds, resamples=200)
        passed += found.passed
    assert not_above(0.05, passed, 200)


@pytest.mark.parametrize(
    ("prompts", "seeds", "share"),
    [(64, 1, 0.0457), (32, 2, 0.0894), (16, 4, 0.1707), (8, 8, 0.3123)],
)
def test_a_share_that_came_to_its_end_counts_prompts(
    prompts: int, seeds: int, share: float
) -> None:
    """0 of P prompts bounds a share at 1 - 0.05^(1/P), however many images each has."""
    every = Statistic(each=np.ones(prompts * seeds))
    found = single(every, every, 0.1, prompts, seeds)
    assert found.lower_bound == pytest.approx(-share, abs=1e-4)
    assert found.passed == (share < 0.1)
    assert ("too small to decide" in found.explanation) != found.passed


def test_one_prompt_that_came_out_worse_is_bounded_as_by_clopper_and_pearson() -> None:
    worse = np.ones((32, 2))
    worse[7] = 0.0
    found = single(as_statistic(worse), as_statistic(np.ones((32, 2))), 0.15, 32, 2)
    upper = stats.binomtest(1, 32).proportion_ci(0.90, "exact").high  # 95 % on one side
    assert found.lower_bound == pytest.approx(-upper) and found.passed


@pytest.mark.parametrize("prompts", [1, 3])
def test_too_few_clusters_decide_nothing(prompts: int) -> None:
    random = np.random.default_rng(8)
    one, other = (Statistic(each=random.normal(size=prompts * 4)) for _ in range(2))
    found = single(one, other, 100.0, prompts, 4)
    assert not found.passed and not found.decidable and found.lower_bound is None
    assert f"{prompts} prompts x 4 seeds are fewer than" in found.explanation


def test_no_spread_decides_nothing() -> None:
    each = np.random.default_rng(9).normal(size=64)
    found = single(Statistic(each=each + 1), Statistic(each=each))
    assert not found.passed and not found.decidable
    assert "shows no spread" in found.explanation


@pytest.mark.parametrize(
    "broken", [Statistic(constant=math.nan), Statistic(each=np.full(64, math.inf))]
)
def test_what_is_no_number_never_passes(broken: Statistic) -> None:
    sound = Statistic(each=np.random.default_rng(10).normal(size=64))
    for sides in ((broken, sound), (sound, broken), (broken, broken)):
        found = single(*sides, margin=100.0)
        assert not found.passed and not found.decidable
        json.dumps(asdict(found), allow_nan=False)


def test_a_metric_that_one_side_lacks_does_not_pass() -> None:
    [champion, challenger] = means(np.random.default_rng(11))
    for sides, lacking in ((({}, champion), "challenger"), ((challenger, {}), "champion")):
        [found] = compare(*sides, BETTER, {"mean": 100.0}, PROMPTS, SEEDS)
        assert not found.passed and f"the {lacking} has no value" in found.explanation


def test_silent_prompts_do_not_count() -> None:
    random = np.random.default_rng(12)
    sides = [random.normal(size=(16, 4)) for _ in range(2)]
    asked = [Statistic(each=side[:5].ravel()) for side in sides]
    for side in sides:
        side[5:] = math.nan
    found = single(*(Statistic(each=side.ravel()) for side in sides))
    assert found == single(*asked, prompts=5, seeds=4)
    assert "5 prompts x 4 seeds" in found.explanation


def test_a_metric_that_no_prompt_asks_for_has_nothing_to_compare() -> None:
    silent = Statistic(each=np.full(64, math.nan))
    found = single(silent, silent)
    assert found.passed and found.difference is None
    assert "asked for by no prompt" in found.explanation


def test_equal_input_gives_equal_output_and_plain_json() -> None:
    sides = sets(np.random.default_rng(13))
    margins = {"kid": 0.1, "diversity": 0.1}
    first, second = (compare(*sides, BETTER, margins, PROMPTS, SEEDS) for _ in range(2))
    assert first == second and [found.metric for found in first] == list(margins)
    for found in first:
        assert json.loads(json.dumps(asdict(found), allow_nan=False)) == asdict(found)


def test_statistics_of_another_number_of_images_are_a_mistake() -> None:
    sides = means(np.random.default_rng(14))
    with pytest.raises(ValueError, match="not 16 prompts x 2 seeds"):
        compare(*sides, BETTER, {"mean": 0.1}, 16, 2)
