"""The metrics on the judge's vectors, against numbers computed by hand or independently."""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import KernelInceptionDistance

from adire_assets.core.statistic import Statistic, standard_error
from adire_assets.families.diffusion import gates
from adire_assets.families.diffusion.evaluation.metric_inputs import MetricInputs, RealImageFeatures
from adire_assets.families.diffusion.evaluation.metrics import METRICS, clip_s, flat, kid
from tests.support.metric_inputs import DIMENSIONS, metric_inputs, take, units

PIXELS = ("sharpness", "exposure", "nsfw")
ON_VECTORS = tuple(name for name in METRICS if name not in PIXELS)
NOTHING = RealImageFeatures((), np.zeros((0, DIMENSIONS), np.float32))
Array = np.ndarray


def value(name: str, given: MetricInputs) -> float:
    return float(METRICS[name].measure(given).value(np.ones(len(given.images))))


def angles(*degrees: float) -> Array:
    """Unit vectors in the plane: cosines between them are cosines of differences."""
    turn = np.deg2rad(degrees)
    return np.stack([np.cos(turn), np.sin(turn)], 1).astype(np.float32)


def plane(images: Array, **changes: Any) -> MetricInputs:
    blank = np.zeros((8, 8, 3), np.uint8)
    held_out, train = (changes.pop(key, angles()) for key in ("held_out", "train"))
    return MetricInputs(
        images=(blank,) * len(images),
        embeddings=images,
        texts=changes.pop("texts", images),
        held_out=RealImageFeatures((blank,) * len(held_out), held_out),
        train=RealImageFeatures((blank,) * len(train), train),
        **changes,
    )


def kernel(a: Array, b: Array) -> float:
    return (float(a.astype(np.float64) @ b.astype(np.float64)) + 1.0) ** 3


def mmd(real: Array, fake: Array, pairs: list[tuple[int, int]]) -> float:
    """Equation 4 of Binkowski et al. 2018, sum by sum, with the pairs of `fake` that count."""
    m = len(real)
    within = sum(kernel(real[i], real[j]) for i in range(m) for j in range(m) if i != j)
    across = sum(kernel(a, b) for a in real for b in fake)
    among_fake = sum(kernel(fake[i], fake[j]) for i, j in pairs) / len(pairs)
    return within / (m * (m - 1)) + among_fake - 2 * across / (m * len(fake))


def test_every_metric_says_what_it_is() -> None:
    assert list(METRICS) == [
        "clip_s",
        "style_similarity",
        "kid",
        "attribute_accuracy",
        "diversity",
        "memorisation",
        "sharpness",
        "exposure",
        "nsfw",
    ]
    assert all(name == metric.name and metric.source for name, metric in METRICS.items())
    lower = {name for name, metric in METRICS.items() if metric.better == "lower"}
    assert lower == {"kid", "memorisation", "nsfw"}


def test_clip_s_is_two_and_a_half_times_the_positive_cosine() -> None:
    given = plane(angles(0, 0, 0, 180), texts=angles(0, 60, 90, 0))
    statistic = METRICS["clip_s"].measure(given)
    assert statistic.each == pytest.approx([2.5, 1.25, 0.0, 0.0], abs=1e-6)
    assert value("clip_s", given) == pytest.approx(3.75 / 4)
    with pytest.raises(ValueError, match="equal shapes"):
        clip_s.scores(np.ones((2, 4), np.float32), np.ones((1, 4), np.float32))


def test_style_similarity_is_one_for_what_is_as_near_as_the_real_images_are() -> None:
    given = plane(angles(30, 90), held_out=angles(0, 60))
    # Real ones: cos 60. Images: cos 30 twice; cos 90 and cos 30.
    expected = [math.cos(math.pi / 6) / 0.5, math.cos(math.pi / 6) / 2 / 0.5]
    assert METRICS["style_similarity"].measure(given).each == pytest.approx(expected, abs=1e-6)
    alike = angles(0, 60, -60)
    assert value("style_similarity", plane(angles(180), held_out=alike)) < 0
    # Opposite real images have no style in common.
    assert math.isnan(value("style_similarity", plane(angles(0), held_out=angles(0, 180))))


