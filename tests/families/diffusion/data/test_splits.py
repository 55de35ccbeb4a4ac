"""Which images are trained on, held out and validated on: enough of each, and always the same."""

import re
from pathlib import Path

import imagehash
import numpy as np
import pytest

from adire_assets.core.data_files import TAKEN_DOWN
from adire_assets.core.errors import UserError
from adire_assets.core.files import read_json
from adire_assets.core.lineage import file_digest
from adire_assets.families.diffusion.data.dataset import build_dataset
from adire_assets.families.diffusion.data.duplicates import nearest, nearest_earlier
from tests.support.picture_folders import (
    SPLITS,
    config,
    fill,
    picture,
    reasons,
    refused,
    rows,
    save,
)


def test_a_held_out_side_too_small_names_the_fraction_that_mends_it(tmp_path):
    source = fill(tmp_path / "in", 24)
    message = refused(source, tmp_path / "out", held_out_fraction=0.05)
    assert "4 held-out images are needed" in message
    fraction = float(message.split("held_out_fraction to ")[1].split("\n")[0])
    assert build_dataset(source, tmp_path / "out", config(held_out_fraction=fraction)).held_out >= 4
    below = config(held_out_fraction=fraction - 0.011)
    with pytest.raises(UserError, match="held-out images are needed"):
        build_dataset(source, tmp_path / "other", below)


@pytest.mark.parametrize("count", [10, 16])
@pytest.mark.parametrize("near", [0, 3])
def test_advised_fractions_make_a_dataset_of_few_images(tmp_path, count: int, near: int):
    """Of many folders, with the default fractions; some have near duplicates besides."""
    advised = 0
    for seed in range(8):
        source = fill(tmp_path / f"in{seed}", count, seed + 1)
        for number in range(near):
            image = picture((seed + 1) * 1000 + number)
            image.putpixel((0, 0), (seed, number, 99))
            save(source, f"near{number}.png", image)
        values = {"held_out_fraction": 0.2, "validation_fraction": 0.1, "minimum_images": 8}
        output = tmp_path / f"out{seed}"
        try:
            build_dataset(source, output, config(**values))
            continue
        except UserError as error:
            told = re.findall(r"data\.(\w+) to (0\.\d\d)", str(error).split("\n")[0])
        if told:
            advised += 1
            values |= {name: float(value) for name, value in told}
            summary = build_dataset(source, output, config(**values))
            assert summary.train >= 4 and summary.held_out >= 4
    assert advised >= 3


@pytest.mark.parametrize("shares", [(0.5, 0.3), (0.33, 0.125)])
def test_too_few_to_train_on_names_the_fractions_that_mend_it(tmp_path, shares):
    named = dict(zip(("held_out_fraction", "validation_fraction"), shares, strict=True))
    for seed in range(1, 20):
        source = fill(tmp_path / f"in{seed}", 9, seed)
        try:
            build_dataset(source, tmp_path / f"out{seed}", config(**named))
        except UserError as error:
            if "needed to train on" in str(error) and "or set" in str(error):
                told = re.findall(r"data\.(\w+) to (0\.\d\d)", str(error))
                mended = config(**(named | {name: float(value) for name, value in told}))
                assert build_dataset(source, tmp_path / "out", mended).train >= 4
                return
    pytest.fail("no folder had too few images to train on")


def test_what_was_held_out_stays_so_whatever_is_taken_for_validation(tmp_path):
    source = fill(tmp_path / "in", 30)
    held_out = []
    for fraction in (0.0, 0.1, 0.3):
        summary = build_dataset(
            source, tmp_path / f"{fraction}", config(validation_fraction=fraction)
        )
        held_out.append(rows(tmp_path / f"{fraction}", "held_out"))
        assert (summary.validation > 0) == (fraction > 0)
    assert held_out[0] == held_out[1] == held_out[2]


def test_fractions_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(ValueError, match=r"are 0\.9 together, at most 0\.8: the rest"):
        config(held_out_fraction=0.5, validation_fraction=0.4)


@pytest.mark.parametrize("seed", range(4))
def test_adding_one_image_moves_no_other(tmp_path, seed):
    source = fill(tmp_path / "in", 30, seed)
    build_dataset(source, tmp_path / "before", config())
    save(source, "a-new-one.png", picture(seed + 77_000))
    build_dataset(source, tmp_path / "after", config())
    for split in SPLITS:
        old = {row["file_name"] for row in rows(tmp_path / "before", split)}
        new = {row["file_name"] for row in rows(tmp_path / "after", split)}
        assert old == new - {"images/a-new-one.png"}


