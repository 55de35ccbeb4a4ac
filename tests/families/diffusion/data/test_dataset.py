"""Images become a dataset: pixels, captions, rejections, duplicates and the split."""

import io
import json
import os
import random
import re
import struct
import zlib
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image

from adire_assets.core.errors import UserError
from adire_assets.families.diffusion.config import DataConfig
from adire_assets.families.diffusion.data.dataset import build_dataset
from adire_assets.families.diffusion.data.duplicates import nearest, nearest_earlier

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


def animated(**options) -> bytes:
    buffer = io.BytesIO()
    frames = [picture(900), picture(901)]
    frames[0].save(buffer, save_all=True, append_images=frames[1:], duration=100, **options)
    return buffer.getvalue()


def png_of_claimed_size(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


# --- output ---


def test_output_is_the_layout_that_training_and_evaluation_read(tmp_path):
    source = fill(tmp_path / "in", 20)
    save(source, "deep/wide.jpg", picture(500, (100, 50)))
    summary = build_dataset(source, tmp_path / "out", config())
    found = {name: rows(tmp_path / "out", name) for name in SPLITS}
    counts = {name: len(split) for name, split in found.items()}
    assert all(counts.values())
    assert counts == {name: getattr(summary, name) for name in SPLITS}
    assert summary.images == 21
    assert summary.rejected == []
    for row in (row for split in found.values() for row in split):
        with Image.open(tmp_path / "out" / row["file_name"]) as image:
            assert image.format == "PNG"
            assert image.mode == "RGB"
            assert min(image.size) == SIZE
            assert str(imagehash.phash(image)) == row["phash"]
        assert row["text"] == "a photo"
        assert set(row) == {"file_name", "text", "sha256", "phash"}
    with Image.open(tmp_path / "out" / "images" / "deep" / "wide.png") as image:
        assert image.size == (64, 32)
    with Image.open(tmp_path / "out" / "dataset_sheet.png") as sheet:
        assert sheet.width > 300
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {name: written[name] for name in ("images", *SPLITS)} == {"images": 21, **counts}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dataset_sheet.png", "held_out.jsonl", "images", "summary.json", "train.jsonl",
        "validation.jsonl",
    ]  # fmt: skip


def test_bytes_do_not_depend_on_file_order_or_on_the_kind_of_caption_file(tmp_path):
    captions = {f"p{number:03d}.png": f'cloth "{number}", blue' for number in range(24)}
    built = []
    for kind in ("csv", "jsonl", "txt"):
        source = fill(tmp_path / kind)
        items = list(captions.items())
        if kind == "csv":
            quoted = [f'{name},"{text.replace(chr(34), chr(34) * 2)}"' for name, text in items]
            (source / "metadata.csv").write_bytes(
                b"\xef\xbb\xbf" + "\r\n".join(["file_name,text", *quoted]).encode()
            )
        elif kind == "jsonl":
            lines = [json.dumps({"text": text, "file_name": f"./{name}"}) for name, text in items]
            (source / "metadata.jsonl").write_text("\n\n".join(reversed(lines)))
        else:
            for name, text in items:
                (source / name).with_suffix(".txt").write_text(f"  {text} \n")
        names = sorted(path.name for path in source.iterdir())
        random.Random(kind).shuffle(names)
        build_dataset(source, tmp_path / f"out-{kind}", config(), names)
        built.append(tree(tmp_path / f"out-{kind}"))
    assert built[0] == built[1] == built[2]
    assert texts(tmp_path / "out-csv")["images/p003.png"] == 'cloth "3", blue'


def test_only_the_files_named_are_taken(tmp_path):
    source = fill(tmp_path / "in", 20)
    names = [f"p{number:03d}.png" for number in range(15)]
    assert build_dataset(source, tmp_path / "out", config(), names).images == 15


# --- pixels ---


def dataset_pixels(tmp_path: Path, name: str, image: Image.Image, **options) -> np.ndarray:
    source = fill(tmp_path / "in", 20)
    save(source, name, image, **options)
    summary = build_dataset(source, tmp_path / "out", config())
    assert summary.rejected == []
    with Image.open((tmp_path / "out" / "images" / name).with_suffix(".png")) as result:
        return np.asarray(result)


