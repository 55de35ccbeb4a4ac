"""Colours come out as sRGB, whatever way a file has of saying what they are."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from adire_assets.families.diffusion.data.colour import (
    ADOBE_GAMMA,
    ADOBE_PRIMARIES,
    D65,
    SRGB_PRIMARIES,
    matrix_profile,
)
from adire_assets.families.diffusion.data.dataset import build_dataset
from adire_assets.families.diffusion.data.images import Rejected, load
from tests.support.picture_folders import config, fill, reasons, save

ADOBE = matrix_profile(ADOBE_PRIMARIES, D65, ADOBE_GAMMA)
P3_PRIMARIES = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))  # SMPTE EG 432-1
LINEAR = matrix_profile(SRGB_PRIMARIES, D65, 1.0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
BLUE, AS_SRGB = (40, 60, 160), (21, 57, 164)


def stored(tmp_path: Path, image: Image.Image, name: str = "x.png", **options) -> tuple[int, ...]:
    """The middle pixel after reading."""
    path = save(tmp_path, name, image, **options)
    picture = load(path, tmp_path, 1_000_000)
    assert picture.image.mode == "RGB"
    assert not picture.image.info
    return picture.image.getpixel((4, 4))


def plain(colour: object = BLUE, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (8, 8), colour)


def exif(space: int, index: str | None = None) -> Image.Exif:
    facts = Image.Exif()
    facts[ExifTags.Base.Orientation] = 1
    facts.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ColorSpace] = space
    if index is not None:
        facts.get_ifd(ExifTags.IFD.Exif)[ExifTags.IFD.Interop] = {1: index}
    return facts


def grey_profile(gamma: float) -> bytes:
    """A grey ICC profile, as Photoshop's "Gray Gamma 2.2"."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    start = 128 + 4 + 24
    table = struct.pack(">I4sII4sII", 2, b"wtpt", start, 20, b"kTRC", start + 20, 14)
    size = start + 20 + len(curve)
    head = struct.pack(">I4sI4s4s4s", size, b"", 0x02400000, b"mntr", b"GRAY", b"XYZ ")
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + white[8:]
    return head.ljust(128, b"\0") + table + white + curve


