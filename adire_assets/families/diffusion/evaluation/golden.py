"""Golden images: what a release drew when it was evaluated, to be drawn again after an upgrade.

A golden set is a folder

    00.png, 01.png ...    the images
    golden.json           requests (the whole batch that was drawn together), images (of its first
                          requests: file, SHA-256 of the raw pixels, perceptual hash), threads,
                          device, conditions (all that decides the bits, see `conditions`), and
                          quantization, if there was one

`redraw` draws the same batch with the same thread count by the software of now. Under the recorded
conditions every pixel must come out equal; under others the difference is measured, and the change
is within tolerance when nobody can see it in any image:

    PSNR >= 40 dB       an error of 2.55 levels of 255 (root mean square), 1 % of the range: about
                        the contrast that the eye can just tell
    SSIM >= 0.98        the structure is kept; `serve.parity` asks the same of a GPU
    perceptual hash     at most 4 of 64 bits, which is what makes two images near duplicates in
                        `data.near_duplicate_distance`

On the CPU another batch or thread count sums in another order, which moves pixels by 2 levels of
255 at most: 42 dB, so it is within tolerance. Nothing here imports torch at module level.
"""

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import imagehash
import numpy as np
from PIL import Image

from adire_assets.core.errors import UserError
from adire_assets.core.store import Artifact, read_json, write_json
from adire_assets.core.worker import Progress
from adire_assets.families.diffusion import FAMILY

MAXIMUM_IMAGES = 8  # kept of a batch
SMALLEST_PSNR = 40.0  # decibels
SMALLEST_SSIM = 0.98
LARGEST_HASH_DISTANCE = 4  # of 64 bits
EXACT, WITHIN, CHANGED = "exact", "within tolerance", "changed"
SAMPLING = Path(__file__).parents[1] / "engine" / "sampling.py"
REQUEST = (
    *("prompt", "negative_prompt", "seed", "num_inference_steps", "guidance_scale"),
    "scheduler",  # where it is not the base's own
)


@dataclass(frozen=True)
class Difference:
    """One image drawn again; the measures are None when every pixel is equal."""

    prompt: str
    seed: int
    exact: bool
    psnr_decibels: float | None = None
    ssim: float | None = None
    hash_distance: int | None = None  # bits of 64

    @property
    def visible(self) -> bool:
        if self.psnr_decibels is None or self.ssim is None or self.hash_distance is None:
            return not self.exact
        return (
            self.psnr_decibels < SMALLEST_PSNR
            or self.ssim < SMALLEST_SSIM
            or self.hash_distance > LARGEST_HASH_DISTANCE
        )

    def sentence(self) -> str:
        name = f"{self.prompt!r} seed {self.seed}"
        if self.exact:
            return f"{name}: equal"
        return (
            f"{name}: PSNR {self.psnr_decibels:.1f} dB, SSIM {self.ssim:.4f}, perceptual hash "
            f"{self.hash_distance} of 64 bits"
        )


@dataclass(frozen=True)
class Comparison:
    """`verdict`: "exact", "within tolerance" or "changed"; the images come worst first."""

    verdict: str
    images: tuple[Difference, ...]
    must_be_equal: bool  # software and machine are the same, and no GPU
    conditions: dict[str, list[str | None]]  # what is another: [then, now]

    @property
    def changed(self) -> bool:
        """Whether the images are others, to the eye."""
        return self.verdict == CHANGED

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "images": [asdict(image) for image in self.images]}

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> "Comparison":
        images = tuple(Difference(**image) for image in value["images"])
        return Comparison(**{**value, "images": images})

    def sentences(self) -> list[str]:
        """One line for each image."""
        return [image.sentence() for image in self.images]

    def sentence(self) -> str:
        """One line for people, without the name of what was drawn."""
        count = len(self.images)
        other = sum(not image.exact for image in self.images)
        why = ", ".join(
            # Thirty names of instruction sets are no reading matter.
            name if name == "cpu_features" else f"{name} {then} -> {now}"
            for name, (then, now) in self.conditions.items()
        )
        why = why or "software and machine are the same"
        if not other:
            return f"exact: {count} of {count} images have the same pixels ({why})"
        allowed = (
            "every pixel must be equal where software and machine are"
            if self.must_be_equal
            else f"invisible is at least {SMALLEST_PSNR:.0f} dB, {SMALLEST_SSIM} and at most "
            f"{LARGEST_HASH_DISTANCE} bits"
        )
        worst = self.images[0].sentence()
        return f"{self.verdict}: {other} of {count} images differ, worst {worst}; {allowed} ({why})"


