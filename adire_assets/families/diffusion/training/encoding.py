"""What the frozen parts of a base compute once: latents of images, embeddings of captions.

Everything that decides the bits of these is in this module and what it imports: in which precision
the parts are loaded and compute, how an image's view is made and encoded, how a caption is. The
caches' keys are made of this code (`TensorCache`), the base and the settings below.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from adire_assets.core import lineage
from adire_assets.core.model_files import content_hash
from adire_assets.families.diffusion.engine import architectures
from adire_assets.families.diffusion.engine.architecture import Architecture
from adire_assets.families.diffusion.training.cache import Facts, TensorCache
from adire_assets.families.diffusion.training.settings import TrainingConfig
from adire_assets.families.diffusion.training.views import View, pixels
from adire_assets.families.training.processes import FROZEN_TYPES, is_deterministic


def load(base: Path, variant: str | None) -> Architecture:
    """The base on the CPU; its autoencoder stays in float32: it works once per image."""
    return architectures.load(base, variant, torch.float32)


def text_type(settings: TrainingConfig, device: str) -> torch.dtype:
    """What frozen denoisers and text encoders compute in."""
    if device != "cuda":  # the CPU's layer norm takes no parameters of another type than its input
        return torch.float32
    return FROZEN_TYPES[settings.mixed_precision]


def lower_precision(model: Architecture, settings: TrainingConfig, device: str) -> None:
    """Give the frozen weights of denoiser and text encoders the type that they compute in."""
    for part in filter(None, map(model.component, model.trainable())):
        for weight in part.parameters():
            if not weight.requires_grad and weight.is_floating_point():
                weight.data = weight.data.to(text_type(settings, device))


@torch.no_grad()
def encode_view(
    model: Architecture, file: Path, view: View, augmentations: tuple[str, ...]
) -> dict[str, Tensor]:
    """mean and deviation, float32 [channels, h, w], of the latents of an image's view."""
    mean, deviation = model.encode_pixels(pixels(file, view, augmentations))
    return {"mean": mean[0].float(), "deviation": deviation[0].float()}


@torch.no_grad()
def encode_caption(model: Architecture, caption: str) -> dict[str, Tensor]:
    """What the denoiser is told of a caption, see `Architecture.encode`."""
    return {name: value[0] for name, value in model.encode([caption]).items()}


def facts_of(base: Path, variant: str | None, settings: TrainingConfig, device: str) -> Facts:
    """What all that a base computes depends on, beside the code. `device`: "cpu" or "cuda"."""
    facts = lineage.environment(device=device)
    if device == "cpu":
        facts["threads"] = str(torch.get_num_threads())  # of this process, one of several maybe
    return Facts(
        inputs={"base": content_hash(base)},
        config={"variant": variant, "deterministic": is_deterministic(settings, device)},
        environment=facts,
    )


def latents_cache(model: Architecture, folder: Path, facts: Facts) -> TensorCache:
    return TensorCache(folder, partial(encode_view, model), facts)


def texts_cache(
    model: Architecture, folder: Path, facts: Facts, settings: TrainingConfig, device: str
) -> TensorCache:
    precision = str(text_type(settings, device))
    return TensorCache(folder, partial(encode_caption, model), facts.of(precision=precision))
