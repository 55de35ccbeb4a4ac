"""Images from a base with or without a LoRA: the one way that draws them.

Evaluation, deployment checks and the server of releases all draw with the engine. Each release
holds a copy of this file and of the modules beside it, so that what was evaluated is what is
served. That is why they import nothing else of the project.

    sampler = Sampler(Path("base"), adapter=Path("adapter"))
    [images] = sampler.generate([Request("indigo circles", seed=7, num_images=2)])

Image i of a request draws its noise from its own CPU generator, seeded with `seed + i`: it depends
neither on what shares its passes nor on `num_images` (on the CPU within 2 levels of 255, because
other batch sizes sum in another order). The same requests in the same order on one device and
thread count give the same bits.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from .adapter_layers import ADAPTER_FILE as ADAPTER_FILE
from .architectures import load
from .drawings import Request as Request
from .engine import Engine
from .layouts import prepack
from .quantized import NONE, quantize

ADAPTER = "adapter"  # its name in the engine


class Sampler:
    """A loaded base. Not thread-safe: one call at a time.

    `base` is a diffusers pipeline folder in safetensors (`variant` as in its file names, such as
    "fp16"), `adapter` a folder with `pytorch_lora_weights.safetensors`. `device` is "cpu", "cuda"
    or "auto". `threads` sets torch's CPU threads for the whole process. Weights compute in float32
    on the CPU and in float16 on CUDA. A forward pass takes at most `batch_images` images.
    `quantization` ("int8", "float8") holds those of the denoiser in 8 bits, see `quantized`.
    """

    def __init__(
        self,
        base: Path,
        variant: str | None = None,
        adapter: Path | None = None,
        device: str = "auto",
        threads: int | None = None,
        batch_images: int = 8,
        quantization: str = NONE,
    ) -> None:
        self.engine = open_engine(base, variant, device, threads, batch_images, quantization)
        self.device = self.engine.device
        self.model = self.engine.model
        self.resolution = self.model.resolution
        self.has_adapter = adapter is not None
        if adapter is not None:
            self.engine.adapters.add(ADAPTER, self.engine.adapters.read(adapter))

    def generate(self, requests: Sequence[Request], with_adapter: bool = True) -> list[np.ndarray]:
        """One uint8 array [num_images, H, W, 3], RGB, for each request, in their order.

        `with_adapter=False` gives exactly what the base alone gives.
        """
        mix = ((ADAPTER, 1.0),) if self.has_adapter and with_adapter else ()
        drawings = [self.engine.submit(request, mix) for request in requests]
        while self.engine.step():
            pass
        for drawing in drawings:
            if drawing.error:
                raise drawing.error
        return [drawing.images for drawing in drawings]

    def left_out(self, text: str) -> str:
        """What is not seen of a prompt, see `Architecture.left_out`."""
        return self.engine.left_out(text)


def open_engine(
    base: Path,
    variant: str | None,
    device: str = "auto",
    threads: int | None = None,
    batch_images: int = 8,
    quantization: str = NONE,
) -> Engine:
    """An engine on the pipeline folder `base`, see `Sampler`."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if threads:
        torch.set_num_threads(threads)
    model = load(base, variant, torch.float16 if device == "cuda" else torch.float32)
    if quantization != NONE:  # before it is moved, so that no device holds it whole
        quantize(model.component(model.denoiser), quantization)
    model.pipe.to(device)
    prepack(model.component(model.denoiser))
    for name, part in model.component(model.autoencoder).named_children():
        if name != "encoder":  # drawing only decodes
            prepack(part)
    return Engine(model, device, batch_images)


def told_of_long(texts: dict[str, str], shown: int = 3) -> str:
    """One sentence about texts that are cut, {name: what is left out}; "" when there is none."""
    if not texts:
        return ""
    first = "; ".join(f"{name} loses {rest!r}" for name, rest in list(texts.items())[:shown])
    more = f" and {len(texts) - shown} more" if len(texts) > shown else ""
    return f"{len(texts)} texts are longer than the text encoder reads: {first}{more}"
