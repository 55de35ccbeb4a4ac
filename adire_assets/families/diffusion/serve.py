"""What a diffusion release is asked, and whether it answers with the evaluated images.

On the CPU a pixel may differ by 2 levels of 255, since another batch size sums in another order.
When a GPU drew either side, the structural similarity must be at least 0.98.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from PIL import Image

from adire_assets.core.answer import Answer, UsualRequest
from adire_assets.core.errors import UserError
from adire_assets.core.files import read_json

LARGEST_DIFFERENCE = 2  # levels of 255, on the CPU
SMALLEST_SSIM = 0.98  # with a GPU
# A step with several adapters in its pass takes so many times what one with merged weights does, as
# measured (docs/serving.md, Figures).
SEVERAL_ADAPTERS = 1.7
MEASURED_STEPS = 4
FIRST_SEED = 1_000_000  # far from the small seeds that evaluations use
INPUTS = {  # of the Triton backend
    "prompt": np.object_,
    "negative_prompt": np.object_,
    "seed": np.int64,
    "num_inference_steps": np.int32,
    "guidance_scale": np.float32,
    "num_images": np.int32,
    "adapters": np.object_,
    "preview_steps": np.int32,  # of streams alone
}
EVALUATED = ("prompt", "negative_prompt", "seed", "num_inference_steps", "guidance_scale")


def requests(evaluation: Path) -> list[dict[str, Any]]:
    """What each evaluated image was asked for by."""
    entries = read_json(evaluation / "images.json")
    return [{name: entry[name] for name in EVALUATED} for entry in entries]


def expected(evaluation: Path) -> list[float]:
    """Of each evaluated image, the mean CLIP-S of those with its prompt."""
    entries = requests(evaluation)
    images = read_json(evaluation / "report.json")["per_image"]
    scores: dict[str, list[float]] = {}
    for entry, image in zip(entries, images, strict=True):
        scores.setdefault(entry["prompt"], []).append(image["clip_s"] or 0.0)
    return [mean(scores[entry["prompt"]]) for entry in entries]


def repeated(serving: Mapping[str, Any]) -> int:
    """How many evaluated images a release must repeat."""
    return int(serving["parity_images"])


def probe(request: Mapping[str, Any]) -> dict[str, Any]:
    """The cheapest request of this kind."""
    return {**request, "num_inference_steps": 1}


def again(request: Mapping[str, Any], chance: random.Random) -> dict[str, Any]:
    """The same with a seed that no evaluation has used."""
    return {**request, "seed": FIRST_SEED + chance.randrange(FIRST_SEED)}


def inputs(request: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """{input of the backend: [1, 1]}. UserError for a number that its type does not hold."""
    found = {}
    for name, value in request.items():
        kept = value.encode() if isinstance(value, str) else value
        kind = np.dtype(INPUTS[name])
        try:
            found[name] = np.array([[kept]], dtype=kind)
        except OverflowError:
            raise UserError(f"{name} is {value}, too large for {kind.name.upper()}") from None
    return found


def prompt(inputs: Mapping[str, np.ndarray]) -> str:
    """The prompt of `inputs`. KeyError or ValueError without one."""
    return bytes(inputs["prompt"].reshape(-1)[0]).decode()


def whole(pieces: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """`content` of an answer that came in pieces."""
    return content(pieces[-1])


def content(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """uint8 [n, H, W, 3] RGB images, n, H and W above 0. ValueError when there are none."""
    images = outputs["images"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
        raise ValueError("its images are none")
    return images


@dataclass(frozen=True)
class Piece:
    """What a piece of a stream shows: `step` of `steps` passes are done. `preview` is image `image`
    of the request as it is now, uint8 [H, W, 3] RGB; `images` come last, see `content`."""

    step: int
    steps: int
    preview: np.ndarray | None = None
    image: int | None = None
    images: np.ndarray | None = None


def piece(outputs: Mapping[str, np.ndarray]) -> Piece:
    """A piece of a stream. KeyError or ValueError when it is none."""
    step, steps = outputs["progress"].tolist()
    if "images" in outputs:
        return Piece(step, steps, images=content(outputs))
    if "preview" in outputs:
        return Piece(step, steps, outputs["preview"], int(outputs["preview_image"][0]))
    return Piece(step, steps)


def parity(evaluation: Path, answers: Sequence[Answer], on_cpu: bool) -> dict[str, Any]:
    """{passed, explanation, images, largest_difference, smallest_ssim} of the answers to the first
    evaluated requests; `on_cpu`: nothing of both sides was drawn by a GPU."""
    pairs = []
    for answer, entry in zip(answers, read_json(evaluation / "images.json"), strict=False):
        with Image.open(evaluation / entry["file"]) as image:
            pairs.append((answer.content[0], np.asarray(image.convert("RGB"))))
    return compare(pairs, on_cpu=on_cpu)


def together(serving: Mapping[str, Any], request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Short requests like this one, as many as fill a pass."""
    steps = min(MEASURED_STEPS, serving.get("maximum_inference_steps", MEASURED_STEPS))
    short = {**request, "num_inference_steps": steps}
    return [
        {**short, "seed": FIRST_SEED + place}
        for place in range(serving.get("maximum_batch_size", 1))
    ]


