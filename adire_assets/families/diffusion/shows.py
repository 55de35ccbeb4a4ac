"""What Dagster and MLflow show of this family's datasets, adapters and evaluations."""

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from adire_assets.core.file_names import same_form, suffix_of
from adire_assets.core.files import read_json, read_json_lines
from adire_assets.core.lineage import file_digest
from adire_assets.core.shown import Item, Shown, inline, table
from adire_assets.core.splits import SPLITS
from adire_assets.families.diffusion.data.captions import SIDECARS
from adire_assets.families.diffusion.data.dataset_summary import SAME_IMAGE, summary_sentence

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
    """Its images, identified by the SHA-256 of their files; an image that was rejected as the same
    as one of them has that one's identity."""
    summary = read_json(dataset / "summary.json")
    rejected = summary.get("rejected", [])
    others = {one["file"] for one in (*rejected, *summary.get("unused", []))}
    names = {
        _stem(name): name
        for name in map(same_form, files)
        if name not in others and suffix_of(name) not in SIDECARS
    }
    found = {}
    for split in SPLITS:
        for row in read_json_lines(dataset / f"{split}.jsonl"):
            stem = _stem(str(PurePosixPath(row["file_name"]).relative_to("images")))
            found[stem] = Item(split, names.get(stem, stem), None, row["sha256"])
    yield from found.values()
    for one in rejected:
        _, same, original = one["reason"].partition(SAME_IMAGE)
        if same and (item := found.get(_stem(original))):
            yield replace(item, file=one["file"])


def file_items(file: Path, name: str, config: Any, datasets: Iterable[Path]) -> Iterator[Item]:
    """The image of a file, once with the identity that the file has and once with each that it has
    in `datasets` in other bytes."""
    from adire_assets.families.diffusion.data import same_image

    identities = same_image.identities(file, config.maximum_pixels, datasets)
    for identity in dict.fromkeys([file_digest(file), *identities]):
        yield Item("", name, None, identity)


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


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


def of_validation(folder: Path) -> list[Shown]:
    """The images of a validation while it trains."""
    files = sorted(folder.glob("*.png"))
    return [Shown(f"Image {n}", "picture", file) for n, file in enumerate(files, 1)]


def of_evaluation(folder: Path) -> list[Shown]:
    """Images with the LoRA and without, side by side, and the report in words."""
    return [
        Shown("contact_sheet", "picture", folder / "contact_sheet.png"),
        Shown("report", "markdown", folder / "report.md"),
    ]
