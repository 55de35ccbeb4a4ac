"""What the children of benchmarks/training.py do: our trainer, the bare loop, the judgement.

Each function is a job of `adire_assets.core.worker`. All of them work on the CPU in float32, and
`watched.step_clock` tells in the same way for every side when an optimizer step ended.
"""

import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch import Tensor
from torch.nn import functional

from adire_assets.core.worker import Progress
from adire_assets.families.diffusion.engine import architectures
from adire_assets.families.diffusion.training.settings import TrainingConfig
from benchmarks.watched import step_clock

TIMESTEPS = range(50, 1000, 100)  # at which the validation loss is taken
NOISE_SEED = 7
BLOCK_STEPS = 20  # of one way of the bare loop, before the other has its turn


def ours(
    *,
    dataset: str,
    base: str,
    variant: str | None,
    output: str,
    training: dict[str, Any],
    work: str,
    resolution: int,
    progress: Progress,
) -> dict[str, Any]:
    """The product's training step; returns {"steps", "losses"} as benchmarks/peer/start.py does."""
    from adire_assets.families.diffusion.training import lora

    with step_clock() as steps:
        report = lora.train(
            dataset=dataset,
            base=base,
            variant=variant,
            output=output,
            training=training,
            work=work,
            resolution=resolution,
            device="cpu",
            progress=progress,
        )
    if not report:  # this process helped the first one
        return {}
    with (Path(output) / "loss.csv").open(encoding="utf-8") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    return {"steps": steps, "losses": losses}


def bare(
    *,
    dataset: str,
    base: str,
    variant: str | None,
    training: dict[str, Any],
    steps: int,
    progress: Progress,
) -> dict[str, float]:
    """Steps/s of nothing but the UNet's forward, backward and optimizer step.

    Examples are made before the clock starts. {"accumulated": passes of train_batch_size,
    "together": one pass of all examples of a step}; the two take turns.
    """
    from adire_assets.families.diffusion.training.layers import add_lora, trained_weights

    settings = TrainingConfig.model_validate(training)
    model = architectures.load(Path(base), variant, torch.float32)
    pipe = model.pipe
    add_lora(model, settings)
    passes = settings.gradient_accumulation_steps
    clean, text = _encoded(pipe, Path(dataset), "train")
    clean = clean[: settings.train_batch_size * passes]
    text = text[:1].expand(len(clean), -1, -1).contiguous()
    schedule: Any = DDPMScheduler.from_config(pipe.scheduler.config)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(NOISE_SEED))
    times = torch.linspace(50, 950, len(clean)).long()
    noisy = schedule.add_noise(clean, noise, times)
    target = _target(schedule, clean, noise, times)
    optimizer = torch.optim.AdamW(
        trained_weights(model).values(),
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        weight_decay=settings.adam_weight_decay,
        eps=settings.adam_epsilon,
        fused=True,
    )

    def step(count: int) -> None:
        for part in zip(*(item.chunk(count) for item in (noisy, times, text, target)), strict=True):
            inputs, moments, words, wanted = part
            predicted = pipe.unet(inputs, moments, words, return_dict=False)[0]
            (functional.mse_loss(predicted, wanted) / count).backward()
        optimizer.step()
        optimizer.zero_grad()

    ways = {"accumulated": passes, "together": 1}
    seconds = dict.fromkeys(ways, 0.0)
    for count in ways.values():
        for _ in range(BLOCK_STEPS // 4):
            step(count)
    blocks = max(1, round(steps / BLOCK_STEPS))
    for _ in range(blocks):
        for way, count in ways.items():
            began = time.monotonic()
            for _ in range(BLOCK_STEPS):
                step(count)
            seconds[way] += time.monotonic() - began
    return {way: blocks * BLOCK_STEPS / spent for way, spent in seconds.items()}


@torch.no_grad()
def judge(
    *,
    dataset: str,
    base: str,
    variant: str | None,
    adapters: dict[str, str],
    progress: Progress,
) -> dict[str, float]:
    """{name: mean squared error on the held-out images} of each adapter, and of the "base".

    Every image meets every timestep of TIMESTEPS with the same noise; adapters are put on by
    diffusers' own loader.
    """
    pipe = architectures.load(Path(base), variant, torch.float32).pipe
    clean, text = _encoded(pipe, Path(dataset), "held_out")
    schedule: Any = DDPMScheduler.from_config(pipe.scheduler.config)
    generator = torch.Generator().manual_seed(NOISE_SEED)
    trials = []
    for moment in TIMESTEPS:
        times = torch.full((len(clean),), moment)
        noise = torch.randn(clean.shape, generator=generator)
        noisy = schedule.add_noise(clean, noise, times)
        trials.append((times, noisy, _target(schedule, clean, noise, times)))
    losses = {}
    for name, folder in {"base": None, **adapters}.items():
        if folder:
            pipe.load_lora_weights(folder)
        errors = [
            functional.mse_loss(pipe.unet(noisy, times, text, return_dict=False)[0], target)
            for times, noisy, target in trials
        ]
        losses[name] = torch.stack(errors).mean().item()
        if folder:
            pipe.unload_lora_weights()
    return losses


@torch.no_grad()
def _encoded(pipe: Any, dataset: Path, side: str) -> tuple[Tensor, Tensor]:
    """A side of the dataset: latents [n, C, h, w] and caption embeddings [n, tokens, width]."""
    lines = (dataset / f"{side}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    pixels = []
    for row in rows:
        with Image.open(dataset / row["file_name"]) as image:
            pixels.append(torch.from_numpy(np.asarray(image.convert("RGB"), np.float32)))
    images = torch.stack(pixels).permute(0, 3, 1, 2).contiguous() / 127.5 - 1
    latents = torch.cat([pipe.vae.encode(image[None]).latent_dist.mean for image in images])
    text = pipe.encode_prompt([row["text"] for row in rows], "cpu", 1, False)[0]
    return latents * pipe.vae.config.scaling_factor, text


def _target(schedule: Any, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    if schedule.config.prediction_type == "v_prediction":
        return schedule.get_velocity(clean, noise, times)
    return noise
