"""What Dagster and MLflow show of this family's datasets, adapters and evaluations."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from adire_assets.core.data_files import decode_text
from adire_assets.core.errors import UserError
from adire_assets.core.files import read_json, read_json_lines
from adire_assets.core.shown import Item, Shown, table
from adire_assets.core.splits import SPLITS
from adire_assets.families.causal_lm.data.dataset_summary import summary_sentence
from adire_assets.families.causal_lm.identity import identity

SHOWN_TEXT = 60  # characters of a record


def of_dataset(folder: Path) -> list[Shown]:
    """How many examples are in each split and language, and what is not in it."""
    summary = read_json(folder / "summary.json")
    values = ("train", "validation", "held_out", "languages", "license")
    return [
        Shown("summary", "text", summary_sentence(summary)),
        *(Shown(name, "value", summary[name]) for name in values),
        *(
            Shown(name, "markdown", table(columns, summary[name]))
            for name, columns in (
                ("rejected", ("file", "line", "reason")),
                ("personal_data", ("file", "line", "kind", "found")),
            )
        ),
    ]


def items(dataset: Path, files: Iterable[str]) -> Iterator[Item]:
    """Its examples; those with the same question and answer have the same identity."""
    for split in SPLITS:
        for row in read_json_lines(dataset / f"{split}.jsonl"):
            file, _, number = row["source"].rpartition(":")
            messages = [(one["role"], one["content"]) for one in row["messages"]]
            yield _item(split, file, int(number), messages)


def file_items(file: Path, name: str, config: Any, datasets: Iterable[Path]) -> Iterator[Item]:
    """The records in a file, without the faulty ones. In `datasets`, their identities are equal."""
    from adire_assets.families.causal_lm.data.records import Read, read_records

    try:
        text = decode_text(file.read_bytes())
    except ValueError as clause:
        raise UserError(f"{file} has no records: {clause}") from None
    read = Read()
    read_records(text, name, config, read)
    yield from (_item("", one.file, one.line, one.messages) for one in read.examples)


def _item(split: str, file: str, line: int, messages: Iterable[tuple[str, str]]) -> Item:
    said = [(role, content) for role, content in messages if role != "system"]
    text = " ".join("".join(sign if sign.isprintable() else " " for sign in said[0][1]).split())
    begins = text if len(text) <= SHOWN_TEXT else f"{text[:SHOWN_TEXT]}..."
    return Item(split, file, line, identity(said), begins)


def of_adapter(folder: Path) -> list[Shown]:
    """Its training, and the validation losses by step."""
    with (folder / "validation.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        Shown("validation_history", "markdown", table(("step", "validation_loss"), rows)),
        Shown("training", "value", read_json(folder / "training.json")),
    ]


def of_validation(folder: Path) -> list[Shown]:
    """The answers that were written at a validation, each by its question."""
    found = read_json(folder / "answers.json")
    return [Shown(one["question"], "text", one["answer"]) for one in found]


def of_evaluation(folder: Path) -> list[Shown]:
    """The scores and some answers, beside the bare base's."""
    return [Shown("report", "markdown", folder / "report.md")]
