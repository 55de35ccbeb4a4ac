"""One image file, validated and normalised to RGB.

`load` gives the whole picture as the photographer saw it or raises `Rejected` with the reason, a
clause that stands after the file's name. The content decides the format, not the name. Nothing is
decoded before its header has been found acceptable.
"""

import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
SHOWN_FORMATS = "PNG, JPEG, WebP, BMP or TIFF"
STILL_DESPITE_FRAMES = "MPO"  # a JPEG with a preview behind it, as phones write
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
WHITE = (255, 255, 255, 255)
# What Pillow's decoders raise on broken files; MemoryError and interrupts are not among them.
BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError,
    AttributeError, struct.error, NotImplementedError,
)  # fmt: skip


class Rejected(Exception):
    """The file is not taken into the dataset; the message is the reason."""


def load(path: Path, folder: Path, maximum_pixels: int) -> Image.Image:
    """The image at `path` (below `folder`) as mode RGB, upright, alpha on white, 8 bits.

    Rejected when it is not a readable still image in one of `FORMATS`, has more than
    `maximum_pixels` pixels, or is a link out of `folder`. Pillow's own limit must be off
    (`own_pixel_limit`).
    """
    try:
        with Image.open(_regular(path, folder), formats=FORMATS) as image:
            _check_header(image, maximum_pixels)
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except Image.UnidentifiedImageError:
        raise Rejected(f"not an image in {SHOWN_FORMATS} format") from None
    except BROKEN as error:
        raise Rejected(f"damaged or cut off: {_clause(error)}") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """A decoded image in mode RGB without metadata; 16-bit grey is scaled, not clipped."""
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    elif image.mode not in MODES:
        raise Rejected(f"has pixels of mode {image.mode}; save it with 8 or 16 bits per channel")
    if image.has_transparency_data:
        top = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", top.size, WHITE), top)
    rgb = image.convert("RGB")
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


def _regular(path: Path, folder: Path) -> Path:
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(folder.resolve()):
            raise Rejected(
                "a link that leads out of the folder; put the file itself there (under DVC: `dvc "
                "config cache.type reflink,copy`, then `dvc checkout --relink`)"
            )
        if not stat.S_ISREG(real.stat().st_mode):
            raise Rejected("not a regular file")
        with real.open("rb"):
            return real
    except (FileNotFoundError, RuntimeError):
        raise Rejected("a link that leads nowhere") from None
    except OSError as error:
        raise Rejected(f"cannot be read ({error.strerror})") from None


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
