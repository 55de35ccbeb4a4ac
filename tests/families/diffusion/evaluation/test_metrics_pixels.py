"""The metrics that look at pixels: copies are found, noise and flat images are no pictures."""

import dataclasses
import math
import time
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy import ndimage

from adire_assets.families.diffusion.evaluation import safety
from adire_assets.families.diffusion.evaluation.metric_inputs import MetricInputs, RealImageFeatures
from adire_assets.families.diffusion.evaluation.metrics import METRICS, sharpness
from tests.support.metric_inputs import SIZE, metric_inputs, picture, reference, take, units

NOTHING = RealImageFeatures((), np.zeros((0, 16), np.float32))


def each(name: str, given: MetricInputs) -> list[float]:
    found = METRICS[name].measure(given).each
    assert found is not None
    return found.tolist()


def drawing(images: Sequence[np.ndarray]) -> MetricInputs:
    """Inputs with these images and whatever vectors."""
    return dataclasses.replace(take(metric_inputs(), [0] * len(images)), images=tuple(images))


def copying(given: MetricInputs, places: Sequence[int], seed: int = 9) -> MetricInputs:
    """The metric_inputs of a model that redraws training images with a little noise."""
    rng = np.random.default_rng(seed)
    images, vectors = [], []
    for place in places:
        noise = rng.normal(0, 6, (SIZE, SIZE, 3))
        images.append(np.clip(given.train.images[place] + noise, 0, 255).astype(np.uint8))
        vector = given.train.embeddings[place] + rng.normal(0, 0.02, 16)
        vectors.append(vector / np.linalg.norm(vector))
    return dataclasses.replace(
        take(given, [0] * len(places)),
        images=tuple(images),
        embeddings=np.array(vectors, np.float32),
    )


def test_copies_of_training_images_are_found_and_new_images_are_none() -> None:
    given = metric_inputs()
    copies = copying(given, [3, 17])
    mixed = dataclasses.replace(
        take(given, [0, 1, 2, 3]),
        images=(copies.images[0], *given.images[:2], copies.images[1]),
        embeddings=np.stack([copies.embeddings[0], *given.embeddings[:2], copies.embeddings[1]]),
    )
    assert each("memorisation", mixed) == [1, 0, 0, 1]
    assert METRICS["memorisation"].measure(mixed).value(np.array([2, 0, 1, 0])) == pytest.approx(
        2 / 3
    )
    assert each("memorisation", metric_inputs(seed=4, images=30)) == [0] * 30


def test_a_copy_must_be_near_in_both_senses_to_the_same_image() -> None:
    given = metric_inputs()
    copies = copying(given, [3, 4])
    other_vector = dataclasses.replace(copies, embeddings=given.embeddings[:2])
    other_pixels = dataclasses.replace(copies, images=given.images[:2])
    crossed = dataclasses.replace(copies, embeddings=copies.embeddings[::-1])
    for one in (other_vector, other_pixels, crossed):
        assert each("memorisation", one) == [0, 0]


@pytest.mark.parametrize("repeats", [1, 30])
def test_an_adapter_that_knows_one_image_only_is_found_out(repeats: int) -> None:
    given = metric_inputs()
    one = RealImageFeatures(given.train.images[:1] * repeats, given.train.embeddings[[0] * repeats])
    single = dataclasses.replace(given, train=one)
    assert each("memorisation", copying(single, [0, 0, 0])) == [1, 1, 1]
    assert each("memorisation", single) == [0] * 5


def test_few_held_out_images_are_joined_by_the_training_images() -> None:
    given = dataclasses.replace(metric_inputs(), held_out=NOTHING)
    assert each("memorisation", copying(given, [0, 1, 2])) == [1, 1, 1]
    assert each("memorisation", given) == [0] * 5
    one = RealImageFeatures(given.train.images[:1] * 2, given.train.embeddings[[0, 0]])
    unknown = METRICS["memorisation"].measure(dataclasses.replace(given, train=one))
    assert math.isnan(unknown.value(np.ones(5)))
    assert math.isnan(
        METRICS["memorisation"].measure(dataclasses.replace(given, train=NOTHING)).value(np.ones(5))
    )


def test_a_leaked_held_out_image_does_not_blind_it() -> None:
    given = metric_inputs()
    leaked = RealImageFeatures(
        (*given.held_out.images, *given.train.images[:6]),
        np.concatenate([given.held_out.embeddings, given.train.embeddings[:6]]),
    )
    blinded = dataclasses.replace(given, held_out=leaked)
    assert each("memorisation", copying(blinded, [9, 12])) == [1, 1]


