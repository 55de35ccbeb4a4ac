"""The contact sheet: its size, its columns and its limits."""

from pathlib import Path

import numpy as np
from PIL import Image

from adire_assets.families.diffusion.evaluation.report import (
    LABEL,
    MAXIMUM_BYTES,
    Row,
    save_contact_sheet,
)

RED, GREEN, BLUE = (
    np.full((64, 64, 3), c, np.uint8) for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255))
)


def sheet(tmp_path: Path, rows: list[Row]) -> Image.Image:
    save_contact_sheet(tmp_path / "sheet.png", rows)
    return Image.open(tmp_path / "sheet.png")


def test_a_row_shows_before_after_and_real(tmp_path: Path) -> None:
    image = sheet(tmp_path, [Row("a prompt", "CLIP-S 1", RED, GREEN, BLUE)] * 2)
    assert image.size == (866, 444)
    centres = [image.getpixel((LABEL + 96 + column * 202, 40 + 96)) for column in range(3)]
    assert centres == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    label = np.asarray(image.crop((0, 40, LABEL, 232)))
    assert (label < 100).any()


def test_a_picture_that_is_missing_leaves_a_grey_field(tmp_path: Path) -> None:
    image = sheet(tmp_path, [Row("a prompt", "", RED, None, BLUE)])
    assert image.getpixel((LABEL + 96 + 202, 136)) == (228, 229, 234)


def test_many_prompts_are_thinned_evenly(tmp_path: Path) -> None:
    grey = [np.full((64, 64, 3), 2 * number, np.uint8) for number in range(100)]
    image = sheet(tmp_path, [Row("p", "", picture, RED, BLUE) for picture in grey])
    assert image.size == (866, 40 + 12 * 202)
    shown = [image.getpixel((LABEL + 96, 136 + row * 202))[0] // 2 for row in range(12)]
    assert shown[0] == 0 and shown[-1] == 99
    assert set(np.diff(shown)) == {9}


def test_large_noisy_pictures_stay_below_the_size_limit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (512, 640, 3), dtype=np.uint8)
    sheet(tmp_path, [Row("words " * 100, "note", noise, noise, noise)] * 12)
    assert (tmp_path / "sheet.png").stat().st_size <= MAXIMUM_BYTES