def ink_profile() -> bytes:
    """A CMYK profile (lut8, two steps per ink) whose inks are darker than Pillow's own."""
    corners = []
    for c, m, y, k in np.ndindex(2, 2, 2, 2):
        corners += [255 - 60 * (c + m + y) - 60 * k, 128 - 50 * c + 50 * m, 128 + 50 * y - 30 * c]
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0])
    lut += struct.pack(">9i", *(65536 * n for n in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    lut += bytes(range(256)) * 4 + bytes(corners) + bytes(range(256)) * 3
    start = 128 + 4 + 12
    table = struct.pack(">I4sII", 1, b"A2B0", start, len(lut))
    head = struct.pack(">I4sI4s4s4s", start + len(lut), b"", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    return (head + struct.pack(">3i", 63190, 65536, 54061)).ljust(128, b"\0") + table + lut


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "x.webp"])
def test_an_embedded_profile_is_followed_in_every_format(tmp_path, name):
    lossless = {"lossless": True} if name == "x.webp" else {"quality": 100}
    pixel = stored(tmp_path, plain(), name, icc_profile=ADOBE, **lossless)
    assert np.abs(np.subtract(pixel, AS_SRGB)).max() <= (4 if name == "x.jpg" else 0)


def test_a_display_p3_photo_becomes_srgb(tmp_path):
    """Values by the matrices of the two standards, worked out apart from the code."""

    def matrix(primaries):
        columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
        white = np.array([0.3127 / 0.329, 1, (1 - 0.3127 - 0.329) / 0.329])
        return columns * np.linalg.solve(columns, white)

    light = (np.array([200, 120, 60]) / 255) ** 2.2
    linear = np.linalg.solve(matrix(SRGB_PRIMARIES), matrix(P3_PRIMARIES) @ light)
    expected = 255 * np.where(
        linear > 0.0031308, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055, 12.92 * linear
    )
    profile = matrix_profile(P3_PRIMARIES, D65, 2.2)
    found = stored(tmp_path, plain((200, 120, 60)), icc_profile=profile)
    assert np.abs(found - expected).max() <= 1.5
    assert np.abs(np.subtract(found, (200, 120, 60))).max() > 8


def test_colours_that_are_srgb_already_stay_bit_for_bit(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = save(tmp_path, "x.png", Image.fromarray(noise), icc_profile=SRGB)
    assert np.array_equal(np.asarray(load(path, tmp_path, 10_000).image), noise)


def test_exif_without_a_profile_counts(tmp_path):
    assert stored(tmp_path, plain(), exif=exif(2)) == AS_SRGB
    assert stored(tmp_path, plain(), exif=exif(0xFFFF, "R03")) == AS_SRGB
    assert stored(tmp_path, plain(), exif=exif(1, "R98")) == BLUE
    assert stored(tmp_path, plain(), exif=exif(2), icc_profile=SRGB) == BLUE


def test_uncalibrated_colours_are_told(tmp_path):
    source = fill(tmp_path / "in", 20)
    save(source, "camera.jpg", Image.open(source / "p000.png").rotate(90), exif=exif(0xFFFF))
    summary = build_dataset(source, tmp_path / "out", config())
    assert summary.uncalibrated == ["camera.jpg"]


@pytest.mark.parametrize("name", ["inks.tif", "inks.jpg"])
def test_inks_without_a_profile_are_told(tmp_path, name):
    source = fill(tmp_path / "in", 20)
    inks = Image.open(source / "p000.png").rotate(90).convert("CMYK")
    save(source, name, inks)
    save(source, f"profiled-{name}", inks.rotate(180), icc_profile=ink_profile())
    summary = build_dataset(source, tmp_path / "out", config())
    assert summary.uncalibrated == [name]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def profiled_png(packed: bytes) -> bytes:
    """A PNG whose iCCP chunk has these bytes for its compressed profile."""
    content = io.BytesIO()
    plain().save(content, "PNG")
    start = content.getvalue().index(b"IDAT") - 4
    head, rest = content.getvalue()[:start], content.getvalue()[start:]
    return head + chunk(b"iCCP", b"adobe\0\0" + packed) + rest


def jpeg_without_its_second_profile_segment() -> bytes:
    content = io.BytesIO()
    plain().save(content, "JPEG", icc_profile=ADOBE.ljust(70_000, b"\0"))
    first = content.getvalue().index(b"ICC_PROFILE\0")
    second = content.getvalue().index(b"ICC_PROFILE\0", first + 1) - 4
    size = struct.unpack_from(">H", content.getvalue(), second + 2)[0]
    return content.getvalue()[:second] + content.getvalue()[second + 2 + size :]


PACKED = zlib.compress(ADOBE)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (profiled_png(PACKED[:20] + b"\0\0\0" + PACKED[23:]), "its colour profile is damaged"),
        (profiled_png(PACKED[:-1] + b"\0"), "its colour profile is damaged"),
        (profiled_png(b""), "its colour profile is damaged"),
        (profiled_png(PACKED[:-30]), r"its colour profile cannot be read \(\d+ of its \d+ bytes"),
        (jpeg_without_its_second_profile_segment(), "its colour profile is damaged"),
    ],
    ids=["wrong bytes", "wrong checksum", "empty", "cut off", "a segment is missing"],
)
def test_a_profile_that_cannot_be_unpacked_is_none_that_is_left_out(tmp_path, content, says):
    path = tmp_path / "odd.png"
    path.write_bytes(content)
    with pytest.raises(Rejected, match=says):
        load(path, tmp_path, 1_000)
    path.write_bytes(profiled_png(PACKED))
    assert load(path, tmp_path, 1_000).image.getpixel((4, 4)) == AS_SRGB


