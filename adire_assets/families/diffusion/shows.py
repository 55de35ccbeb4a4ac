"""What Dagster and MLflow show of this family's datasets, adapters and evaluations."""

import csv
import math
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from adire_assets.core.file_names import suffix_of
from adire_assets.core.files import read_json, read_json_lines
from adire_assets.core.lineage import file_digest
from adire_assets.core.shown import Item, Shown, inline, table
from adire_assets.core.splits import SPLITS
from adire_assets.families.diffusion.data.captions import SIDECARS
from adire_assets.families.diffusion.data.dataset_summary import summary_sentence

SHOWN_STEPS = 12


def of_dataset(folder: Path) -> list[Shown]:
    """Its images, their number in each split, and the files that are not in it."""
    summary = read_json(folder / "summary.json")
    counts = ("train", "validation", "held_out", "own_captions")
    return [
        Shown("summary", "text", summary_sentence(summary)),
        Shown("images", "picture", folder / "dataset_sheet.png"),
        *(Shown(name, "value", summary[name]) for name in counts),
        *(
            Shown(name, "markdown", table(("file", "reason"), summary[name]))
            for name in ("rejected", "unused")
        ),
    ]


def items(dataset: Path, files: Iterable[str]) -> Iterator[Item]:
    """Its images, each the same as another with the same file."""
    summary = read_json(dataset / "summary.json")
    others = {one["file"] for part in ("rejected", "unused") for one in summary[part]}
    names = {
        str(PurePosixPath(name).with_suffix("")): name
        for name in files
        if name not in others and suffix_of(name) not in SIDECARS
    }
    for split in SPLITS:
        for row in read_json_lines(dataset / f"{split}.jsonl"):
            stem = str(PurePosixPath(row["file_name"]).relative_to("images").with_suffix(""))
            yield Item(split, names.get(stem, stem), None, row["sha256"])


def identities(file: Path, name: str, config: Any) -> Iterator[tuple[int | None, str]]:
    """(no line, identity) of an image file, as `items` tells it."""
    yield None, file_digest(file)


def of_adapter(folder: Path) -> list[Shown]:
    """Its training: the last validation image, and the validation losses by step, each with an
    image of then where one was drawn."""
    with (folder / "validation.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows = rows[:: math.ceil(len(rows) / SHOWN_STEPS) or 1]
    for row in rows:
        picture = folder / f"validation/step-{int(row['step']):06}/00.png"
        row["picture"] = inline(picture) if picture.is_file() else ""
    last = folder / "validation" / "00.png"
    history = table(("step", "validation_loss", "picture"), rows)
    return [
        *([Shown("validation", "picture", last)] if last.is_file() else []),
        *([Shown("validation_history", "markdown", history)] if rows else []),
        Shown("training", "value", read_json(folder / "training.json")),
    ]


def of_evaluation(folder: Path) -> list[Shown]:
    """Images with the LoRA and without, side by side, and the report in words."""
    return [
        Shown("contact_sheet", "picture", folder / "contact_sheet.png"),
        Shown("report", "markdown", folder / "report.md"),
    ]