def test_kid_of_equally_large_sets_is_that_of_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    real, fake = units(rng, 9), units(rng, 9) * np.array([1, -1] * 8, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = KernelInceptionDistance(
            torch.nn.Identity(), subsets=1, subset_size=9, degree=3, gamma=1.0, coef=1.0
        )
    other.update(torch.from_numpy(real).double(), real=True)
    other.update(torch.from_numpy(fake).double(), real=False)
    assert kid.distance(real, fake) == pytest.approx(float(other.compute()[0]), rel=1e-9)


def test_kid_of_unequal_sets_is_the_unbiased_mmd_of_all_of_them() -> None:
    given = metric_inputs(images=5, held_out=12)
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    exact = mmd(given.held_out.embeddings, given.embeddings, pairs)
    assert value("kid", given) == pytest.approx(exact, rel=1e-9)


def test_kid_is_unbiased() -> None:
    rng = np.random.default_rng(1)
    same = [kid.distance(units(rng, 15), units(rng, 10)) for _ in range(400)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 20
    assert min(same) < 0 < max(same)


def test_attribute_accuracy_is_the_share_of_expected_values_that_are_nearest() -> None:
    texts = dict(zip(("ring", "leaf", "star"), angles(0, 90, 180), strict=True))
    sizes = dict(zip(("one", "many"), angles(45, 225), strict=True))
    given = plane(
        angles(10, 10, 10, 10),
        expected=(
            {"shape": "ring"},
            {"shape": "leaf"},
            {"shape": "star", "count": "one"},
            {},
        ),
        attributes={"shape": texts, "count": sizes, "cloth": {"cotton": angles(0)[0]}},
    )
    assert METRICS["attribute_accuracy"].measure(given).each == pytest.approx(
        [1, 0, 0.5, math.nan], nan_ok=True
    )
    assert value("attribute_accuracy", given) == 0.5
    between = dataclasses.replace(given, embeddings=angles(45, 45, 45, 45))
    assert list(METRICS["attribute_accuracy"].measure(between).each[:2]) == [0, 0]  # ties


def test_an_attribute_without_an_alternative_tells_nothing() -> None:
    given = plane(
        angles(0), expected=({"cloth": "cotton"},), attributes={"cloth": {"cotton": angles(0)[0]}}
    )
    assert math.isnan(value("attribute_accuracy", given))
    assert math.isnan(value("attribute_accuracy", plane(angles(0, 0))))
    with pytest.raises(ValueError, match="1 expectations for 2 images"):
        METRICS["attribute_accuracy"].measure(plane(angles(0, 0), expected=({},)))


def test_diversity_is_relative_to_the_training_images() -> None:
    given = plane(angles(0, 90, 180), train=angles(0, 60))
    assert value("diversity", given) == pytest.approx((1 + 1 + 2) / 3 / 0.5)
    assert value("diversity", plane(angles(30, 30), train=angles(0, 60))) == pytest.approx(
        0, abs=1e-6
    )
    assert math.isnan(value("diversity", plane(angles(0, 90), train=angles(0))))
    assert math.isnan(value("diversity", plane(angles(0, 90), train=angles(7, 7, 7))))


@pytest.mark.parametrize("name", METRICS)
def test_weights_count_an_image_as_often_as_it_is_drawn(name: str) -> None:
    """For what each image has; pairs follow below."""
    given = dataclasses.replace(
        metric_inputs(images=3), expected=({"shape": "ring"}, {"shape": "leaf"}, {"shape": "star"})
    )
    statistic = METRICS[name].measure(given)
    if statistic.pairs is None:
        drawn = take(given, [0, 0, 2])
        assert statistic.value(np.array([2, 0, 1])) == pytest.approx(value(name, drawn), rel=1e-9)


def test_an_image_that_is_drawn_twice_is_no_pair() -> None:
    given = metric_inputs(images=3)
    drawn = take(given, [0, 0, 2])
    pairs = [(0, 2), (2, 0), (1, 2), (2, 1)]
    weights = np.array([2, 0, 1])
    assert METRICS["kid"].measure(given).value(weights) == pytest.approx(
        mmd(given.held_out.embeddings, drawn.embeddings, pairs), rel=1e-9
    )
    # Two images are left, so every pair is the same one.
    alone = take(given, [0, 2])
    assert METRICS["diversity"].measure(given).value(weights) == pytest.approx(
        value("diversity", alone), rel=1e-9
    )


def spoilt(array: Array, number: float) -> Array:
    broken = array.copy()
    broken[1, 0] = number
    return broken


SPOILERS: dict[str, Callable[[MetricInputs, float], MetricInputs]] = {
    "images": lambda e, x: dataclasses.replace(e, embeddings=spoilt(e.embeddings, x)),
    "texts": lambda e, x: dataclasses.replace(e, texts=spoilt(e.texts, x)),
    "held_out": lambda e, x: dataclasses.replace(
        e, held_out=RealImageFeatures(e.held_out.images, spoilt(e.held_out.embeddings, x))
    ),
    "train": lambda e, x: dataclasses.replace(
        e, train=RealImageFeatures(e.train.images, spoilt(e.train.embeddings, x))
    ),
    "attributes": lambda e, x: dataclasses.replace(
        e, attributes={"shape": {**e.attributes["shape"], "ring": np.full(DIMENSIONS, x)}}
    ),
}
READS = {
    "clip_s": ("images", "texts"),
    "style_similarity": ("images", "held_out"),
    "kid": ("images", "held_out"),
    "attribute_accuracy": ("images", "attributes"),
    "diversity": ("images", "train"),
    "memorisation": ("images", "held_out", "train"),
}


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("name", ON_VECTORS)
def test_a_number_that_is_not_finite_spoils_the_value_for_all_weights(
    name: str, number: float
) -> None:
    given = metric_inputs()
    assert math.isfinite(value(name, given))
    for part in READS[name]:
        statistic = METRICS[name].measure(SPOILERS[part](given, number))
        weights = np.array([[1, 1, 1, 1, 1], [2, 0, 1, 1, 1]])
        assert np.isnan(statistic.value(weights)).all(), part


@pytest.mark.parametrize(
    ("name", "real"), [("kid", angles(180, 170)), ("diversity", angles(0, 60))]
)
def test_what_is_infinite_is_not_infinitely_good(name: str, real: Array) -> None:
    broken = np.array([[1, 0.5], [-math.inf, 0.5]], np.float32)
    assert math.isnan(value(name, plane(broken, held_out=real, train=real)))


@pytest.mark.parametrize("name", METRICS)
def test_no_images_give_no_value(name: str) -> None:
    assert math.isnan(value(name, take(metric_inputs(), [])))


@pytest.mark.parametrize("name", ON_VECTORS)
def test_one_image_has_no_pairs_and_missing_real_images_no_style(name: str) -> None:
    one = value(name, take(metric_inputs(), [0]))
    assert math.isnan(one) == (name in ("kid", "diversity"))
    for missing in (
        NOTHING,
        RealImageFeatures(metric_inputs().train.images[:1], units(np.random.default_rng(1), 1)),
    ):
        without = value(name, dataclasses.replace(metric_inputs(), held_out=missing))
        assert math.isnan(without) == (name in ("kid", "style_similarity"))


def test_standard_error_of_a_mean_is_the_one_of_the_textbooks() -> None:
    each = np.array([1.0, 2.0, 4.0, 7.0, math.nan])
    known = each[:4]
    error = standard_error(Statistic(each=each, constant=3.0))
    assert error == pytest.approx(known.std(ddof=1) / 2)
    # Two groups of two: the error of the mean of the groups' means.
    groups = np.array(["a", "a", "b", "b", "b"])
    assert standard_error(Statistic(each=each), groups) == pytest.approx((5.5 - 1.5) / 2)
    assert math.isnan(standard_error(Statistic(each=np.ones(1))))
    assert math.isnan(standard_error(Statistic(constant=math.nan)))


def test_standard_error_of_kid_is_how_far_it_scatters() -> None:
    rng = np.random.default_rng(5)
    real = units(rng, 20)
    found = [kid.between(real, units(rng, 30)) for _ in range(300)]
    scatter = np.std([statistic.value(np.ones(30)) for statistic in found], ddof=1)
    # The jackknife is too large rather than too small.
    assert 0.95 * scatter < np.mean([standard_error(one) for one in found]) < 1.3 * scatter


def test_flat_images_are_told_from_dark_ones() -> None:
    black = np.zeros((8, 8, 3), np.uint8)
    dark = black.copy()
    dark[2, 3, 1] = 3
    assert flat(black)
    assert not flat(dark)


def test_the_config_knows_every_metric() -> None:
    assert tuple(METRICS) == gates.METRICS