def evaluated_entries(evaluation: Artifact) -> list[dict[str, Any]]:
    """The entries of images.json of the first forward pass that drew most images."""
    entries = evaluation.json("images.json")
    most = max(entry["batch_images"] for entry in entries)
    return [entry for entry in entries if entry["batch_images"] == most][:most]


def conditions(
    environment: Mapping[str, str], hardware: Mapping[str, Any], threads: int | None = None
) -> dict[str, str | None]:
    """All that decides the bits of an image: libraries, device, and the CPU or the driver.

    `environment` and `hardware` as in a manifest; `threads` takes the place of those in there.
    """
    found: dict[str, str | None] = {name: environment.get(name) for name in FAMILY.packages}
    found["device"] = environment.get("device")
    if found["device"] == "cuda":
        return found | {"cuda": environment.get("cuda"), "driver": hardware.get("driver")}
    return found | {
        "threads": str(threads) if threads else environment.get("threads"),
        "machine": environment.get("machine"),
        "cpu": hardware.get("cpu"),
        "cpu_features": hardware.get("cpu_features"),
    }


def write_evaluated(evaluation: Artifact, folder: Path) -> None:
    """The first full batch of an evaluation as the golden set in the empty `folder`."""
    entries = evaluated_entries(evaluation)
    manifest = evaluation.manifest
    made_with = conditions(manifest["recipe"]["environment"], manifest["hardware"])
    requests = [{name: entry[name] for name in REQUEST if name in entry} for entry in entries]
    images = [_read(evaluation.path / entry["file"]) for entry in entries[:MAXIMUM_IMAGES]]
    quantization = manifest["recipe"]["config"].get("quantization")
    write(folder, requests, images, made_with, quantization)


def write(
    folder: Path,
    requests: Sequence[Mapping[str, Any]],
    images: Sequence[np.ndarray],
    made_with: Mapping[str, str | None],
    quantization: str | None = None,
) -> None:
    """Write a golden set. `requests` were drawn together; uint8 [H, W, 3] `images`, of the first
    of them, are kept."""
    kept = []
    for place, image in enumerate(images):
        file = f"{place:02}.png"
        Image.fromarray(image).save(folder / file, optimize=True)
        kept.append({"file": file, "sha256": pixel_hash(image), "phash": str(_phash(image))})
    threads = made_with.get("threads")
    write_json(
        folder / "golden.json",
        {
            "requests": [dict(request) for request in requests],
            "images": kept,
            "device": made_with["device"],
            "threads": int(threads) if threads else None,
            "conditions": dict(made_with),
            **({"quantization": quantization} if quantization else {}),
        },
    )


def pixel_hash(image: np.ndarray) -> str:
    """SHA-256 of the bytes of uint8 [H, W, 3], row by row."""
    return sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def redraw(
    *,
    golden: str,
    release: str,
    base: str,
    device: str,
    now: dict[str, str | None],
    output: str,
    progress: Progress,
) -> dict[str, Any]:
    """Draw a golden set again and compare; for a worker child.

    The folders of a golden set, a release's content, which draws with its own sampling.py, and a
    base model. `now` are the `conditions` of this process. Writes the images and comparison.json
    into `output`, and returns the latter.
    """
    settings = read_json(Path(golden) / "golden.json")
    progress(f"golden images: drawing {len(settings['requests'])} again")
    images = draw(
        settings["requests"],
        Path(release) / SAMPLING.name,
        Path(base) / "pipeline",
        read_json(Path(base) / "base.json")["variant"],
        Path(release) / "adapter",
        device,
        settings["threads"],
        settings.get("quantization"),
    )
    drawn = images[: len(settings["images"])]
    comparison = compare(Path(golden), drawn, now)
    for entry, image in zip(settings["images"], drawn, strict=True):
        Image.fromarray(image).save(Path(output) / entry["file"])
    result = comparison.as_dict()
    write_json(Path(output) / "comparison.json", result)
    return result