def bmp(space: bytes, profile: bytes, size: int | None = None) -> bytes:
    """A BMP of 8 by 8 pixels with a BITMAPV5HEADER."""
    pixels = bytes(reversed(BLUE)) * 64
    head = struct.pack("<IiiHHIIiiII", 124, 8, 8, 1, 24, 0, len(pixels), 0, 0, 0, 0) + bytes(16)
    head += space + bytes(48)
    there = len(profile) if size is None else size
    head += struct.pack("<IIII", 4, 124 + len(pixels), there, 0)
    start = 14 + len(head)
    whole = head + pixels + profile
    return struct.pack("<2sIHHI", b"BM", 14 + len(whole), 0, 0, start) + whole


def test_the_profile_in_a_bmp_is_followed(tmp_path):
    path = tmp_path / "x.bmp"

    def middle(content: bytes) -> tuple[int, ...]:
        path.write_bytes(content)
        return load(path, tmp_path, 1_000).image.getpixel((4, 4))

    assert middle(bmp(b"DEBM", ADOBE)) == AS_SRGB
    assert middle(bmp(b"BGRs", b"")) == middle(bmp(b" niW", b"")) == BLUE
    for content, says in (
        (bmp(b"DEBM", ADOBE, 2 * len(ADOBE)), "its colour profile is damaged"),
        (bmp(b"DEBM", b""), "its colour profile is damaged"),
        (bmp(b"KNIL", b"adobe.icc\0"), "its colour profile is in another file"),
    ):
        with pytest.raises(Rejected, match=says):
            middle(content)


