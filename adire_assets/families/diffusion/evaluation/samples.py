"""The images of an evaluation as people are shown them. An evaluation made by an older version may
lack files or keys; what is not there is left out, never made up."""

import io
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from adire_assets.core.files import read_json_lines
from adire_assets.core.sample import Answer, Picture, Sample
from adire_assets.core.store import read_json

PICTURE_SIDE = 512  # pixels; larger pictures are reduced to it
WEBP_QUALITY = 90


def samples(evaluation: Path, dataset: Path | None) -> list[Sample]:
    """What the evaluation artifact in this folder drew, in its order, beside real images of the
    dataset: the nearest one, as the evaluation found it, else one with the prompt as its caption.
    """
    listed = _content(evaluation / "images.json", [])
    report = _content(evaluation / "report.json", {})
    scored = {(one["prompt"], one["seed"]): one for one in report.get("per_image", ())}
    captions = _captions(dataset)
    found = []
    for entry in listed:
        scores = scored.get((entry["prompt"], entry["seed"]), {})
        adapter = _answer(evaluation, entry.get("file"), _scores(scores, ""))
        base = _answer(evaluation, entry.get("base_file"), _scores(scores, "_base"))
        real, note = scores.get("nearest_held_out"), "the nearest one"
        if not real:
            real, note = captions.get(entry["prompt"]), "the same caption"
        if adapter:
            name = Path(entry["file"]).stem
            shown = _answer(dataset, real, {}, note)
            found.append(Sample(name, entry["prompt"], entry["seed"], adapter, base, shown))
    return found


def picture(path: Path, side: int = PICTURE_SIDE) -> Picture:
    """The image in a file as WebP, reduced to fit `side` pixels."""
    with Image.open(path) as image:
        drawn = image.convert("RGB")
    drawn.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    drawn.save(buffer, "WEBP", quality=WEBP_QUALITY, method=4)
    return Picture("image/webp", buffer.getvalue(), drawn.width, drawn.height)


def _answer(
    folder: Path | None, name: str | None, scores: Mapping[str, float], note: str = ""
) -> Answer | None:
    path = (folder / name).resolve() if folder and name else None
    if folder is None or path is None or not path.is_relative_to(folder.resolve()):
        return None
    return Answer(partial(picture, path), scores, note) if path.is_file() else None


def _scores(entry: Mapping[str, Any], suffix: str) -> dict[str, float]:
    """The finite scores of an image with the LoRA, or with the suffix "_base" without it."""
    return {
        name.removesuffix("_base"): float(value)
        for name, value in entry.items()
        if isinstance(value, int | float) and math.isfinite(value) and name != "seed"
        if name.endswith("_base") == bool(suffix)
    }


def _captions(dataset: Path | None) -> dict[str, str]:
    """{caption: the first held-out image with it}."""
    file = dataset / "held_out.jsonl" if dataset else None
    rows = read_json_lines(file) if file and file.is_file() else []
    return {row["text"]: row["file_name"] for row in reversed(rows)}


def _content(path: Path, empty: Any) -> Any:
    return read_json(path) if path.is_file() else empty
