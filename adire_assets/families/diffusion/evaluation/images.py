"""The images that an evaluation looks at: drawn once for an adapter and once for its bare base.

Contract: `draw` is called in a worker child and writes into the empty folder `output`

    000-seed0.png, ...    the number is the prompt's
    images.json           one entry per image, prompt by prompt, within a prompt seed by seed: file,
                          the request that draws it again, and `batch_images`, how many images its
                          forward pass drew (another number sums in another order)
    problems.json         why the adapter is not sound and nothing was drawn; else []
    timings.json          latency, throughput, memory and loading time; does not count as content

It knows no metric, so that a changed metric draws nothing. Time and memory are measured on the
images themselves: the first ones are drawn one by one, the next in small batches, all others in
batches of BATCH.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from adire_assets.core.errors import UserError
from adire_assets.core.store import write_json
from adire_assets.core.worker import Progress
from adire_assets.families.diffusion.engine.quantized import NONE
from adire_assets.families.diffusion.engine.sampling import Request, Sampler, told_of_long
from adire_assets.families.diffusion.formats.adapter import inspect_adapter
from adire_assets.families.diffusion.schedulers import refusal

BATCH = 8  # images per forward pass, once latency and throughput are known
SMALL_BATCHES = (2, 2, 4)


def draw(
    *,
    base: str,
    variant: str | None,
    adapter: str | None,
    drawing: dict[str, Any],
    output: str,
    device: str,
    progress: Progress,
) -> dict[str, Any]:
    """Draw every prompt with its seeds, on the pipeline folder `base`, with the LoRA in `adapter`.

    `drawing` has the lists `prompts` and `seeds`; `negative_prompt`, `num_inference_steps`,
    `guidance_scale` and, if not the base's own, `scheduler` of all images; `quantization`, if there
    is one; and `latency_images`, how many are timed one by one. Returns {"images": how many,
    "problems": problems.json} and timings.json. UserError for a scheduler that does not fit the
    base.
    """
    folder, scheduler = Path(output), drawing.get("scheduler")
    if why := refusal(Path(base), scheduler, drawing["num_inference_steps"]):
        raise UserError(f"serving.scheduler: {why}")
    problems = inspect_adapter(Path(adapter), Path(base)) if adapter else []
    entries: list[dict[str, Any]] = []
    timings: dict[str, Any] = {}
    if problems:
        progress(f"evaluation: the adapter is not sound, nothing is drawn: {problems[0]}")
    else:
        entries, timings = _draw(base, variant, adapter, drawing, folder, device, progress)
    write_json(folder / "images.json", entries)
    write_json(folder / "problems.json", problems)
    write_json(folder / "timings.json", timings)
    return {"images": len(entries), "problems": problems, **timings}


def measure(
    *,
    base: str,
    variant: str | None,
    adapter: str | None,
    drawing: dict[str, Any],
    device: str,
    progress: Progress,
) -> dict[str, Any]:
    """timings.json of `draw`, measured again on as many images as each batch size needs."""
    timed = drawing["latency_images"] + 1 + sum(SMALL_BATCHES) + BATCH
    with tempfile.TemporaryDirectory() as folder:
        given = base, variant, adapter, drawing, Path(folder), device, progress
        return _draw(*given, only_first=timed)[1]


def batch_sizes(images: int, latency_images: int) -> list[int]:
    """How many images each forward pass draws, the same for every adapter and for its base.

    One more than `latency_images` come alone, because the very first warms up.
    """
    sizes: list[int] = []
    left = images
    for size in (*[1] * (latency_images + 1), *SMALL_BATCHES):
        if left >= size:
            sizes.append(size)
            left -= size
    return [*sizes, *[BATCH] * (left // BATCH), *([left % BATCH] if left % BATCH else [])]


def _draw(
    base: str,
    variant: str | None,
    adapter: str | None,
    drawing: dict[str, Any],
    folder: Path,
    device: str,
    progress: Progress,
    only_first: int | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(the entries of images.json, timings.json)."""
    started = time.perf_counter()
    lora = Path(adapter) if adapter else None
    quantization = drawing.get("quantization", NONE)
    sampler = Sampler(
        Path(base), variant, lora, device, batch_images=BATCH, quantization=quantization
    )
    loading = round(time.perf_counter() - started, 4)
    named = _requests(drawing)[:only_first]
    texts = dict.fromkeys([drawing["negative_prompt"], *drawing["prompts"]])
    cut = {repr(text[:40]): rest for text in texts if (rest := sampler.left_out(text))}
    if cut:
        progress(f"evaluation: {told_of_long(cut)}")
    entries, seconds = _draw_all(sampler, named, drawing["latency_images"], folder, progress)
    return entries, {"cold_load_seconds": loading, **_timings(sampler, seconds)}


