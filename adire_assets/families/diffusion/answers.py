"""The files of answers: PNGs, each with its provenance inside.

An image's own seed is the request's seed plus the image's position; its file takes it down.
"""

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from adire_assets.core.answer import Answer, Progress
from adire_assets.core.answer_token import digest
from adire_assets.core.disk import written_whole
from adire_assets.core.errors import UserError
from adire_assets.families.diffusion import serve

PROVENANCE_KEY = "adire"  # the PNG text chunk
LARGEST_PIXELS = 2**26
PREVIEW_QUALITY = 70  # of a JPEG
# An image may have been saved in another; a file may come from anybody, so no more are tried.
FORMATS = ("PNG", "JPEG", "WEBP")


def files(out: Path, request: Mapping[str, Any]) -> list[Path]:
    """The files of the answer to a request: -1, -2 ... for more images than one."""
    count = request.get("num_images") or 1
    numbers = range(1, count + 1)
    return [out] if count == 1 else [out.with_stem(f"{out.stem}-{number}") for number in numbers]


def save(answer: Answer, paths: Sequence[Path]) -> Iterator[str]:
    """Write an answer's images into its `files`; a sentence for each, and for what was left out."""
    for name, rest in answer.provenance.get("left_out", {}).items():
        yield f"{name} is longer than the text encoder reads; not drawn: {rest!r}"
    for index, (path, image) in enumerate(zip(paths, answer.content, strict=True)):
        save_png(image, path, answer.provenance, index)
        drawn_from = answer.provenance["request"]["seed"] + index
        yield f"{path}: release {answer.release}, seed {drawn_from}"


def save_png(image: np.ndarray, path: Path, provenance: dict[str, Any], index: int = 0) -> None:
    """Write one uint8 [H, W, 3] image, the `index`-th of its request, with its provenance inside.

    The chunk `adire` holds the provenance as JSON, with the image's own seed as `image_seed`.
    """
    request = provenance.get("request", {})
    own = {**provenance, "image_index": index}
    if "seed" in request:
        own["image_seed"] = request["seed"] + index
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("Title", request.get("prompt", ""))
    chunks.add_text("Software", f"Adire Assets, {own.get('model')} release {own.get('release')}")
    chunks.add_itxt(PROVENANCE_KEY, json.dumps(own, ensure_ascii=False))
    with written_whole(path) as temporary:
        Image.fromarray(image, "RGB").save(temporary, format="PNG", pnginfo=chunks)


def read_provenance(path: Path) -> dict[str, Any] | None:
    """The provenance inside a PNG file; None for a file that is no image.

    UserError for an image that cannot be read, is larger than any that is drawn, or has none.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > LARGEST_PIXELS:
                raise UserError(
                    f"{path} has {image.width} x {image.height} pixels, too many to read"
                )
            image.load()
            text = getattr(image, "text", {}).get(PROVENANCE_KEY)
    except UnidentifiedImageError:
        return None
    except (Image.DecompressionBombError, OSError, ValueError) as error:
        raise UserError(f"{path} is not an image that can be read: {error}") from None
    try:
        found = json.loads(text) if text else None
    except (json.JSONDecodeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(
            f"{path} carries no provenance: it was not drawn by a served model of this project, or "
            "a program that edited it took the text chunks out"
        )
    return found


def part(provenance: Mapping[str, Any]) -> int:
    """Which image of its request, from 0, the file with this provenance is."""
    index = provenance.get("image_index", 0)
    return index if isinstance(index, int) else 0


def rewritten(file: Path, out: Path, expected: str) -> bool:
    """Write one image of an answer anew, with nothing in its file but pixels and provenance; False,
    with nothing written, unless `expected` is the SHA-256 of its pixels (see `core.answer_token`).
    UserError as for `read_provenance`."""
    provenance = read_provenance(file)
    if provenance is None:
        raise UserError(f"{file} is no image of a served model")
    with Image.open(file, formats=FORMATS) as image:
        pixels = np.asarray(image.convert("RGB"))
    if digest(pixels.tobytes()) != expected:
        return False
    try:
        save_png(pixels, out, provenance, part(provenance))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{file}: its provenance is none that was saved ({error!r})") from None
    return True


def with_previews(request: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The request, asking for about `count` previews of each image on the way."""
    steps = request.get("num_inference_steps", count)
    return {**request, "preview_steps": max(1, steps // count)}


def progress(piece: serve.Piece) -> Progress:
    """What a piece of a stream shows."""
    picture = None
    if piece.preview is not None:
        file = io.BytesIO()
        Image.fromarray(piece.preview, "RGB").save(file, "jpeg", quality=PREVIEW_QUALITY)
        picture = file.getvalue()
    return Progress(piece.step / piece.steps, picture, piece.images)


def position(provenance: Mapping[str, Any]) -> str:
    """Which of the answer's files the one with this provenance is."""
    return f"image {provenance['image_index']} of the request, seed {provenance['image_seed']}"


def demonstrate(
    evaluation: Path, ask: Callable[[Mapping[str, Any]], Answer], out: Path
) -> Iterator[str]:
    """An evaluated prompt drawn with another seed, in the file `out`.png; then its summary."""
    file = out.with_suffix(".png")
    yield from save(ask(serve.again(serve.requests(evaluation)[0], Random(42))), [file])
    yield f"image={file} CLIP-S={mean(serve.expected(evaluation)):.3f}"
