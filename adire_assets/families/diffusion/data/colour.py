"""Colours as a file describes them become sRGB.

What a file says comes in many ways; the first of these that is there counts: an ICC profile, PNG's
sRGB, gAMA and cHRM chunks, EXIF's colour space. A file that says nothing is sRGB, as every viewer
takes it; inks (CMYK) without a profile become what Pillow makes of them, which is told. A profile
that is damaged, and a PNG without one whose cICP chunk names other colours, are refused. Conversion
is LittleCMS (Pillow's ImageCms), relative colorimetric with black point compensation; colours that
are sRGB within one level of 255 stay as they are.
"""

import io
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms

# Chromaticities x, y of red, green and blue. Sources: IEC 61966-2-1, Adobe RGB (1998) 4.3.1.
Primaries = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
SRGB_PRIMARIES: Primaries = ((0.64, 0.33), (0.3, 0.6), (0.15, 0.06))
ADOBE_PRIMARIES: Primaries = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
D65 = (0.3127, 0.329)
D50_XYZ = (0.9642, 1.0, 0.8249)  # white of the ICC's connection space
ADOBE_GAMMA = 2 + 51 / 256  # Adobe RGB (1998) 4.3.4
# Bradford's cone responses, by which ICC profiles adapt to D50 (ICC.1:2022, annex E).
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
SRGB_FILE_GAMMA = 1 / 2.2  # PNG's gAMA of a file with the curve of sRGB
GAMMA_TOLERANCE = 0.001
CHROMATICITY_TOLERANCE = 0.002
ICC_HEADER_BYTES, ICC_ALIGNMENT = 128, 4  # ICC.1:2022, 7.2; the last tag may lack its padding
# BITMAPV5HEADER: where it begins in the file, and in it the colour space, and a profile's place and
# size; the spaces are those of a profile in the file, and of one in another file.
BMP_HEADER, BMP_SPACE, BMP_PROFILE, BMP_V5_BYTES = 14, 56, 112, 124
BMP_EMBEDDED, BMP_LINKED = b"DEBM", b"KNIL"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
SRGB_CICP = bytes((1, 13, 0))  # ITU-T H.273: BT.709's primaries, sRGB's curve, RGB
EXIF_SRGB, EXIF_ADOBE, EXIF_UNCALIBRATED = 1, 2, 0xFFFF
INTEROPERABILITY_INDEX = 1  # tag of the interoperability directory
INTEROPERABILITY_ADOBE = "R03"  # DCF 2.0: the optional colour space, which is Adobe RGB
MODES_OF = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # an ICC colour space and Pillow's mode
GREY = ("1", "L", "LA", "La")


class Unreadable(Exception):
    """What the file says of its colours cannot be followed; the message is a clause why."""


@dataclass(frozen=True)
class ColourDescription:
    """What a file says of its colours: a profile (None: they are sRGB), and whether it only says
    that they are not calibrated, or inks, which leaves them sRGB for want of anything better."""

    profile: bytes | None
    uncalibrated: bool = False


