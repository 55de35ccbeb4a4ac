"""One adapter's evaluation: its images, the bare base's, and what they are worth in numbers.

Contract: `evaluate` is called in a worker child and writes into the empty folder `output`

    report.json        scores, problems and one entry per image; no timings, so equal software and
                       thread count give equal bytes
    timings.json       latency, memory and loading time; does not count as content
    report.md, contact_sheet.png
    images/adapter/, images/base/    one PNG per prompt and seed; images.json says how to repeat it

It judges nothing: thresholds belong to the verdict. An adapter that is broken gets a report as well
(`adapter_problems` is not empty, scores may be null), so that the verdict can refuse it by name.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from adire_assets.diffusion.adapter import inspect_adapter
from adire_assets.diffusion.sampling import Request, Sampler
from adire_assets.errors import UserError
from adire_assets.evaluation import metrics, report
from adire_assets.evaluation.safety import nsfw_probabilities
from adire_assets.store import write_json
from adire_assets.worker import Progress

BATCH = 8  # images per forward pass
MAXIMUM_PROMPTS = 64  # of the held-out captions; prompts that the config lists are never cut
DIGITS = 6


@dataclass(frozen=True)
class HeldOut:
    """The real images that training never saw: captions, and uint8 [H, W, 3] each."""

    captions: tuple[str, ...]
    images: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Drawn:
    """Images of one variant in the order of the requests, uint8 [H, W, 3] each."""

    adapter: tuple[np.ndarray, ...] = ()
    base: tuple[np.ndarray, ...] = ()


def evaluate(
    *,
    dataset: str,
    base: str,
    variant: str | None,
    adapter: str,
    judge: str,
    evaluation: dict[str, Any],
    output: str,
    device: str,
    progress: Progress,
) -> dict[str, Any]:
    """Evaluate the LoRA in the folder `adapter` on the pipeline folder `base`.

    `dataset`, `judge` and `output` are folders; `evaluation` is an EvaluationConfig as JSON, whose
    gates are ignored. The prompts are the config's, else the first 64 different captions of the
    held-out images; each is drawn with each seed, with and without the LoRA. Returns report.json
    without its lists of images, and timings.json. UserError when there is nothing to evaluate on.
    """
    folder = Path(output)
    held_out = read_held_out(Path(dataset))
    prompts, left_out = choose_prompts(evaluation["prompts"], held_out.captions)
    requests = [
        Request(
            prompt=prompt,
            negative_prompt=evaluation["negative_prompt"],
            seed=seed,
            num_inference_steps=evaluation["num_inference_steps"],
            guidance_scale=evaluation["guidance_scale"],
        )
        for prompt in prompts
        for seed in evaluation["seeds"]
    ]
    problems = inspect_adapter(Path(adapter), Path(base))
    timings: dict[str, Any] = {}
    drawn = Drawn()
    if problems:
        progress(f"evaluation: the adapter is not sound, nothing is drawn: {problems[0]}")
    else:
        started = time.perf_counter()
        sampler = Sampler(Path(base), variant, Path(adapter), device, batch_images=BATCH)
        timings["cold_load_seconds"] = round(time.perf_counter() - started, 4)
        device = sampler.device
        timings |= measure_latency(sampler, requests, evaluation["latency_images"], progress)
        drawn = Drawn(
            adapter=_draw(sampler, requests, True, "with the LoRA", progress),
            base=_draw(sampler, requests, False, "without the LoRA", progress),
        )
        del sampler
        if flat := sum(metrics.flat(image) for image in drawn.adapter):
            problems = [
                f"{flat} of {len(requests)} images with the LoRA are one flat colour, as when its "
                "weights make the model overflow"
            ]
    progress("evaluation: scoring")
    scores = _scores(Path(judge), _judge_device(device), requests, drawn, held_out)
    result = {
        **scores,
        "adapter_problems": problems,
        "prompts": len(prompts),
        "prompts_left_out": left_out,
        "seeds": evaluation["seeds"],
        "images": len(drawn.adapter),
        "held_out_images": len(held_out.images),
        "judge": evaluation["judge"]["source"],
        "clip_s_scale": metrics.CLIP_S_SCALE,
        "kid_unit": metrics.KID_UNIT,
    }
    _write(folder, result, timings, requests, drawn, held_out)
    return {**{key: item for key, item in result.items() if key != "per_image"}, **timings}


def read_held_out(dataset: Path) -> HeldOut:
    """The held-out part of a dataset artefact. UserError when it is empty or leaves its folder."""
    rows = [
        json.loads(line)
        for line in (dataset / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    if not rows:
        raise UserError(f"{dataset / 'held_out.jsonl'} holds no images; raise held_out_fraction")
    images = []
    for row in rows:
        path = (dataset / row["file_name"]).resolve()
        if not path.is_relative_to(dataset.resolve()):
            raise UserError(f"{dataset / 'held_out.jsonl'}: {row['file_name']} leaves the dataset")
        with Image.open(path) as image:
            images.append(np.asarray(image.convert("RGB")))
    return HeldOut(tuple(row["text"] for row in rows), tuple(images))


def choose_prompts(configured: Sequence[str], captions: Sequence[str]) -> tuple[list[str], int]:
    """(prompts to draw, captions left out): the config's, else the first different captions."""
    if configured:
        return list(configured), 0
    unique = list(dict.fromkeys(captions))
    return unique[:MAXIMUM_PROMPTS], max(0, len(unique) - MAXIMUM_PROMPTS)


