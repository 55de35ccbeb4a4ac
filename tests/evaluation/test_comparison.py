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

from adire_assets.evaluation.comparison import Comparison, compare
from adire_assets.evaluation.statistic import Statistic

PROMPTS, SEEDS = 16, 4
BETTER = {"mean": "higher", "kid": "lower", "diversity": "higher"}
Sides = tuple[dict[str, Statistic], dict[str, Statistic]]


def means(random: np.random.Generator, prompts: int = PROMPTS, seeds: int = SEEDS) -> Sides:
    """A mean with what both sides share and, on each, variance by prompt, by seed and by image."""
    shared = 5 * random.normal(size=(prompts, 1)) + random.normal(size=(1, seeds))

    def side() -> dict[str, Statistic]:
        each = shared + 0.5 * random.normal(size=(prompts, 1)) + 0.3 * random.normal(size=seeds)
        return {"mean": Statistic(each=(each + random.normal(size=(prompts, seeds))).ravel())}

    return side(), side()


def sets(random: np.random.Generator, prompts: int = PROMPTS, seeds: int = SEEDS) -> Sides:
    """KID and diversity of unit vectors that are alike within a prompt and within a seed."""
    shared = random.normal(size=(prompts, 1, 16)) + np.eye(16)[0] * 2
    real = unit(random.normal(size=(24, 16)) * 1.2 + np.eye(16)[0] * 2)

    def side() -> dict[str, Statistic]:
        by_prompt = 0.5 * random.normal(size=(prompts, 1, 16))
        by_seed = 0.3 * random.normal(size=(1, seeds, 16))
        drawn = shared + by_prompt + by_seed + random.normal(size=(prompts, seeds, 16))
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


@pytest.fixture(scope="module")
def equals() -> dict[str, list[Comparison]]:
    """A thousand comparisons of equally good sides for each metric, with margin 0."""
    return simulated(means, 1000) | simulated(sets, 1000)


def single(
    challenger: Statistic, champion: Statistic, margin: float = 0.1, prompts=PROMPTS, seeds=SEEDS
) -> Comparison:
    """Beside a metric in which the images differ."""
    noise = np.random.default_rng(1).normal(size=prompts * seeds)
    sides = (
        {"mean": statistic, "other": Statistic(each=noise + place)}
        for place, statistic in enumerate((challenger, champion))
    )
    [found] = compare(*sides, BETTER, {"mean": margin}, prompts, seeds)
    return found


@pytest.mark.parametrize("metric", BETTER)
def test_no_difference_looks_better_in_at_most_one_of_twenty(equals, metric: str) -> None:
    passed = [found.passed for found in equals[metric]]
    assert passed == [found.lower_bound > 0 for found in equals[metric]]
    assert np.mean(passed) <= 0.05


@pytest.mark.parametrize("metric", BETTER)
def test_the_smallest_effect_is_found_four_times_in_five(equals, metric: str) -> None:
    effect = np.mean([found.smallest_effect for found in equals[metric]])
    power = np.mean([found.lower_bound + effect > 0 for found in equals[metric]])
    assert 0.75 <= power <= 0.88


def test_a_mean_gives_the_two_way_analysis_of_variance() -> None:
    challenger, champion = means(np.random.default_rng(3))
    [found] = compare(challenger, champion, BETTER, {"mean": 1.0}, PROMPTS, SEEDS, resamples=50_000)
    table = (challenger["mean"].each - champion["mean"].each).reshape(PROMPTS, SEEDS)
    by_prompt, by_seed = table.mean(1), table.mean(0)
    rest = table - by_prompt[:, None] - by_seed + table.mean()
    variances = [by_prompt.var(ddof=1) / PROMPTS, by_seed.var(ddof=1) / SEEDS]
    rest_variance = (rest**2).sum() / ((PROMPTS - 1) * (SEEDS - 1)) / table.size
    both = max(*variances, sum(variances) - rest_variance)
    freedom = both**2 / (variances[0] ** 2 / (PROMPTS - 1) + variances[1] ** 2 / (SEEDS - 1))
    below = max(
        stats.t.ppf(0.95, df) * math.sqrt(variance)
        for df, variance in (
            (PROMPTS - 1, variances[0]),
            (SEEDS - 1, variances[1]),
            (freedom, both),
        )
    )
    assert found.difference == pytest.approx(table.mean())
    assert found.lower_bound == pytest.approx(table.mean() - below, rel=0.03)


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
    assert found.explanation.endswith("use more prompts or seeds, or a wider margin")
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
def test_the_same_images_pass_at_any_size(prompts: int, seeds: int) -> None:
    [champion, _] = means(np.random.default_rng(7), prompts, seeds)
    champion["none"] = Statistic(constant=math.nan)
    again = {
        name: Statistic(None if one.each is None else one.each.copy(), constant=one.constant)
        for name, one in champion.items()
    }
    [found] = compare(again, champion, BETTER, {"mean": 0.0}, prompts, seeds)
    assert found.passed and (found.difference, found.lower_bound) == (0.0, 0.0)
    assert "the images are the same" in found.explanation


def test_a_share_that_came_to_its_end_counts_images() -> None:
    """0 of 64 bounds a share at 1 - 0.05^(1/64) = 0.0457, 0 of 8 at 0.312."""
    every = [Statistic(each=np.ones(count)) for count in (64, 8)]
    enough = single(every[0], every[0])
    assert enough.passed and enough.lower_bound == pytest.approx(-0.0457, abs=1e-4)
    few = single(every[1], every[1], prompts=4, seeds=2)
    assert not few.passed and few.lower_bound == pytest.approx(-0.312, abs=1e-3)
    assert "too small to decide" in few.explanation


@pytest.mark.parametrize(("prompts", "seeds"), [(3, 4), (16, 1)])
def test_too_few_clusters_decide_nothing(prompts: int, seeds: int) -> None:
    random = np.random.default_rng(8)
    one, other = (Statistic(each=random.normal(size=prompts * seeds)) for _ in range(2))
    found = single(one, other, 100.0, prompts, seeds)
    assert not found.passed and not found.decidable and found.lower_bound is None
    assert f"{prompts} prompts x {seeds} seeds are fewer than" in found.explanation


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
