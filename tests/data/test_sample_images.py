"""The drawn sample data: reproducible, distinct, captioned truthfully, and looking like adire."""

import csv
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image

from adire_assets.data.sample_images import TECHNIQUES, draw_adire, draw_sample_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "indigo"
    draw_sample_data(path)
    return path


def captions(folder: Path) -> dict[str, str]:
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as stream:
        return {row["file_name"]: row["text"] for row in csv.DictReader(stream)}


def test_the_same_seed_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    draw_sample_data(tmp_path / "again")
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_another_seed_draws_other_images(folder: Path, tmp_path: Path) -> None:
    draw_sample_data(tmp_path, count=3, seed=1)
    for path in tmp_path.glob("*.png"):
        assert path.read_bytes() != (folder / path.name).read_bytes()


def test_it_is_an_image_folder_with_one_caption_per_image(folder: Path) -> None:
    listed = captions(folder)
    assert set(listed) == {path.name for path in folder.glob("*.png")}
    assert len(listed) == 72
    header = (folder / "metadata.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == "file_name,text"


def test_captions_name_the_style_the_technique_and_the_cloth(folder: Path) -> None:
    listed = captions(folder)
    for technique in TECHNIQUES:
        own = [text for name, text in listed.items() if name.startswith(technique)]
        assert len(own) == 24
        for text in own:
            assert text.startswith(f"a photo in nigerian_adire_style, {technique} ")
            assert text.endswith(", indigo cloth")


def test_no_two_images_are_near_duplicates(folder: Path) -> None:
    hashes = [imagehash.phash(Image.open(path)) for path in sorted(folder.glob("*.png"))]
    nearest = min(a - b for place, a in enumerate(hashes) for b in hashes[:place])
    assert nearest > 6


def test_every_image_is_an_indigo_ground_with_off_white_marks(folder: Path) -> None:
    for path in folder.glob("*.png"):
        pixels = np.asarray(Image.open(path).convert("RGB"), float) / 255
        light = pixels.mean(2)
        ground = np.median(pixels[light <= np.median(light)], axis=0)
        assert ground[2] > ground[1] > 0.5 * ground[0], path.name
        assert ground.mean() < 0.4, path.name
        assert ground[2] > 1.3 * ground[0], path.name
        marks = pixels[light > np.quantile(light, 0.985)].mean(0)
        assert marks.min() > 0.55 and marks.max() - marks.min() < 0.25, path.name


@pytest.mark.parametrize(("word", "cells"), [("four", 2), ("nine", 3), ("sixteen", 4)])
def test_an_eleko_caption_counts_the_squares_that_are_there(
    folder: Path, word: str, cells: int
) -> None:
    named = [name for name, text in captions(folder).items() if f"grid of {word} squares" in text]
    assert named
    for name in named:
        light = np.asarray(Image.open(folder / name).convert("L"), float)
        borders = [round(64 * k / cells) for k in range(1, cells)]
        # A painted border is bright all along, so its darkest tenth tells it from a motif.
        for across in (light, light.T):
            level = [np.quantile(across[b - 3 : b + 3].max(0), 0.1) for b in borders]
            assert min(level) > np.quantile(light, 0.25) + 15, name


def test_any_resolution_can_be_drawn() -> None:
    for technique in TECHNIQUES:
        pixels, _ = draw_adire(technique, np.random.default_rng(0), 96)
        assert pixels.shape == (96, 96, 3) and pixels.dtype == np.uint8
