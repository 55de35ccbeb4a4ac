"""A small picture of a dataset: rows of thumbnails under a heading per side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

COLUMNS = 8
ROWS = 3  # at most, per heading
CELL = 96  # pixels
GAP = 4
HEADING = 20
PAPER, INK = (255, 255, 255), (40, 40, 40)


def contact_sheet(groups: Mapping[str, Sequence[Path]], target: Path) -> None:
    """Write a PNG with up to 24 images of each group, evenly spread over the group.

    `groups` maps a heading to image files; thumbnails are cut square around the centre. Equal
    images give equal bytes.
    """
    shown = {f"{name} ({len(files)})": _spread(files) for name, files in groups.items()}
    rows = {heading: -(-len(files) // COLUMNS) for heading, files in shown.items()}
    step = CELL + GAP
    size = (COLUMNS * step + GAP, sum(HEADING + count * step + GAP for count in rows.values()))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    top = 0
    for heading, files in shown.items():
        draw.text((GAP, top + GAP), heading, fill=INK)
        top += HEADING
        for number, file in enumerate(files):
            row, column = divmod(number, COLUMNS)
            with Image.open(file) as image:
                cell = ImageOps.fit(image, (CELL, CELL), Image.Resampling.LANCZOS)
            sheet.paste(cell, (GAP + column * step, top + row * step))
        top += rows[heading] * step + GAP
    sheet.save(target, "PNG", compress_level=6)


def _spread(files: Sequence[Path]) -> list[Path]:
    count = min(len(files), COLUMNS * ROWS)
    return [files[number * len(files) // count] for number in range(count)]
