"""Images from a Stable Diffusion (1, 2, XL) with or without a LoRA: the one way that draws them.

Evaluation, deployment checks and the Triton backend all draw through `Sampler`; a copy of this file
goes into each release, so that what was evaluated is what is served. That is why it imports nothing
of the project.

    sampler = Sampler(Path("base"), adapter=Path("adapter"))
    [images] = sampler.generate([Request("indigo circles", seed=7, num_images=2)])

Image i of a request draws its noise from its own CPU generator, seeded with `seed + i`: it depends
neither on what shares its batch nor on `num_images` (on the CPU within 2 levels of 255, because
other batch sizes sum in another order). One device and thread count gives the same bits.
"""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

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
    """A loaded Stable Diffusion 1, 2 or XL. Not thread-safe: one call at a time.

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
        self.pipe = load_pipeline(
            base, variant, torch.float16 if device == "cuda" else torch.float32
        ).to(device)
        self.has_adapter = adapter is not None
        self._adapter_on = self.has_adapter
        if adapter is not None:
            self.pipe.load_lora_weights(str(adapter), weight_name=ADAPTER_FILE)
        self.resolution = int(self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor)

    def generate(self, requests: Sequence[Request], with_adapter: bool = True) -> list[np.ndarray]:
        """One uint8 array [num_images, H, W, 3], RGB, for each request, in their order.

        Requests with equal steps and guidance share forward passes (on SDXL not those with a
        negative prompt and those without). `with_adapter=False` gives exactly what the base alone
        gives.
        """
        self._switch(with_adapter)
        results = [
            np.empty((request.num_images, self.resolution, self.resolution, 3), np.uint8)
            for request in requests
        ]
        # Without a negative prompt SDXL takes zeros, not the embedding of "", and its pipeline is
        # given negative prompts for a whole batch or not at all. Others know no difference.
        zeros = getattr(self.pipe.config, "force_zeros_for_empty_prompt", False)
        groups: dict[tuple[int, float, bool], list[tuple[int, int]]] = {}
        for position, request in enumerate(requests):
            negative = bool(request.negative_prompt) or not zeros
            key = (request.num_inference_steps, request.guidance_scale, negative)
            same = groups.setdefault(key, [])
            same += [(position, image) for image in range(request.num_images)]
        for (steps, guidance, negative), wanted in groups.items():
            for start in range(0, len(wanted), self.batch_images):
                chunk = wanted[start : start + self.batch_images]
                jobs = [(requests[position], image) for position, image in chunk]
                drawn = self._draw(jobs, steps, guidance, negative)
                for (position, image), pixels in zip(chunk, drawn, strict=True):
                    results[position][image] = pixels
        return results

    def left_out(self, text: str) -> str:
        """What is not seen of a prompt, see `left_out`."""
        return left_out(self.pipe, text)

    @torch.inference_mode()
    def _draw(
        self, jobs: list[tuple[Request, int]], steps: int, guidance: float, negative: bool
    ) -> np.ndarray:
        generators = [
            torch.Generator("cpu").manual_seed((request.seed + image) % SEED_RANGE)
            for request, image in jobs
        ]
        unet = self.pipe.unet
        shape = (1, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
        noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
        images = self.pipe(
            prompt=[request.prompt for request, _ in jobs],
            negative_prompt=[request.negative_prompt for request, _ in jobs] if negative else None,
            num_inference_steps=steps,
            guidance_scale=guidance,
            latents=noise.to(unet.dtype),
            # Schedulers that add noise at each step draw it per image too.
            generator=generators,
            output_type="np",
        ).images
        return (images * 255).round().astype(np.uint8)

    def _switch(self, adapter_on: bool) -> None:
        adapter_on = adapter_on and self.has_adapter
        if adapter_on == self._adapter_on:
            return
        if adapter_on:
            self.pipe.enable_lora()
        else:
            self.pipe.disable_lora()
        self._adapter_on = adapter_on


def left_out(pipe: Any, text: str) -> str:
    """The end of a text that the text encoders do not see; "" when they see all of it.

    Stock pipelines cut a text at the length that its tokenizer names. Of two encoders (SDXL), the
    one that sees less counts.
    """
    found = ""
    for tokenizer in filter(None, (pipe.tokenizer, getattr(pipe, "tokenizer_2", None))):
        longest = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
        pieces = tokenizer(text, add_special_tokens=False, truncation=False).input_ids
        if len(pieces) > longest:
            found = max(found, str(tokenizer.decode(pieces[longest:])).strip(), key=len)
    return found


def told_of_long(texts: dict[str, str], shown: int = 3) -> str:
    """One sentence about texts that are cut, {name: what is left out}; "" when there is none."""
    if not texts:
        return ""
    first = "; ".join(f"{name} loses {rest!r}" for name, rest in list(texts.items())[:shown])
    more = f" and {len(texts) - shown} more" if len(texts) > shown else ""
    return f"{len(texts)} texts are longer than the text encoder reads: {first}{more}"


def load_pipeline(base: Path, variant: str | None, dtype: torch.dtype) -> Any:
    """The pipeline that `base`'s model_index.json names, on the CPU, safetensors only, quiet.

    Built-in safety checkers are left out: images are judged by the evaluation's safety gate.
    """
    be_quiet()
    index = json.loads((base / "model_index.json").read_text(encoding="utf-8"))
    unwanted: dict[str, Any] = {
        name: None
        for name in ("safety_checker", "feature_extractor", "image_encoder")
        if name in index
    }
    if "requires_safety_checker" in index:
        unwanted["requires_safety_checker"] = False
    if index["_class_name"] == "StableDiffusionXLPipeline":
        # Else images change where the package invisible-watermark happens to be installed.
        unwanted["add_watermarker"] = False
    pipe = DiffusionPipeline.from_pretrained(
        str(base),
        variant=variant,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        **unwanted,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def be_quiet() -> None:
    """Keep diffusers' and transformers' progress bars and warnings out of the logs."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
    for name in ("diffusers", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
