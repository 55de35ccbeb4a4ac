"""The card of a release says what it was made from and what was measured."""

from typing import Any

from adire_assets.core.shown import Shown
from adire_assets.line.card import LONGEST, model_card

PROVENANCE: dict[str, Any] = {
    "model": "letters",
    "base_model": {"source": "Qwen/Qwen3-4B", "revision": "c" * 40},
    "code": {"commit": "d" * 40},
    "dvc_hash": "e.dir",
    "trained": "2026-11-29T08:00:00+00:00",
}
REPORT = {"scores": {"loss": 0.5, "toxicity": None}, "base_scores": {"loss": 2.5}}
DATASET = [
    Shown("license", "value", "CC0-1.0"),
    Shown("held_out", "value", 96),
    Shown("languages", "value", {"yo": {"examples": 160}}),
    Shown("rejected", "markdown", "none"),
    Shown("unused", "value", []),
]


def test_it_names_base_data_licence_scores_and_verdict() -> None:
    card = model_card(3, PROVENANCE, DATASET, REPORT, "passed all 4 gates: loss 0.5")
    assert card.startswith("# letters, release 3\n")
    for line in (
        f"- base: Qwen/Qwen3-4B at {'c' * 40}",
        "- license: CC0-1.0",
        "- held out: 96",
        '- languages: {"yo": {"examples": 160}}',
        "It passed all 4 gates: loss 0.5.",
        "| loss | 0.5 | 2.5 |",
    ):
        assert line in card.splitlines()
    assert "toxicity" not in card and "rejected" not in card and "unused" not in card


def test_it_is_no_longer_than_mlflow_takes() -> None:
    long = Shown("languages", "value", "x" * LONGEST)
    card = model_card(3, PROVENANCE, [long], REPORT, "")
    assert len(card) == LONGEST and card.endswith(" ...")