def exif_block(order: str, *, orientation: int = 6) -> bytes:
    """Orientation, then a pointer to a directory of EXIF with the colour space of Adobe RGB."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    first = struct.pack(f"{order}HHHIHHHHII", 2, 0x0112, 3, 1, orientation, 0, 0x8769, 4, 1, 38)
    second = struct.pack(f"{order}HHHIHHI", 1, 0xA001, 3, 1, 2, 0, 0)
    return head + first + struct.pack(f"{order}I", 0) + second


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp"])
def test_exif_that_is_cut_off_is_no_exif_that_says_nothing(tmp_path, name, order):
    image = Image.new("RGB", (16, 8), BLUE)
    block = b"Exif\0\0" + exif_block(order)
    whole = load(save(tmp_path, name, image, exif=block), tmp_path, 1_000).image
    assert whole.size == (8, 16)
    assert np.abs(np.subtract(whole.getpixel((4, 4)), AS_SRGB)).max() <= 4
    for length in (15, 26, 39, 44, 51):
        path = save(tmp_path, name, image, exif=block[:length])
        with pytest.raises(Rejected, match="damaged or cut off: its EXIF ends early"):
            load(path, tmp_path, 1_000)


def png_with(*chunks: tuple[bytes, bytes]) -> PngInfo:
    info = PngInfo()
    for kind, body in chunks:
        info.add(kind, body)
    return info


def test_png_chunks_are_followed(tmp_path):
    gamma = (b"gAMA", struct.pack(">I", 100_000))
    adobe_gamma = (b"gAMA", struct.pack(">I", round(100_000 / ADOBE_GAMMA)))
    places = [round(100_000 * n) for pair in (D65, *ADOBE_PRIMARIES) for n in pair]
    adobe = (b"cHRM", struct.pack(">8I", *places))
    own = [round(100_000 * n) for pair in (D65, *SRGB_PRIMARIES) for n in pair]
    srgb = [(b"gAMA", struct.pack(">I", 45_455)), (b"cHRM", struct.pack(">8I", *own))]
    assert stored(tmp_path, plain(), pnginfo=png_with(adobe_gamma, adobe)) == AS_SRGB
    linear = stored(tmp_path, plain(), icc_profile=LINEAR)
    assert linear[1] > 100
    assert stored(tmp_path, plain(), pnginfo=png_with(gamma)) == linear
    assert stored(tmp_path, plain(), pnginfo=png_with(*srgb)) == BLUE
    assert stored(tmp_path, plain(), pnginfo=png_with((b"sRGB", b"\0"), gamma)) == BLUE


def test_transparency_and_palettes_are_converted_before_they_are_laid_on_white(tmp_path):
    glass = plain((*BLUE, 255), "RGBA")
    glass.putpixel((4, 4), (*BLUE, 0))
    path = save(tmp_path, "x.png", glass, icc_profile=ADOBE)
    image = load(path, tmp_path, 1000).image
    assert (image.getpixel((4, 4)), image.getpixel((0, 0))) == ((255, 255, 255), AS_SRGB)
    assert stored(tmp_path, plain().quantize(4), icc_profile=ADOBE) == AS_SRGB


def test_grey_is_converted_by_its_own_profile_and_by_one_for_colours(tmp_path):
    by_grey = stored(tmp_path, plain(60, "L"), icc_profile=grey_profile(1.0))
    by_colours = stored(tmp_path, plain(60, "L"), icc_profile=LINEAR)
    deep = Image.fromarray(np.full((8, 8), 60 * 257, np.uint16))
    assert by_grey[0] == by_grey[2] > 120
    assert np.abs(np.subtract(by_grey, by_colours)).max() <= 1
    assert stored(tmp_path, deep, icc_profile=grey_profile(1.0)) == by_grey


def test_inks_are_converted_by_their_profile(tmp_path):
    ink = plain((200, 20, 30, 10), "CMYK")
    found = stored(tmp_path, ink, "x.tif", icc_profile=ink_profile())
    bare = stored(tmp_path, ink, "y.tif")
    assert np.abs(np.subtract(found, bare)).max() > 12


@pytest.mark.parametrize(
    ("mode", "profile", "says"),
    [
        (
            "RGB",
            b"no profile",
            "its colour profile cannot be read (cannot open profile from string)",
        ),
        ("RGB", ADOBE[:300], "its colour profile cannot be read"),
        ("RGB", ink_profile(), "its colour profile is for CMYK, its pixels are RGB"),
        ("RGB", grey_profile(2.2), "its colour profile is for GRAY, its pixels are RGB"),
        ("CMYK", ADOBE, "its colour profile is for RGB, its pixels are CMYK"),
    ],
)
def test_a_profile_that_cannot_be_followed_is_the_reason_of_a_rejection(
    tmp_path, mode, profile, says
):
    source = fill(tmp_path / "in", 20)
    image = Image.open(source / "p000.png").rotate(90).convert(mode)
    save(source, "odd.tif", image, icc_profile=profile)
    found = reasons(build_dataset(source, tmp_path / "out", config()))["odd.tif"]
    assert found.startswith(says)
    assert found.endswith("; save it as sRGB")
    with pytest.raises(Rejected):
        load(source / "odd.tif", source, 10_000)


def test_an_image_turned_by_exif_keeps_its_profile(tmp_path):
    image = plain()
    turned = Image.Exif()
    turned[0x0112] = 6
    assert stored(tmp_path, image, "x.jpg", exif=turned, icc_profile=ADOBE, quality=100)[2] >= 162


def test_the_profile_that_is_written_is_one_that_littlecms_describes():
    profile = ImageCms.ImageCmsProfile(io.BytesIO(ADOBE))
    assert profile.profile.xcolor_space == "RGB "
    red = profile.profile.red_primary[1]
    assert np.abs(np.subtract(red[:2], (0.6484, 0.3309))).max() < 0.002  # 0.64, 0.33 seen from D50


@pytest.mark.parametrize("points", [(12, 13, 0, 1), (9, 16, 0, 1), (9, 18, 0, 1)])
def test_a_png_whose_code_points_are_not_those_of_srgb_is_refused(tmp_path, points):
    with pytest.raises(Rejected, match="its cICP chunk says colours that are not read"):
        stored(tmp_path, plain(), pnginfo=png_with((b"cICP", bytes(points))))


def test_code_points_of_srgb_change_nothing_and_a_profile_counts_before_any(tmp_path):
    srgb, p3 = (png_with((b"cICP", bytes(points))) for points in ((1, 13, 0, 1), (12, 13, 0, 1)))
    assert stored(tmp_path, plain(), pnginfo=srgb) == BLUE
    assert stored(tmp_path, plain(), pnginfo=p3, icc_profile=ADOBE) == AS_SRGB
