"""Folders of pictures and captions as users have them, and what a dataset makes of them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adire_assets.core.errors import UserError
from adire_assets.families.diffusion.config import DataConfig
from adire_assets.families.diffusion.data.dataset import build_dataset

SIZE = 32


SPLITS = ("train", "validation", "held_out")


def config(**changes) -> DataConfig:
    plain = {
        "path": "data/x",
        "resolution": SIZE,
        "instance_prompt": "a photo",
        "minimum_images": 8,
    }
    return DataConfig(**{**plain, "held_out_fraction": 0.3, "validation_fraction": 0.2, **changes})


def picture(seed: int, size: tuple[int, int] = (40, 36)) -> Image.Image:
    """Smooth random colours: distinct perceptual hashes that survive resizing."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def save(folder: Path, name: str, image: Image.Image, **options) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def fill(folder: Path, count: int = 24, seed: int = 0) -> Path:
    for number in range(count):
        save(folder, f"p{number:03d}.png", picture(seed * 1000 + number))
    return folder


def rows(output: Path, side: str) -> list[dict]:
    lines = (output / f"{side}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def texts(output: Path) -> dict[str, str]:
    return {row["file_name"]: row["text"] for split in SPLITS for row in rows(output, split)}


def tree(output: Path) -> dict[str, bytes]:
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in output.rglob("*")
        if path.is_file()
    }


def reasons(summary) -> dict[str, str]:
    return {item.file: item.reason for item in summary.rejected}


def unused(summary) -> dict[str, str]:
    return {item.file: item.reason for item in summary.unused}


def refused(folder: Path, output: Path, **changes) -> str:
    """The message of the refusal; nothing may be left in `output`."""
    with pytest.raises(UserError) as error:
        build_dataset(folder, output, config(**changes))
    assert not output.exists()
    return str(error.value)
