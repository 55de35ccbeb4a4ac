"""The pixels of a dataset, and the files that are refused with their reason."""

import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adire_assets.families.diffusion.data.dataset import build_dataset
from tests.support.picture_folders import SIZE, config, fill, picture, reasons, save, unused


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
