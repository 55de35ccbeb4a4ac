"""What Dagster and MLflow show of this family's datasets, adapters and evaluations."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from adire_assets.core.data_files import decode_text
from adire_assets.core.files import read_json, read_json_lines
from adire_assets.core.shown import Item, Shown, table
from adire_assets.core.splits import SPLITS
from adire_assets.families.causal_lm.data.dataset_summary import summary_sentence
from adire_assets.families.causal_lm.identity import identity


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
    """Its examples, each the same as another with the same question and answer."""
    for split in SPLITS:
        for row in read_json_lines(dataset / f"{split}.jsonl"):
            file, _, number = row["source"].rpartition(":")
            yield Item(split, file, int(number), _identity(row["messages"]))


def identities(file: Path, name: str, config: Any) -> Iterator[tuple[int | None, str]]:
    """(line, identity) of the records in a file, as `items` tells them; without the faulty ones."""
    from adire_assets.families.causal_lm.data.records import Read, read_records

    read = Read()
    read_records(decode_text(file.read_bytes()), name, config, read)
    yield from ((one.line, identity(one.messages)) for one in read.examples)


def _identity(messages: Iterable[Mapping[str, str]]) -> str:
    return identity((one["role"], one["content"]) for one in messages)


def of_adapter(folder: Path) -> list[Shown]:
    """Its training, and the validation losses by step."""
    with (folder / "validation.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        Shown("validation_history", "markdown", table(("step", "validation_loss"), rows)),
        Shown("training", "value", read_json(folder / "training.json")),
    ]


def of_evaluation(folder: Path) -> list[Shown]:
    """The scores and some answers, beside the bare base's."""
    return [Shown("report", "markdown", folder / "report.md")]
