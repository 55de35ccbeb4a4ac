"""Asking a served model for images, and the provenance inside their PNG files.

    answer = generate("127.0.0.1:8080", "indigo", "a photo in nigerian_adire_style, circles")
    save_png(answer.images[0], Path("out.png"), answer.provenance)
    read_provenance(Path("out.png"))["release"]

An image's own seed is the request's seed plus the image's position; `save_png` takes it down.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from adire_assets.core.disk import written_whole
from adire_assets.core.errors import UserError
from adire_assets.serving.connection import Endpoint, connect

PROVENANCE_KEY = "adire"  # the PNG text chunk
INPUTS = (
    ("prompt", "BYTES", np.object_),
    ("negative_prompt", "BYTES", np.object_),
    ("seed", "INT64", np.int64),
    ("num_inference_steps", "INT32", np.int32),
    ("guidance_scale", "FP32", np.float32),
    ("num_images", "INT32", np.int32),
)


@dataclass(frozen=True)
class Generated:
    """An answer: uint8 [n, H, W, 3] RGB images, the release that drew them, and its provenance."""

    images: np.ndarray
    release: int
    provenance: dict[str, Any]


def generate(
    endpoint: Endpoint | str,
    model: str,
    prompt: str,
    *,
    negative_prompt: str = "",
    seed: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    num_images: int = 1,
    release: int | None = None,
    timeout: float = 600.0,
) -> Generated:
    """Images from the gateway or Triton at `endpoint`; None leaves a choice to the server.

    `release` asks for one release, otherwise the live one answers; `timeout` in seconds.
    `Unanswered` with the server's own sentence when it refuses, with address and hint when nobody
    answers; UserError when the answer is not one of a release.
    """
    from tritonclient.grpc import InferInput

    values: dict[str, Any] = {
        "prompt": prompt.encode(),
        "negative_prompt": negative_prompt.encode(),
        "seed": seed,
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "num_images": num_images,
    }
    inputs = []
    for name, kind, dtype in INPUTS:
        value = values[name]
        if value is None:
            continue
        tensor = InferInput(name, [1, 1], kind)
        try:
            tensor.set_data_from_numpy(np.array([[value]], dtype=dtype))
        except OverflowError:
            raise UserError(f"{name} is {value}, too large for {kind}") from None
        inputs.append(tensor)
    endpoint = Endpoint(endpoint) if isinstance(endpoint, str) else endpoint
    with connect(endpoint) as client:
        answer = client.infer(
            model,
            inputs,
            model_version=str(release or ""),
            client_timeout=timeout,
            headers=endpoint.headers,
        )
    try:
        found = Generated(
            images=answer.as_numpy("images"),
            release=int(answer.as_numpy("release")[0]),
            provenance=json.loads(answer.as_numpy("provenance")[0]),
        )
        wrong = "" if _are_images(found.images) else "its images are none"
    except (TypeError, IndexError, ValueError) as error:  # an output is missing, empty or no JSON
        wrong = str(error)
    if wrong:
        raise UserError(
            f"{model} at {endpoint.address} gave an answer that no release of this project gives "
            f"({wrong}); `adire status` shows what is served there"
        )
    return found


def _are_images(images: np.ndarray | None) -> bool:
    """Whether this is uint8 [n, H, W, 3] with n, H and W above 0."""
    if images is None or images.dtype != np.uint8 or images.ndim != 4:
        return False
    return images.shape[3] == 3 and images.size > 0


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


def read_provenance(path: Path) -> dict[str, Any]:
    """The provenance inside a PNG file. UserError when there is none."""
    try:
        with Image.open(path) as image:
            image.load()
            text = getattr(image, "text", {}).get(PROVENANCE_KEY)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError) as error:
        raise UserError(f"{path} is not an image that can be read: {error}") from None
    try:
        found = json.loads(text) if text else None
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise UserError(
            f"{path} carries no provenance: it was not drawn by a served model of this project, or "
            "a program that edited it took the text chunks out"
        )
    return found
