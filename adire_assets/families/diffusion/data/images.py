"""One image file, validated and normalised to sRGB.

`load` gives the whole picture as the photographer saw it or raises `Rejected` with the reason, a
clause that stands after the file's name. The content decides the format, not the name. Nothing is
decoded before its header has been found acceptable.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from adire_assets.core.data_files import regular_file
from adire_assets.families.diffusion.data import colour
from adire_assets.families.diffusion.data.exif import is_truncated

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
SHOWN_FORMATS = "PNG, JPEG, WebP, BMP or TIFF"
STILL_DESPITE_FRAMES = "MPO"  # a JPEG with a preview behind it, as phones write
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
ENDINGS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".tif", ".tiff")
# Endings of pictures in formats that are not read, so that each is told as a rejected image.
OTHER_PICTURES = (
    *(".gif", ".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".tga", ".ico"),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".exr", ".hdr"),
)
WHITE = (255, 255, 255, 255)
NO_IMAGE = f"not an image in {SHOWN_FORMATS} format"
# What Pillow's decoders raise on broken files; MemoryError and interrupts are not among them.
BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError,
    AttributeError, struct.error, NotImplementedError,
)  # fmt: skip


class Rejected(Exception):
    """The file is not taken into the dataset; the message is the reason."""


class Picture(NamedTuple):
    """An image in sRGB (mode RGB); `uncalibrated`: the file says that it is none, but not what."""

    image: Image.Image
    uncalibrated: bool


def load(path: Path, folder: Path, maximum_pixels: int) -> Picture:
    """The image at `path` (below `folder`) as mode RGB in sRGB, upright, alpha on white, 8 bits.

    Rejected when it is not a readable still image in one of `FORMATS`, has more than
    `maximum_pixels` pixels or a colour profile that does not fit, or is a link out of `folder`.
    Pillow's own limit must be off (`own_pixel_limit`).
    """
    try:
        file = regular_file(path, folder)
    except ValueError as clause:
        raise Rejected(str(clause)) from None
    try:
        with Image.open(file, formats=FORMATS) as image:
            _check_header(image, maximum_pixels)
            image.load()
            if is_truncated(image.info.get("exif") or b""):
                raise Rejected("damaged or cut off: its EXIF ends early; save it anew")
            colours = colour.describe_colours(image, path)
            upright = ImageOps.exif_transpose(image)
            return Picture(to_rgb(upright, colours.profile), colours.uncalibrated)
    except Image.UnidentifiedImageError:
        raise Rejected(NO_IMAGE) from None
    except colour.Unreadable as error:
        raise Rejected(f"{error}; save it as sRGB") from None
    except BROKEN as error:
        raise Rejected(f"damaged or cut off: {_clause(error)}") from None


def to_rgb(image: Image.Image, profile: bytes | None = None) -> Image.Image:
    """A decoded image in mode RGB without metadata; 16-bit grey is scaled, not clipped.

    Colours are converted from the ICC `profile` to sRGB (`colour.Unreadable` when it does not fit).
    """
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    elif image.mode not in MODES:
        raise Rejected(f"has pixels of mode {image.mode}; save it with 8 or 16 bits per channel")
    alpha = None
    opaque = "L" if image.mode in colour.GREY else "CMYK" if image.mode == "CMYK" else "RGB"
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    image = image.convert(opaque)
    rgb = image.convert("RGB") if profile is None else colour.to_srgb(image, profile)
    if alpha is not None:
        top = rgb.copy()
        top.putalpha(alpha)
        rgb = Image.alpha_composite(Image.new("RGBA", top.size, WHITE), top).convert("RGB")
    rgb.info = {}
    return rgb


@contextmanager
def own_pixel_limit() -> Iterator[None]:
    """Switch off Pillow's process-wide limit on pixels, which `load` replaces by its caller's."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _check_header(image: Image.Image, maximum_pixels: int) -> None:
    width, height = image.size
    if width * height > maximum_pixels:
        raise Rejected(
            f"{width}x{height} pixels are more than data.maximum_pixels ({maximum_pixels})"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != STILL_DESPITE_FRAMES:
        raise Rejected(f"animated or of several pages ({frames}); save one frame as an image")


def _clause(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