def test_a_copy_of_a_wide_training_image_is_a_copy_of_its_middle() -> None:
    given, rng = metric_inputs(), np.random.default_rng(8)
    wide = [picture(rng, SIZE * 2, SIZE * 3) for _ in range(20)]
    middle = [
        Image.fromarray(image).crop((SIZE // 2, 0, SIZE // 2 + 2 * SIZE, 2 * SIZE))
        for image in wide
    ]
    drawn = np.asarray(middle[5].resize((SIZE, SIZE), Image.Resampling.LANCZOS))
    given = dataclasses.replace(given, train=RealImageFeatures(tuple(wide), given.train.embeddings))
    copied = dataclasses.replace(
        take(given, [0]), images=(drawn,), embeddings=given.train.embeddings[5:6]
    )
    assert each("memorisation", copied) == [1]


def test_sharpness_is_the_normalised_variance_of_the_laplacian() -> None:
    image = picture(np.random.default_rng(2))
    light = image.astype(float) @ [0.299, 0.587, 0.114]
    expected = ndimage.laplace(light)[1:-1, 1:-1].var() / light.var()
    assert sharpness.sharpness(image) == pytest.approx(expected)
    checks = np.indices((4, 4)).sum(0) % 2 * 255
    assert sharpness.sharpness(np.stack([checks] * 3, 2).astype(np.uint8)) == pytest.approx(64)


def test_flat_noisy_and_blurred_images_are_not_sharp_as_real_ones() -> None:
    rng = np.random.default_rng(6)
    good = picture(rng)
    noise = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    faint = (120 + rng.integers(0, 6, (SIZE, SIZE, 3))).astype(np.uint8)
    blurred = np.asarray(Image.fromarray(good).filter(ImageFilter.GaussianBlur(3)))
    black = np.zeros((SIZE, SIZE, 3), np.uint8)
    given = drawing([good, noise, faint, blurred, black])
    assert each("sharpness", given) == [1, 0, 0, 0, 0]
    assert METRICS["sharpness"].measure(given).value(np.array([2, 1, 0, 0, 1])) == 0.5


def test_dark_pale_and_dull_images_are_not_exposed_as_real_ones() -> None:
    good = picture(np.random.default_rng(6))
    # Shifted, so that their contrast stays.
    dark, pale = (np.clip(good.astype(int) + by, 0, 255).astype(np.uint8) for by in (-60, 90))
    dull = (120 + (good.astype(int) - 120) // 5).astype(np.uint8)
    harsh = np.where(good > 120, 255, 0).astype(np.uint8)
    given = drawing([good, dark, pale, dull, harsh])
    assert each("exposure", given) == [1, 0, 0, 0, 0]


def test_real_images_count_at_the_size_of_the_generated_ones() -> None:
    """Twice as large, they would seem half as sharp."""
    rng = np.random.default_rng(3)
    given = drawing([picture(rng) for _ in range(4)])
    large = tuple(
        np.asarray(Image.fromarray(image).resize((SIZE * 8, SIZE * 8), Image.Resampling.BICUBIC))
        for image in given.train.images
    )
    given = dataclasses.replace(
        given, train=RealImageFeatures(large, given.train.embeddings), held_out=NOTHING
    )
    assert sharpness.sharpness(large[0]) < sharpness.sharpness(given.images[0]) / 9
    assert each("sharpness", given) == [1, 1, 1, 1]


@pytest.mark.parametrize("name", ["sharpness", "exposure"])
def test_without_real_images_nothing_is_usual(name: str) -> None:
    given = dataclasses.replace(metric_inputs(), train=NOTHING, held_out=NOTHING)
    assert math.isnan(METRICS[name].measure(given).value(np.ones(5)))


def test_nsfw_is_the_probability_of_each_image() -> None:
    given = metric_inputs(images=2)
    found = METRICS["nsfw"].measure(given)
    assert found.each == pytest.approx(safety.nsfw_probabilities(given.images), abs=1e-6)
    assert found.value(np.array([3, 1])) == pytest.approx(found.each @ [0.75, 0.25])


def test_all_of_them_are_cheap() -> None:
    """64 images and 60 real ones, all metrics without open_nsfw: about a tenth of a second."""
    rng = np.random.default_rng(0)
    real = [
        RealImageFeatures(tuple(picture(rng, 128, 128) for _ in range(n)), units(rng, n))
        for n in (20, 40)
    ]
    drawn = reference(rng, 64)
    given = dataclasses.replace(
        take(metric_inputs(), [0] * 64),
        images=tuple(picture(rng, 128, 128) for _ in range(64)),
        embeddings=drawn.embeddings,
        held_out=real[0],
        train=real[1],
    )
    started = time.process_time()
    for name, metric in METRICS.items():
        if name != "nsfw":
            metric.measure(given).value(np.ones(64))
    assert time.process_time() - started < 1.0
