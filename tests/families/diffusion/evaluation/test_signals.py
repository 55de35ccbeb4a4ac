"""What is measured of answers that users got, and how soon other prompts are noticed."""

import random
from pathlib import Path

import numpy as np
import pytest
import yaml

from adire_assets.core.evidence import RATE, threshold
from adire_assets.families.diffusion.evaluation.judge import Judge
from adire_assets.families.diffusion.evaluation.signals import Known
from adire_assets.monitoring.drift import Martingale

PROMPTS = Path(__file__).parents[4] / "configs" / "prompts" / "adire.yaml"
MOTIFS = ("alabere", "eleko", "oniko")
UNCHANGED, SHIFTED, SERIES = 200, 200, 10
SIGNALS = 12  # of an answer, among which the error is divided


@pytest.fixture(scope="module")
def signals(embedded_judge: Path) -> dict[str, np.ndarray]:
    """Motif family -> signals [n, 5] of the house's prompts for it, all of which are evaluated."""
    judge = Judge(embedded_judge)
    texts = [one["text"] for one in yaml.safe_load(PROMPTS.read_text())["prompts"]]
    known = Known("prompt", judge.embed_texts(texts))
    found = {}
    for motif in MOTIFS:
        asked = judge.embed_texts([text for text in texts if motif in text])
        found[motif] = np.stack([*known.places(asked).values()], axis=1)
    return found


@pytest.mark.parametrize("before", MOTIFS)
@pytest.mark.parametrize("after", MOTIFS)
def test_another_motif_family_is_noticed_within_200_prompts(
    signals: dict[str, np.ndarray], before: str, after: str
) -> None:
    chance, noticed, early = random.Random(f"{before} {after}"), 0, 0
    for _ in range(SERIES):
        martingales = [Martingale(chance.randrange(2**31)) for _ in range(signals[before].shape[1])]

        def changed(motif: str, martingales: list[Martingale] = martingales) -> bool:
            values = signals[motif][chance.randrange(len(signals[motif]))]
            evidence = [m.observe(float(v)) for m, v in zip(martingales, values, strict=True)]
            return max(evidence) >= threshold(RATE / SIGNALS)

        if any(changed(before) for _ in range(UNCHANGED)):
            early += 1
        else:
            noticed += any(changed(after) for _ in range(SHIFTED))
    assert early <= 1
    if before == after:
        assert noticed <= 1
    else:
        assert noticed >= 9 - early


def test_an_evaluated_vector_is_no_distance_away_and_a_strange_one_is() -> None:
    chance = np.random.default_rng(3)
    known = chance.normal(size=(12, 16)).astype(np.float32)
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    strange = -known[:1]
    found = Known("image", known).places(np.concatenate([known[:1], strange]))
    assert found["image_distance"][0] == pytest.approx(0, abs=1e-6)
    assert found["image_distance"][1] > 0.3
    assert set(found) == {"image_distance", "image_1", "image_2", "image_3", "image_4"}


def test_a_mirrored_set_of_components_is_the_same() -> None:
    """The signs that a library gives to components do not matter, nor do those of no size."""
    chance = np.random.default_rng(5)
    vectors = chance.normal(size=(5, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = Known("prompt", vectors).components
    shuffled = Known("prompt", vectors[[3, 1, 4, 0, 2]]).components
    assert np.allclose(found, shuffled, atol=1e-4)
    assert len(Known("prompt", vectors[:3]).components) == 2
