"""An evaluation for people's eyes: report.md and the contact sheet.

Contract: both show what was measured and pronounce no verdict, because thresholds may change while
the evaluation stays. Equal input gives equal bytes.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLUMNS = ("before (base)", "after (LoRA)", "held-out real")
MAXIMUM_ROWS = 12
MAXIMUM_BYTES = 1_000_000  # shown inline by Dagster and MLflow
TILES = (192, 160, 128, 96, 64)  # pixels; the largest whose sheet fits the bytes is taken
LABEL, GAP, HEADER = 250, 10, 40  # pixels
BACKGROUND, INK, FAINT, EMPTY = "#ffffff", "#1b1f3b", "#6b6f85", "#e4e5ea"


@dataclass(frozen=True)
class Row:
    """A prompt and its pictures, uint8 [H, W, 3] each; None where there is no picture."""

    prompt: str
    note: str
    before: np.ndarray | None
    after: np.ndarray | None
    real: np.ndarray | None


def markdown(report: Mapping[str, Any]) -> str:
    """report.md from the content of report.json."""
    lines = ["# Evaluation", ""]
    if problems := report["adapter_problems"]:
        lines += ["**The adapter is not sound:**", "", *(f"- {item}" for item in problems), ""]
    lines += [
        f"{report['images']} images: {report['prompts']} prompts, each with seeds of its own, with "
        "and without the LoRA, against "
        f"{report['held_out_images']} real images that training never saw. Judge: "
        f"`{report['judge']}`.",
    ]
    if report["prompts_left_out"]:
        lines += [f"{report['prompts_left_out']} further held-out captions were not drawn."]
    lines += [
        "",
        "| | with the LoRA | without | held-out real images |",
        "|---|---|---|---|",
        *(_line(name, report) for name in report["metrics"]),
        f"| nsfw, of the least safe image | {number(report['nsfw_probability_maximum'])} | | |",
        "",
        *(f"- `{name}`: {metric['unit']}" for name, metric in report["metrics"].items()),
        "",
        "Each judge has its own scale: a CLIP-S threshold belongs between the bare base and the "
        "held-out real images, and holds for this judge only. Latency and memory stand in "
        "timings.json.",
        "",
        "![contact sheet](contact_sheet.png)",
    ]
    if ranked := sorted(report["per_image"], key=lambda entry: entry["clip_s"] or 0.0):
        for title, entries in (("Worst", ranked[:3]), ("Best", ranked[:-4:-1])):
            lines += ["", f"## {title} images by CLIP-S", ""]
            lines += ["| CLIP-S | without the LoRA | seed | prompt |", "|---|---|---|---|"]
            lines += [
                f"| {number(entry['clip_s'])} | {number(entry['clip_s_base'])} | "
                f"{entry['seed']} | {_cell(entry['prompt'])} |"
                for entry in entries
            ]
    return "\n".join(lines) + "\n"


def save_contact_sheet(path: Path, rows: Sequence[Row]) -> None:
    """A PNG of at most 12 rows, evenly spread over `rows`, and of at most 1 MB."""
    if len(rows) > MAXIMUM_ROWS:
        spread = np.linspace(0, len(rows) - 1, MAXIMUM_ROWS).round().astype(int)
        rows = [rows[place] for place in spread]
    for tile in TILES:
        buffer = BytesIO()
        _sheet(rows, tile).save(buffer, "PNG", compress_level=3)  # 6: 5 % smaller, twice the time
        if buffer.tell() <= MAXIMUM_BYTES:
            break
    path.write_bytes(buffer.getvalue())


def _sheet(rows: Sequence[Row], tile: int) -> Image.Image:
    width = LABEL + len(COLUMNS) * (tile + GAP) + GAP
    sheet = Image.new("RGB", (width, HEADER + len(rows) * (tile + GAP)), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    title, body = ImageFont.load_default(size=16), ImageFont.load_default(size=14)
    for place, name in enumerate(COLUMNS):
        pen.text((LABEL + place * (tile + GAP), 12), name, INK, title)
    for number, row in enumerate(rows):
        top = HEADER + number * (tile + GAP)
        limit = max(1, tile // 20 - 2)
        lines = textwrap.wrap(row.prompt, 32, max_lines=limit, placeholder=" ...")
        pen.multiline_text((GAP, top), "\n".join(lines), INK, body, spacing=4)
        pen.text((GAP, top + tile - 20), row.note, FAINT, body)
        for place, picture in enumerate((row.before, row.after, row.real)):
            corner = (LABEL + place * (tile + GAP), top)
            if picture is None:
                pen.rectangle((*corner, corner[0] + tile - 1, corner[1] + tile - 1), EMPTY)
                pen.text((corner[0] + 8, top + 8), "no image", FAINT, body)
            else:
                sheet.paste(_tile(picture, tile), corner)
    return sheet


def _tile(picture: np.ndarray, size: int) -> Image.Image:
    """The centre square of a picture at `size` pixels; small pictures keep their hard pixels."""
    image = Image.fromarray(picture)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    resample = Image.Resampling.NEAREST if side < size else Image.Resampling.LANCZOS
    return image.resize((size, size), resample)


def _line(name: str, report: Mapping[str, Any]) -> str:
    real = number(report["clip_s_held_out_mean"]) if name == "clip_s" else ""
    values = f"{number(report['scores'][name])} | {number(report['base_scores'][name])}"
    return f"| {name}, {report['metrics'][name]['better']} is better | {values} | {real} |"


def number(value: float | None) -> str:
    """Three digits behind the point, or "none"."""
    return "none" if value is None else f"{value:.3f}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