def usual_request(
    serving: Mapping[str, Any], told: Sequence[Mapping[str, Any]]
) -> UsualRequest | None:
    """One image of the default steps and guidance, by the provenance of answers to other requests.

    A guided step counts as two, which a pass computes side by side. Releases that earlier versions
    have made do not tell.
    """
    known = [(one["request"], one["engine_seconds"]) for one in told if "engine_seconds" in one]
    if not known:
        return None
    names = ("num_images", "num_inference_steps", "guidance_scale")
    step = min(
        seconds["denoising"] / _steps(*(asked[name] for name in names)) for asked, seconds in known
    )
    decoding = min(seconds["decoding"] / asked["num_images"] for asked, seconds in known)
    steps = _steps(1, serving["default_inference_steps"], serving["default_guidance_scale"])
    engine, several = serving["base_model"], SEVERAL_ADAPTERS
    if quantization := serving.get("quantization"):  # whose adapters are never merged
        engine, several = f"{engine}-{quantization}", 1.0
    # Requests that mix adapters are like those that share a pass with other releases'.
    mixed = several if serving.get("mixes_with") else 1.0
    return UsualRequest(engine, step * steps * mixed + decoding, several / mixed)


def _steps(images: int, steps: int, guidance: float) -> int:
    """Of the denoiser, for one row."""
    return images * steps * (2 if guidance > 1 else 1)


def compare(pairs: Sequence[tuple[np.ndarray, np.ndarray]], *, on_cpu: bool) -> dict[str, Any]:
    """`parity` of (served, evaluated) pairs of uint8 [H, W, 3] images."""
    if not pairs:
        return _facts(False, "the evaluation has no images to compare with", 0, None, None)
    shapes = {(served.shape, evaluated.shape) for served, evaluated in pairs}
    if any(served != evaluated for served, evaluated in shapes):
        return _facts(
            False, f"served and evaluated images differ in shape: {shapes}", 0, None, None
        )
    count = len(pairs)
    difference = max(
        int(np.abs(served.astype(int) - evaluated.astype(int)).max()) for served, evaluated in pairs
    )
    if on_cpu:
        passed = difference <= LARGEST_DIFFERENCE
        says = (
            f"{count} evaluated images repeated by the release differ by at most {difference} of "
            f"255 levels, allowed are {LARGEST_DIFFERENCE}"
        )
        return _facts(passed, says, count, difference, None)
    similarity = min(_ssim(served, evaluated) for served, evaluated in pairs)
    says = (
        f"{count} evaluated images repeated by the release have a structural similarity of at "
        f"least {similarity:.4f}, required is {SMALLEST_SSIM}"
    )
    return _facts(similarity >= SMALLEST_SSIM, says, count, difference, similarity)


def _facts(
    passed: bool, explanation: str, images: int, difference: int | None, ssim: float | None
) -> dict[str, Any]:
    return {
        "passed": passed,
        "explanation": explanation,
        "images": images,
        "largest_difference": difference,
        "smallest_ssim": ssim,
    }


def _ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004) of two uint8 [H, W, 3] images, -1 to 1."""
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    left, right = (
        torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() for image in (first, second)
    )
    similarity = structural_similarity_index_measure(left, right, data_range=255.0)
    assert isinstance(similarity, torch.Tensor)
    return float(similarity)