def draw(
    requests: Sequence[Mapping[str, Any]],
    sampling: Path,
    base: Path,
    variant: str | None,
    adapter: Path | None,
    device: str,
    threads: int | None,
    quantization: str | None = None,
) -> list[np.ndarray]:
    """uint8 [H, W, 3] for each request, all drawn in one batch."""
    code = _load(sampling)
    # The code of earlier releases does not know it.
    options = {"quantization": quantization} if quantization else {}
    sampler = code.Sampler(
        base,
        variant=variant,
        adapter=adapter,
        device=device,
        threads=threads if device == "cpu" else None,
        batch_images=len(requests),
        **options,
    )
    return [images[0] for images in sampler.generate([code.Request(**r) for r in requests])]


def compare(golden: Path, drawn: Sequence[np.ndarray], now: Mapping[str, str | None]) -> Comparison:
    """How the images differ from those of the golden set, under the `conditions` of now.

    UserError when they have another size.
    """
    settings = read_json(golden / "golden.json")
    images = tuple(
        _difference(request, entry, golden, image)
        for request, entry, image in zip(
            settings["requests"], settings["images"], drawn, strict=False
        )
    )
    then = settings["conditions"]
    moved = {
        name: [then.get(name), now.get(name)]
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    }
    # A GPU need not give the same bits twice.
    must_be_equal = not moved and settings["device"] == "cpu"
    verdict = CHANGED
    if all(image.exact for image in images):
        verdict = EXACT
    elif not must_be_equal and not any(image.visible for image in images):
        verdict = WITHIN
    worst_first = sorted(images, key=lambda i: (i.exact, i.psnr_decibels or 0.0))
    return Comparison(verdict, tuple(worst_first), must_be_equal, moved)


def _difference(
    request: Mapping[str, Any], entry: Mapping[str, Any], golden: Path, image: np.ndarray
) -> Difference:
    prompt, seed = request["prompt"], request["seed"]
    if pixel_hash(image) == entry["sha256"]:
        return Difference(prompt, seed, exact=True)
    kept = _read(golden / entry["file"])
    if kept.shape != image.shape:
        raise UserError(
            f"{golden / entry['file']} has {kept.shape[1]}x{kept.shape[0]} pixels and is now drawn "
            f"with {image.shape[1]}x{image.shape[0]}; the base model is another"
        )
    psnr, ssim = _similarity(kept, image)
    distance = int(_phash(image) - imagehash.hex_to_hash(entry["phash"]))
    return Difference(prompt, seed, False, round(psnr, 3), round(ssim, 6), distance)


def _similarity(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """(PSNR in dB, SSIM of Wang et al. 2004) of two different uint8 [H, W, 3] images."""
    import torch
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    left, right = (
        torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() for image in (first, second)
    )
    similarity = structural_similarity_index_measure(left, right, data_range=255.0)
    assert isinstance(similarity, torch.Tensor)
    return float(peak_signal_noise_ratio(left, right, data_range=255.0)), float(similarity)


def _load(sampling: Path) -> ModuleType:
    """The module in the file `sampling`, such as a release's own, and those that it imports from
    beside it: a package apart from all others."""
    if not sampling.is_file():
        raise UserError(f"{sampling} is gone; materialize the release again")
    folder = str(sampling.parent)
    package = ModuleType(f"release_{sha256(folder.encode()).hexdigest()[:16]}")
    package.__path__ = [folder]
    sys.modules.setdefault(package.__name__, package)
    return importlib.import_module(f"{package.__name__}.{sampling.stem}")


def _phash(image: np.ndarray) -> imagehash.ImageHash:
    """64 bits, as the dataset's near-duplicate search has them."""
    return imagehash.phash(Image.fromarray(image))


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