def describe_colours(image: Image.Image, path: Path) -> ColourDescription:
    """What `image`, as it was opened from `path`, says of its colours.

    Unreadable when that is no colour, or none that is read.
    """
    icc = image.info.get("icc_profile")
    if "icc_profile" in image.info and not icc:  # Pillow found one that it could not unpack
        raise Unreadable("its colour profile is damaged")
    if image.format == "BMP":
        icc = _bmp_profile(path)
    if icc:
        return ColourDescription(icc)
    other = _cicp(path) if image.format == "PNG" else None
    if other is not None and other != SRGB_CICP:
        raise Unreadable(f"its cICP chunk says colours that are not read ({[*other]})")
    if image.format == "PNG" and ({"srgb", "gamma", "chromaticity"} & image.info.keys()):
        return ColourDescription(_png_profile(image.info))
    exif = image.getexif()
    space = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
    index = exif.get_ifd(ExifTags.IFD.Interop).get(INTEROPERABILITY_INDEX, "")
    if isinstance(index, bytes):
        index = index.decode("ascii", "replace")
    if space == EXIF_ADOBE or (
        space != EXIF_SRGB and str(index).strip("\0 ") == INTEROPERABILITY_ADOBE
    ):
        return ColourDescription(matrix_profile(ADOBE_PRIMARIES, D65, ADOBE_GAMMA))
    return ColourDescription(None, uncalibrated=space == EXIF_UNCALIBRATED or image.mode == "CMYK")


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """An opaque image in one of the modes 1, L, RGB and CMYK as sRGB in mode RGB.

    Unreadable when the profile is damaged or for other colours than the image has.
    """
    size = int.from_bytes(profile[:4], "big")  # LittleCMS makes do with the tags that are there
    if len(profile) >= ICC_HEADER_BYTES and len(profile) <= size - ICC_ALIGNMENT:
        raise Unreadable(
            f"its colour profile cannot be read ({len(profile)} of its {size} bytes are there)"
        )
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space
        mode = MODES_OF.get(space)
        grey = image.mode in GREY
        if mode is None or (mode != image.mode and not (grey and mode in ("RGB", "L"))):
            raise Unreadable(
                f"its colour profile is for {space.strip()}, its pixels are {image.mode}"
            )
        transform = _transform(source, mode)
        if mode == "RGB" and _changes_nothing(transform):
            return image.convert("RGB")
        return transform.apply(image.convert(mode))
    except (OSError, ImageCms.PyCMSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Unreadable(f"its colour profile cannot be read ({reason})") from None


@cache
def matrix_profile(primaries: Primaries, white: tuple[float, float], gamma: float) -> bytes:
    """An ICC profile (version 2, ICC.1:2001-04) of a display with these chromaticities, whose
    light is the coded value to the power of `gamma`."""
    columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in (*primaries, white)]).T
    matrix = columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])
    cones = BRADFORD @ np.array(D50_XYZ) / (BRADFORD @ columns[:, 3])
    adapted = np.linalg.inv(BRADFORD) @ np.diag(cones) @ BRADFORD @ matrix
    words = b"colours of a file\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(words)) + words + bytes(78),
        b"cprt": b"text\0\0\0\0" + b"no copyright\0",
        b"wtpt": _xyz(D50_XYZ),
        **{name: _xyz(adapted[:, n]) for n, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(gamma)),
    }
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(
        ">I4sI4s4s4s", start + len(body), b"", 0x02400000, b"mntr", b"RGB ", b"XYZ "
    )
    header += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    return (header + _xyz(D50_XYZ)[8:]).ljust(128, b"\0") + table + body


def _bmp_profile(path: Path) -> bytes | None:
    """The profile in a BMP (version 5), which Pillow passes over; None without one."""
    content = path.read_bytes()
    header = content[BMP_HEADER:]
    if int.from_bytes(header[:4], "little") < BMP_V5_BYTES:
        return None
    space = header[BMP_SPACE : BMP_SPACE + 4]
    if space == BMP_LINKED:
        raise Unreadable("its colour profile is in another file")
    if space != BMP_EMBEDDED:
        return None
    place, size = struct.unpack_from("<II", header, BMP_PROFILE)
    profile = header[place : place + size]
    if len(profile) < max(size, 1):
        raise Unreadable("its colour profile is damaged")
    return profile


def _cicp(path: Path) -> bytes | None:
    """Primaries, transfer and matrix of a PNG's cICP chunk (PNG 3, 11.3.2.6), which Pillow passes
    over; None without one."""
    with path.open("rb") as file:
        file.seek(len(PNG_SIGNATURE))
        while len(head := file.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            if kind == b"cICP":
                return file.read(min(size, 3))
            if kind in (b"IDAT", b"IEND"):
                break
            file.seek(size + 4, io.SEEK_CUR)
    return None


def _png_profile(info: dict) -> bytes | None:
    """The profile that sRGB, gAMA and cHRM chunks describe (PNG 11.3.2), None for sRGB."""
    if "srgb" in info:
        return None
    gamma, places = info.get("gamma", SRGB_FILE_GAMMA), info.get("chromaticity")
    white, primaries = D65, SRGB_PRIMARIES
    if places:
        white, *(red, green, blue) = zip(places[::2], places[1::2], strict=True)
        primaries = (red, green, blue)
    known = np.array([D65, *SRGB_PRIMARIES])
    same_places = np.abs(np.array([white, *primaries]) - known).max() < CHROMATICITY_TOLERANCE
    if same_places and abs(gamma - SRGB_FILE_GAMMA) < GAMMA_TOLERANCE:
        return None
    try:
        return matrix_profile(primaries, white, 1 / gamma)
    except (ArithmeticError, struct.error, np.linalg.LinAlgError):
        raise Unreadable("its chunks gAMA and cHRM describe no colours") from None


def _transform(source: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether colours all over the cube come out as they went in, but for rounding."""
    steps = np.linspace(0, 255, 18).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    converted = np.asarray(transform.apply(Image.fromarray(cube)))
    return int(np.abs(converted.astype(int) - cube).max()) <= 1


def _xyz(values: object) -> bytes:
    """An XYZ tag of s15Fixed16 numbers."""
    numbers = [round(float(value) * 65536) for value in values]  # type: ignore[attr-defined]
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *numbers)


def _curve(gamma: float) -> bytes:
    """A curve tag with one u8Fixed8 exponent."""
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