def test_exif_orientation_is_applied(tmp_path):
    image = picture(700, (64, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    pixels = dataset_pixels(tmp_path, "turned.png", image, exif=exif)
    assert np.array_equal(pixels, np.rot90(np.asarray(image), -1))


def test_transparency_becomes_white(tmp_path):
    image = picture(701, (SIZE, SIZE)).convert("RGBA")
    image.paste((10, 200, 10, 0), (0, 0, 16, SIZE))
    pixels = dataset_pixels(tmp_path, "glass.png", image)
    assert (pixels[:, :16] == 255).all()
    assert np.array_equal(pixels[:, 16:], np.asarray(image)[:, 16:, :3])


def test_palette_with_a_transparent_colour_becomes_white(tmp_path):
    image = Image.new("P", (SIZE, SIZE), 1)
    image.putpalette([0, 0, 0, 200, 10, 10])
    image.paste(0, (0, 0, 8, SIZE))
    pixels = dataset_pixels(tmp_path, "palette.png", image, transparency=0)
    assert (pixels[:, :8] == 255).all()
    assert (pixels[:, 8:] == (200, 10, 10)).all()


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, SIZE * SIZE).astype(np.uint16).reshape(SIZE, SIZE)
    pixels = dataset_pixels(tmp_path, "deep.png", Image.fromarray(ramp))
    assert np.abs(pixels[..., 0] - ramp / 257).max() <= 0.5
    assert (pixels[..., 0] == pixels[..., 2]).all()


@pytest.mark.parametrize(
    ("name", "mode", "tolerance"),
    [("a.tiff", "CMYK", 2), ("b.jpg", "CMYK", 40), ("c.webp", "RGB", 40), ("d.bmp", "RGB", 0)],
)
def test_other_formats_and_modes_become_rgb(tmp_path, name, mode, tolerance):
    image = picture(702, (SIZE, SIZE))
    pixels = dataset_pixels(tmp_path, name, image.convert(mode)).astype(int)
    assert np.abs(pixels - np.asarray(image)).max() <= tolerance


def test_a_large_image_is_resized_by_its_shorter_side(tmp_path):
    image = picture(703, (640, 320))
    pixels = dataset_pixels(tmp_path, "large.png", image)
    assert np.array_equal(pixels, np.asarray(image.resize((64, 32), Image.Resampling.LANCZOS)))


# --- rejected files ---


def test_every_rejected_file_is_listed_with_its_reason(tmp_path):
    source = fill(tmp_path / "in", 20)
    whole = save(source, "whole.jpg", picture(600, (200, 200)), quality=95).read_bytes()
    (source / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    sound = save(tmp_path, "sound.png", picture(601, (200, 200))).read_bytes()
    (source / "cut.png").write_bytes(sound[: len(sound) // 2])
    flipped = bytearray(sound)
    flipped[len(sound) // 2] ^= 0x10
    (source / "flipped.png").write_bytes(flipped)
    (source / "bomb.png").write_bytes(png_of_claimed_size(60_000, 60_000))
    (source / "large.png").write_bytes(png_of_claimed_size(2_000, 1_000))
    (source / "moving.png").write_bytes(animated(format="PNG"))
    (source / "moving.webp").write_bytes(animated(format="WEBP"))
    (source / "pages.tiff").write_bytes(animated(format="TIFF"))
    (source / "moving.gif").write_bytes(animated(format="GIF"))
    save(source, "float.tiff", Image.new("F", (SIZE, SIZE)))
    save(source, "small.png", picture(602, (100, SIZE - 1)))
    save(source, "tall.jpg", picture(603, (SIZE - 1, 100)))
    (source / "notes.md").write_text("# what this is")
    (source / "empty.png").write_bytes(b"")
    (source / "text.png").write_text("not an image")
    (source / "p000 copy.png").write_bytes((source / "p000.png").read_bytes())
    save(source, "p000.bmp", picture(0))
    save(tmp_path, "outside.png", picture(604))
    (source / "link.png").symlink_to(tmp_path / "outside.png")
    (source / "gone.png").symlink_to(tmp_path / "nothing.png")
    (source / "loop.png").symlink_to(source / "loop.png")
    (tmp_path / "other").mkdir()
    save(tmp_path, "other/x.png", picture(605))
    (source / "folder").symlink_to(tmp_path / "other")
    os.mkfifo(source / "pipe.png")
    save(source, "inner.png", picture(606))
    (source / "fine-link.png").symlink_to("inner.png")
    (source / ".DS_Store").write_bytes(b"x")
    save(source, ".hidden/h.png", picture(607))
    summary = build_dataset(source, tmp_path / "out", config(maximum_pixels=1_000_000))
    got = reasons(summary)
    expected = {
        "bomb.png": "60000x60000 pixels are more than data.maximum_pixels (1000000)",
        "cut.jpg": "damaged or cut off",
        "cut.png": "damaged",
        "empty.png": "not an image",
        "flipped.png": "damaged",
        "float.tiff": "pixels of mode F",
        "folder": "leads out of the folder",
        "gone.png": "leads nowhere",
        "inner.png": "the same image as fine-link.png",
        "large.png": "2000x1000 pixels are more",
        "link.png": "leads out of the folder",
        "loop.png": "leads nowhere",
        "moving.gif": "not an image in PNG, JPEG, WebP, BMP or TIFF",
        "moving.png": "animated or of several pages (2)",
        "moving.webp": "animated or of several pages (2)",
        "p000.bmp": "the same image as p000 copy.png",
        "p000.png": "the same image as p000 copy.png",
        "pages.tiff": "animated or of several pages (2)",
        "pipe.png": "not a regular file",
        "small.png": "100x31 pixels: the shorter side is below data.resolution (32)",
        "tall.jpg": "31x100 pixels",
        "text.png": "not an image",
    }
    assert list(got) == sorted(expected)
    assert {name: reason for name, reason in got.items() if expected[name] not in reason} == {}
    assert unused(summary) == {"notes.md": "not an image in PNG, JPEG, WebP, BMP or TIFF format"}
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["rejected"] == [
        {"file": name, "reason": reason} for name, reason in got.items()
    ]


def test_a_multi_picture_jpeg_of_a_phone_is_a_still(tmp_path):
    source = fill(tmp_path / "in", 20)
    (source / "phone.jpg").write_bytes(animated(format="MPO"))
    assert build_dataset(source, tmp_path / "out", config()).rejected == []


def test_a_limit_above_pillows_own_is_honoured(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5_000)
    source = fill(tmp_path / "in", 20)
    save(source, "large.png", picture(610, (800, 32)))
    assert build_dataset(source, tmp_path / "out", config()).rejected == []
    assert Image.MAX_IMAGE_PIXELS == 5_000


# --- captions ---


def test_captions_come_from_metadata_then_sidecar_then_instance_prompt(tmp_path):
    source = fill(tmp_path / "in", 20)
    save(source, "sub/a.png", picture(800))
    (source / "sub" / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "text": "deep", "n": 1}\n'
    )
    (source / "metadata.csv").write_text("license,file_name,text\nCC0,p000.png,from the table\n")
    (source / "p000.txt").write_text("from the side-car")
    (source / "p001.txt").write_text("from  the\nside-car\n")
    (source / "orphan.txt").write_text("of no image")
    summary = build_dataset(source, tmp_path / "out", config())
    got = texts(tmp_path / "out")
    assert got["images/p000.png"] == "from the table"
    assert got["images/p001.png"] == "from the side-car"
    assert got["images/p002.png"] == "a photo"
    assert got["images/sub/a.png"] == "deep"
    assert summary.own_captions == 3
    assert reasons(summary) == {}
    assert {name: reason.split(";")[0] for name, reason in unused(summary).items()} == {
        "orphan.txt": "no image has its name",
        "p000.txt": "metadata.csv:2 has the caption of p000.png",
    }


def test_all_mistakes_of_caption_files_are_listed_and_nothing_is_written(tmp_path):
    source = fill(tmp_path / "in", 20)
    (source / "metadata.csv").write_text(
        "file_name,text\n"
        "p000.png,good\n"
        "missing.png,x\n"
        "../p001.png,x\n"
        "/etc/passwd,x\n"
        "p000.png,again\n"
        "./p002.png,\n"
        "p003.png,a,b\n"
        ",nameless\n"
    )
    save(source, "sub/a.png", picture(800))
    (source / "sub" / "metadata.jsonl").write_text(
        '{"file_name": "a.png"}\nnot json\n[1]\n{"file_name": "a.png", "text": "\\ud800"}\n'
    )
    save(source, "bare/a.png", picture(801))
    (source / "bare" / "metadata.csv").write_text("name;text\na.png;x\n")
    save(source, "open/a.png", picture(802))
    (source / "open" / "metadata.csv").write_text('file_name,text\na.png,"never closed\n')
    save(source, "latin/a.png", picture(803))
    (source / "latin" / "metadata.csv").write_bytes(
        "file_name,text\na.png,ádìrẹ\n".encode("utf-16")[:-1]
    )
    (source / "p004.txt").write_text(" \n")
    (source / "p005.txt").write_bytes("first\nádìrẹ".encode("cp1258", "replace"))
    message = refused(source, tmp_path / "out")
    for part in (
        "metadata.csv:3: names missing.png, which is not there",
        "metadata.csv:4: ../p001.png is outside the folder",
        "metadata.csv:5: /etc/passwd is outside the folder",
        "metadata.csv:6: p000.png has a caption already (metadata.csv:2)",
        "metadata.csv:7: the caption of ./p002.png is empty",
        "metadata.csv:8: 3 fields where the first line has 2",
        "metadata.csv:9: file_name is empty",
        "sub/metadata.jsonl:1: text is missing",
        "sub/metadata.jsonl:2: not a line of valid JSON",
        "sub/metadata.jsonl:3: an object with file_name and text is expected",
        "sub/metadata.jsonl:4: not a line of valid JSON",
        "bare/metadata.csv:1: no column file_name and no column text",
        "open/metadata.csv:2: not valid CSV",
        "latin/metadata.csv: not UTF-16, as its first bytes say",
        "p004.txt: the caption is empty",
        "p005.txt: not UTF-8 text (line 2) (byte 6)",
        "have 16 mistakes",
    ):
        assert part in message


def test_two_caption_files_in_one_folder_are_refused(tmp_path):
    source = fill(tmp_path / "in", 20)
    (source / "metadata.csv").write_text("file_name,text\np000.png,x\n")
    (source / "metadata.jsonl").write_text('{"file_name": "p001.png", "text": "y"}\n')
    assert "metadata.jsonl: metadata.csv stands beside it" in refused(source, tmp_path / "out")


def test_images_that_differ_in_their_ending_only_are_refused(tmp_path):
    source = fill(tmp_path / "in", 20)
    save(source, "p000.jpg", picture(820))
    assert "p000.jpg and p000.png" in refused(source, tmp_path / "out")


# --- too few ---


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    assert "has no images" in refused(tmp_path / "in", tmp_path / "out")
    assert "has no images" in refused(tmp_path / "absent", tmp_path / "out")


def test_too_few_images_says_how_many_are_needed_and_why_others_are_out(tmp_path):
    source = fill(tmp_path / "in", 12)
    for number in range(9):
        (source / f"p{number:03d}.png").write_text("broken")
    message = refused(source, tmp_path / "out")
    assert "8 images are needed (data.minimum_images), 3 are usable" in message
    assert "rejected: p000.png: not an image" in message
    assert "9 rejected in all" in message


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


def test_an_output_that_is_in_use_is_left_alone(tmp_path):
    source = fill(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        build_dataset(source, tmp_path / "out", config())
    assert tree(tmp_path / "out") == {"mine": b"x"}


# --- split ---


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