def measure_latency(
    sampler: Sampler, requests: Sequence[Request], images: int, progress: Progress
) -> dict[str, Any]:
    """Seconds per image of `images` requests for one image each, one by one, after a warm-up.

    The percentile interpolates linearly. The peak memory is the accelerator's, or on the CPU that
    of this process so far.
    """
    started = time.perf_counter()
    sampler.generate(requests[:1])
    first = time.perf_counter() - started
    seconds = []
    for number in range(images):
        started = time.perf_counter()
        sampler.generate([requests[number % len(requests)]])
        seconds.append(time.perf_counter() - started)
        progress(f"evaluation: image {number + 1} of {images} for latency, {seconds[-1]:.2f} s")
    return {
        "first_image_seconds": round(first, 4),
        "seconds_per_image_mean": round(float(np.mean(seconds)), 4),
        "seconds_per_image_p95": round(float(np.percentile(seconds, 95)), 4),
        "seconds_per_image": [round(item, 4) for item in seconds],
        "peak_memory_bytes": _peak_memory(sampler.device),
        "device": sampler.device,
        "threads": torch.get_num_threads(),
        "batch_images": BATCH,  # golden images are drawn again in the same batch
    }


def _draw(
    sampler: Sampler,
    requests: Sequence[Request],
    with_adapter: bool,
    which: str,
    progress: Progress,
) -> tuple[np.ndarray, ...]:
    images: list[np.ndarray] = []
    for start in range(0, len(requests), BATCH):
        batch = sampler.generate(requests[start : start + BATCH], with_adapter=with_adapter)
        images += [drawn[0] for drawn in batch]
        progress(f"evaluation: {len(images)} of {len(requests)} images {which}")
    return tuple(images)


