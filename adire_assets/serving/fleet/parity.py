"""Whether a release answers the evaluated prompts with the evaluated images.

`compare_on_scratch_server` loads the release on a Triton of its own, which no user's request can
reach; `compare_at` asks a Triton that runs. Both ask for the first `parity_images` images of the
evaluation. On the CPU a pixel may differ by 2 levels of 255, since another batch size sums in
another order. When a GPU drew either side, the structural similarity must be at least 0.98.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from adire_assets.core.project import Project
from adire_assets.core.store import Store
from adire_assets.serving import release
from adire_assets.serving.client import Generated, generate
from adire_assets.serving.fleet.scratch import scratch_server
from adire_assets.serving.release import ReleaseRecord
from adire_assets.serving.slot_server import kind_speaking

LARGEST_DIFFERENCE = 2  # levels of 255, on the CPU
SMALLEST_SSIM = 0.98  # with a GPU
LOAD_SECONDS = 600.0


def compare_on_scratch_server(
    project: Project, record: ReleaseRecord, device: str, progress: Callable[[str], None]
) -> dict[str, Any]:
    """{passed, explanation, images, largest_difference, smallest_ssim, device, software}, as JSON.

    `software` is what the release says that it draws with (see `gates.compatibility`).
    `device` is "cpu", "cuda" or "auto". UserError when the release does not load, or refuses an
    evaluated request.
    """

    def fill(slot: Path) -> str:
        release.install(project, record, slot)
        return record.model

    progress(f"loading release {record.number} of {record.model} on a scratch Triton")
    kind = kind_speaking(release.family_of_release(project, record).protocols)
    with scratch_server(project, kind, device, fill, LOAD_SECONDS) as address:
        return compare_at(project, record, address, progress)


def compare_at(
    project: Project, record: ReleaseRecord, address: str, progress: Callable[[str], None]
) -> dict[str, Any]:
    """The same, asked of the Triton at `address` that has the release loaded."""
    store = Store(project)
    evaluation = store.open(record.evaluation)
    count = store.open(record.repository).json("serving.json")["parity_images"]
    entries = evaluation.json("images.json")[:count]
    evaluated_on = evaluation.manifest["recipe"]["environment"].get("device", "cpu")
    progress(
        f"asking release {record.number} of {record.model} for {len(entries)} evaluated images"
    )
    pairs = []
    served_on, software = "cpu", None
    for entry in entries:
        answer = ask(address, record.model, entry, record.number)
        served_on = answer.provenance["device"]
        software = answer.provenance.get("software")
        with Image.open(evaluation.path / entry["file"]) as image:
            pairs.append((answer.images[0], np.asarray(image.convert("RGB"))))
    facts = judge(pairs, on_cpu=evaluated_on == served_on == "cpu")
    return facts | {"device": served_on, "software": software}


def ask(address: str, model: str, entry: dict[str, Any], number: int | None) -> Generated:
    """The answer to one entry of an evaluation's images.json, by release `number` or the live."""
    return generate(
        address,
        model,
        entry["prompt"],
        negative_prompt=entry["negative_prompt"],
        seed=entry["seed"],
        num_inference_steps=entry["num_inference_steps"],
        guidance_scale=entry["guidance_scale"],
        release=number,
    )


def judge(pairs: list[tuple[np.ndarray, np.ndarray]], *, on_cpu: bool) -> dict[str, Any]:
    """The facts about (served, evaluated) pairs of uint8 [H, W, 3] images."""
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
