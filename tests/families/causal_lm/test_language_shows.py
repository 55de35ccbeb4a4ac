"""What Dagster and the command line show of a dataset of texts."""

from pathlib import Path
from typing import Any

from adire_assets.core.store import write_json
from adire_assets.families.causal_lm.shows import of_dataset

SUMMARY: dict[str, Any] = {
    "examples": 5,
    "train": 3,
    "validation": 1,
    "held_out": 1,
    "languages": {"en": {"examples": 4}, "zh": {"examples": 1}},
    "license": "CC0-1.0",
    "slots": 12,
    "rejected": [{"file": "a.jsonl", "line": n, "reason": "the same"} for n in range(1, 6)],
    "personal_data": [{"file": "a.jsonl", "line": 2, "kind": "email", "found": "ada***"}],
    "unused": ["notes.txt"],
}


def shown(folder: Path, **changes: Any) -> dict[str, Any]:
    write_json(folder / "summary.json", {**SUMMARY, **changes})
    return {one.name: one.content for one in of_dataset(folder)}


def test_the_summary_is_one_line_with_what_was_left_out(tmp_path: Path) -> None:
    assert shown(tmp_path)["summary"] == (
        "5 examples (4 en, 1 zh) with 12 slots; 5 duplicates left out: a.jsonl:1, a.jsonl:2, "
        "a.jsonl:3 and 2 more (summary.json); 1 file not used: notes.txt; personal data that is "
        "allowed: 1 (email)"
    )
    few: dict[str, Any] = {"rejected": [], "personal_data": [], "unused": [], "slots": 0}
    assert shown(tmp_path, **few)["summary"] == (
        "5 examples (4 en, 1 zh) with 0 slots, so that nothing measures whether an answer invents "
        "facts"
    )


def test_duplicates_and_personal_data_are_tables(tmp_path: Path) -> None:
    found = shown(tmp_path)
    assert found["license"] == "CC0-1.0" and found["train"] == 3
    assert "| a.jsonl | 5 | the same |" in found["rejected"]
    assert "| a.jsonl | 2 | email | ada*** |" in found["personal_data"]
