"""The answers of an evaluation as people are shown them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adire_assets.core.sample import Answer, Sample
from adire_assets.core.store import read_json

SCORES = ("rouge_l_char", "rouge_l_word", "chrf", "slot_f1")


def samples(evaluation: Path, dataset: Path | None) -> list[Sample]:
    """What the evaluation artifact in this folder got, in its order, beside the references."""
    report = evaluation / "report.json"
    entries = read_json(report)["per_answer"] if report.is_file() else []
    return [_sample(number, entry) for number, entry in enumerate(entries)]


def _sample(number: int, entry: Mapping[str, Any]) -> Sample:
    return Sample(
        f"{number:03d}-sample{entry['sample']}",
        entry["prompt"],
        entry["sample"],
        _answer(entry["text"], _scores(entry, "")),
        _answer(entry["base_text"], _scores(entry, "_base")),
        None if entry["reference"] is None else _answer(entry["reference"], {}),
    )


def _answer(text: str, scores: Mapping[str, float]) -> Answer:
    return Answer(lambda: text, scores)


def _scores(entry: Mapping[str, Any], suffix: str) -> dict[str, float]:
    values = {name: entry.get(name + suffix) for name in SCORES}
    return {name: one for name, one in values.items() if one is not None and math.isfinite(one)}
