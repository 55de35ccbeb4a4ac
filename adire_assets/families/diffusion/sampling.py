"""Images from a base with or without a LoRA: the one way that draws them.

Evaluation, deployment checks and the Triton backend all draw through `Sampler`. Each release holds
a copy of this file and of the `architectures` beside it, so that what was evaluated is what is
served. That is why they import nothing else of the project.

    sampler = Sampler(Path("base"), adapter=Path("adapter"))
    [images] = sampler.generate([Request("indigo circles", seed=7, num_images=2)])

Image i of a request draws its noise from its own CPU generator, seeded with `seed + i`: it depends
neither on what shares its batch nor on `num_images` (on the CPU within 2 levels of 255, because
other batch sizes sum in another order). One device and thread count gives the same bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path

import numpy as np
import torch

from .architectures import load

ADAPTER_FILE = "pytorch_lora_weights.safetensors"
SEED_RANGE = 2**63  # seeds count modulo this, the range of torch's generators


@dataclass(frozen=True)
class Request:
    """What one caller wants; a guidance scale of 1 or less draws without the negative prompt."""

    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    num_inference_steps: int = 30
    guidance_scale: float = 7.5
    num_images: int = 1


class Sampler:
    """A loaded base. Not thread-safe: one call at a time.

    `base` is a diffusers pipeline folder in safetensors (`variant` as in its file names, such as
    "fp16"), `adapter` a folder with `pytorch_lora_weights.safetensors`. `device` is "cpu", "cuda"
    or "auto". `threads` sets torch's CPU threads for the whole process. Weights compute in float32
    on the CPU and in float16 on CUDA. A forward pass takes at most `batch_images` images.
    """

    def __init__(
        self,
        base: Path,
        variant: str | None = None,
        adapter: Path | None = None,
        device: str = "auto",
        threads: int | None = None,
        batch_images: int = 8,
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if threads:
            torch.set_num_threads(threads)
        self.device = device
        self.batch_images = batch_images
        self.model = load(base, variant, torch.float16 if device == "cuda" else torch.float32)
        self.model.pipe.to(device)
        self.has_adapter = adapter is not None
        if adapter is not None:
            self.model.load_adapter(adapter, ADAPTER_FILE)
        self.resolution = self.model.resolution

    def generate(self, requests: Sequence[Request], with_adapter: bool = True) -> list[np.ndarray]:
        """One uint8 array [num_images, H, W, 3], RGB, for each request, in their order.

        Requests with equal steps and guidance share forward passes. `with_adapter=False` gives
        exactly what the base alone gives.
        """
        if self.has_adapter:
            self.model.use_adapter(with_adapter)
        results = [
            np.empty((request.num_images, self.resolution, self.resolution, 3), np.uint8)
            for request in requests
        ]
        groups: dict[tuple[int, float], list[tuple[int, int]]] = {}
        for position, request in enumerate(requests):
            same = groups.setdefault((request.num_inference_steps, request.guidance_scale), [])
            same += [(position, image) for image in range(request.num_images)]
        for (steps, guidance), wanted in groups.items():
            for start in range(0, len(wanted), self.batch_images):
                chunk = wanted[start : start + self.batch_images]
                jobs = [(requests[position], image) for position, image in chunk]
                drawn = self._draw(jobs, steps, guidance)
                for (position, image), pixels in zip(chunk, drawn, strict=True):
                    results[position][image] = pixels
        return results

    def left_out(self, text: str) -> str:
        """What is not seen of a prompt, see `Architecture.left_out`."""
        return self.model.left_out(text)

    @torch.inference_mode()
    def _draw(self, jobs: list[tuple[Request, int]], steps: int, guidance: float) -> np.ndarray:
        """uint8 [jobs, H, W, 3], with the guidance of Ho and Salimans 2022."""
        model, size = self.model, (self.resolution, self.resolution)
        generators = [
            torch.Generator("cpu").manual_seed((request.seed + image) % SEED_RANGE)
            for request, image in jobs
        ]
        told = model.encode([request.prompt for request, _ in jobs])
        distilled = model.guidance(guidance, len(jobs))
        guided = guidance > 1 and not distilled
        if guided:
            negative = model.encode_negative([request.negative_prompt for request, _ in jobs], told)
            told = {name: torch.cat([negative[name], told[name]]) for name in told}
        told = model.for_size({**told, **distilled}, *size)
        scheduler = model.scheduler
        timesteps = model.sampling_timesteps(steps, *size)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        # Schedulers that add noise at each step draw it per image too.
        options = {"generator": generators, "eta": 0.0}
        taken = signature(scheduler.step).parameters
        options = {name: value for name, value in options.items() if name in taken}
        scaled = getattr(scheduler, "scale_model_input", lambda latents, timestep: latents)
        shape = (1, *model.latents.shape(*size))
        noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
        latents = noise.to(self.device, model.dtype) * getattr(scheduler, "init_noise_sigma", 1.0)
        for timestep in timesteps:
            noisy = scaled(torch.cat([latents, latents]) if guided else latents, timestep)
            predicted = model.denoise(noisy, timestep.expand(len(noisy)), told)
            if guided:
                away, towards = predicted.chunk(2)
                predicted = away + guidance * (towards - away)
            latents = scheduler.step(predicted, timestep, latents, return_dict=False, **options)[0]
        pixels = (model.decode(latents) * 0.5 + 0.5).clamp(0, 1)
        images = pixels.cpu().permute(0, 2, 3, 1).float().numpy()
        return (images * 255).round().astype(np.uint8)


def told_of_long(texts: dict[str, str], shown: int = 3) -> str:
    """One sentence about texts that are cut, {name: what is left out}; "" when there is none."""
    if not texts:
        return ""
    first = "; ".join(f"{name} loses {rest!r}" for name, rest in list(texts.items())[:shown])
    more = f" and {len(texts) - shown} more" if len(texts) > shown else ""
    return f"{len(texts)} texts are longer than the text encoder reads: {first}{more}"