def _scores(
    folder: Path, device: str, requests: Sequence[Request], drawn: Drawn, held_out: HeldOut
) -> dict[str, Any]:
    """The numbers of report.json; null where there are no images to score."""
    judge = metrics.Judge(folder, device)
    real = judge.embed_images(held_out.images)
    captions = judge.embed_texts(held_out.captions)
    scores: dict[str, Any] = {
        "clip_s_mean": None,
        "clip_s_base_mean": None,
        "clip_s_held_out_mean": _mean(metrics.clip_s(real, captions)),
        "kid_adapter_mean": None,
        "kid_base_mean": None,
        "nsfw_probability_maximum": None,
        "per_image": [],
    }
    if not drawn.adapter:
        return scores
    texts = judge.embed_texts([request.prompt for request in requests])
    after, before = judge.embed_images(drawn.adapter), judge.embed_images(drawn.base)
    clip_after, clip_before = metrics.clip_s(after, texts), metrics.clip_s(before, texts)
    unsafe = nsfw_probabilities(drawn.adapter)
    return scores | {
        "clip_s_mean": _mean(clip_after),
        "clip_s_base_mean": _mean(clip_before),
        "kid_adapter_mean": _plain(metrics.kid(real, after)),
        "kid_base_mean": _plain(metrics.kid(real, before)),
        "nsfw_probability_maximum": _plain(max(unsafe)),
        "per_image": [
            {
                "prompt": request.prompt,
                "seed": request.seed,
                "clip_s": _plain(clip_after[place]),
                "clip_s_base": _plain(clip_before[place]),
                "nsfw_probability": _plain(unsafe[place]),
            }
            for place, request in enumerate(requests)
        ],
    }


def _write(
    folder: Path,
    result: dict[str, Any],
    timings: dict[str, Any],
    requests: Sequence[Request],
    drawn: Drawn,
    held_out: HeldOut,
) -> None:
    prompts = {
        prompt: place for place, prompt in enumerate(dict.fromkeys(r.prompt for r in requests))
    }
    listed = []
    for name in ("adapter", "base"):
        (folder / "images" / name).mkdir(parents=True, exist_ok=True)
    for place, request in enumerate(requests[: len(drawn.adapter)]):
        name = f"{prompts[request.prompt]:03d}-seed{request.seed}.png"
        Image.fromarray(drawn.adapter[place]).save(folder / "images" / "adapter" / name)
        Image.fromarray(drawn.base[place]).save(folder / "images" / "base" / name)
        listed.append(
            {
                "file": f"images/adapter/{name}",
                "base_file": f"images/base/{name}",
                "prompt": request.prompt,
                "negative_prompt": request.negative_prompt,
                "seed": request.seed,
                "num_inference_steps": request.num_inference_steps,
                "guidance_scale": request.guidance_scale,
            }
        )
    write_json(folder / "images.json", listed)
    write_json(folder / "report.json", result)
    write_json(folder / "timings.json", timings)
    (folder / "report.md").write_text(report.markdown(result), encoding="utf-8")
    rows = _sheet_rows(result, requests, drawn, held_out)
    report.save_contact_sheet(folder / "contact_sheet.png", rows)


def _sheet_rows(
    result: dict[str, Any], requests: Sequence[Request], drawn: Drawn, held_out: HeldOut
) -> list[report.Row]:
    """One row per prompt, drawn with the first seed, beside the real image of that caption."""
    seeds = len(result["seeds"])
    rows = []
    for number, place in enumerate(range(0, len(requests), seeds)):
        prompt = requests[place].prompt
        same = held_out.captions.index(prompt) if prompt in held_out.captions else number
        note = ""
        if drawn.adapter:
            entry = result["per_image"][place]
            note = f"CLIP-S {entry['clip_s_base']:.2f} before, {entry['clip_s']:.2f} after"
        rows.append(
            report.Row(
                prompt,
                note,
                drawn.base[place] if drawn.base else None,
                drawn.adapter[place] if drawn.adapter else None,
                held_out.images[same % len(held_out.images)],
            )
        )
    return rows


def _peak_memory(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _judge_device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _mean(values: np.ndarray) -> float | None:
    return _plain(values.mean()) if len(values) else None


def _plain(value: float | None) -> float | None:
    """A number for report.json: rounded, and null when it is not finite."""
    return None if value is None or not math.isfinite(value) else round(float(value), DIGITS)