def _draw_all(
    sampler: Sampler,
    named: Sequence[tuple[str, Request]],
    latency_images: int,
    folder: Path,
    progress: Progress,
) -> tuple[list[dict[str, Any]], dict[int, list[float]]]:
    """(the entries of images.json, {batch size: seconds of each forward pass of that size})."""
    entries: list[dict[str, Any]] = []
    seconds: dict[int, list[float]] = {}

    def drawn(batch: Sequence[Request]) -> list[np.ndarray]:
        started = time.perf_counter()
        images = [image[0] for image in sampler.generate(batch)]
        seconds.setdefault(len(batch), []).append(time.perf_counter() - started)
        return images

    of_what = "with the LoRA" if sampler.has_adapter else "of the bare base"
    for size in batch_sizes(len(named), latency_images):
        batch = named[len(entries) : len(entries) + size]
        images = drawn([request for _, request in batch])
        for image, (name, request) in zip(images, batch, strict=True):
            Image.fromarray(image).save(folder / name)
            entries.append({"file": name, "batch_images": size, **_told(request)})
        progress(f"evaluation: {len(entries)} of {len(named)} images {of_what}")
    # A set too small for that is drawn again, for the clock alone.
    for number in range(latency_images + 1 - len(seconds[1])):
        drawn([named[number % len(named)][1]])
    return entries, seconds


def _told(request: Request) -> dict[str, Any]:
    """What draws an image again."""
    told = asdict(request)
    del told["num_images"]
    if request.scheduler is None:
        del told["scheduler"]
    return told


def _requests(drawing: dict[str, Any]) -> list[tuple[str, Request]]:
    """(name of the image's file, what to draw), of all images.

    No two prompts share a seed: each counts on from where the one before it ended. So nothing but
    its prompt ties an image to others, which is what comparisons rest on.
    """
    stride = max(drawing["seeds"]) + 1
    return [
        (
            f"{number:03d}-seed{number * stride + seed}.png",
            Request(
                prompt=prompt,
                negative_prompt=drawing["negative_prompt"],
                seed=number * stride + seed,
                num_inference_steps=drawing["num_inference_steps"],
                guidance_scale=drawing["guidance_scale"],
                scheduler=drawing.get("scheduler"),
            ),
        )
        for number, prompt in enumerate(drawing["prompts"])
        for seed in drawing["seeds"]
    ]


def _timings(sampler: Sampler, seconds: dict[int, list[float]]) -> dict[str, Any]:
    """Percentiles interpolate linearly; a batch size's speed is that of its median batch. The peak
    memory is the accelerator's, or on the CPU that of this process."""
    first, *single = seconds[1]
    curve = []
    for size in sorted({1, *SMALL_BATCHES, BATCH} & set(seconds)):
        middle, slow = np.percentile(single if size == 1 else seconds[size], [50, 95])
        curve.append(
            {
                "batch_size": size,
                "images_per_second": round(size / float(middle), 4),
                "seconds_per_image_p50": round(float(middle) / size, 4),
                "seconds_per_image_p95": round(float(slow) / size, 4),
            }
        )
    return {
        "first_image_seconds": round(first, 4),
        "seconds_per_image_mean": round(float(np.mean(single)), 4),
        "seconds_per_image_p50": round(float(np.percentile(single, 50)), 4),
        "seconds_per_image_p95": round(float(np.percentile(single, 95)), 4),
        "seconds_per_image": [round(item, 4) for item in single],
        "by_batch_size": curve,
        "images_per_second_maximum": max(point["images_per_second"] for point in curve),
        "peak_memory_bytes": _peak_memory(sampler.device),
        "device": sampler.device,
        "threads": torch.get_num_threads(),
    }


def _peak_memory(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