def test_the_side_depends_on_pixels_and_not_on_name_format_or_caption(tmp_path):
    source = fill(tmp_path / "in", 24)
    build_dataset(source, tmp_path / "one", config())
    other = tmp_path / "renamed"
    other.mkdir()
    for number in range(24):
        save(other, f"z{23 - number}.bmp", picture(number))
        (other / f"z{23 - number}.txt").write_text(f"caption {number}")
    build_dataset(other, tmp_path / "two", config())
    for split in SPLITS:
        one, two = (
            {row["phash"] for row in rows(tmp_path / name, split)} for name in ("one", "two")
        )
        assert one == two


def test_near_duplicates_never_straddle_the_split(tmp_path):
    source = fill(tmp_path / "in", 24)
    for number in range(24):  # the same picture a little darker: other pixels, nearly the same hash
        darker = picture(number).point(lambda value: value * 0.97)
        save(source, f"q{number:03d}.png", darker)
    summary = build_dataset(source, tmp_path / "out", config())
    sides = {}
    for split in SPLITS:
        for row in rows(tmp_path / "out", split):
            sides[Path(row["file_name"]).stem] = (split, imagehash.hex_to_hash(row["phash"]))
    assert {split for split, _ in sides.values()} == set(SPLITS)
    pairs = [(a, b) for a in sides for b in sides if sides[a][0] != sides[b][0]]
    assert min(sides[a][1] - sides[b][1] for a, b in pairs) > 4
    rejected = reasons(summary)
    assert rejected, "with these seeds some twins fall on different sides"
    for name, reason in rejected.items():
        twin = name.replace("p", "q", 1) if name.startswith("p") else name.replace("q", "p", 1)
        assert reason.startswith("a near duplicate (")
        split = sides[twin.removesuffix(".png")][0]
        assert reason.endswith(f"of the {split.replace('_', '-')} {twin}")
        assert split != "train"
    assert {reason.split()[-2] for reason in rejected.values()} == {"held-out", "validation"}
    kept = {(item.file, item.of) for item in summary.near_duplicates}
    assert kept == {
        (f"q{number:03d}.png", f"p{number:03d}.png")
        for number in range(24)
        if not {f"p{number:03d}.png", f"q{number:03d}.png"} & rejected.keys()
    }
    assert all(item.distance <= 4 for item in summary.near_duplicates)


def test_nearest_hashes_agree_with_counting_bits(monkeypatch):
    monkeypatch.setattr("adire_assets.families.diffusion.data.duplicates.BLOCK", 7)
    hashes = np.random.default_rng(0).integers(0, 256, (40, 8), dtype=np.uint8)
    bits = np.unpackbits(hashes, axis=1)
    distance = (bits[:, None] != bits[None]).sum(-1)
    index, found = nearest(hashes[:15], hashes[15:])
    assert (found == distance[:15, 15:].min(1)).all()
    assert (index == distance[:15, 15:].argmin(1)).all()
    index, found = nearest_earlier(hashes)
    assert (index[0], found[0]) == (-1, 65)
    for row in range(1, 40):
        assert (index[row], found[row]) == (distance[row, :row].argmin(), distance[row, :row].min())


def test_near_duplicates_of_what_was_taken_down_stay_rejected(tmp_path):
    source = fill(tmp_path / "in", 30)
    for number in range(30):
        image = picture(number)
        image.putpixel((0, 0), (number, 99, 7))
        save(source, f"near{number}.png", image)
    build_dataset(source, tmp_path / "all", config())
    twins = {
        item["file"]: item["reason"].rsplit(" ", 1)[1]
        for item in read_json(tmp_path / "all" / "summary.json")["rejected"]
        if " held-out " in item["reason"]
    }
    assert twins
    gone = [file_digest(source / twin) for twin in twins.values()][:2]
    summary = build_dataset(source, tmp_path / "out", config(), taken_down=gone)
    before = {row["file_name"] for name in SPLITS for row in rows(tmp_path / "all", name)}
    after = {row["file_name"] for name in SPLITS for row in rows(tmp_path / "out", name)}
    assert after < before and len(after) == len(before) - len(set(gone))
    assert all(reasons(summary)[twin] == TAKEN_DOWN for twin in [*twins.values()][:2])
    assert all("near duplicate" in reasons(summary)[name] for name in twins)
