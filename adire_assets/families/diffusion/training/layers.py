"""Where an adapter sits: fresh LoRA layers on the modules that the config names.

Every part of the pipeline is frozen but these.
"""

from typing import Any

import torch
from torch import nn

from adire_assets.families.diffusion.engine.architecture import Architecture
from adire_assets.families.diffusion.training.settings import TrainingConfig
from adire_assets.families.training.layers import adapt, refuse_unused


def add_lora(model: Architecture, settings: TrainingConfig) -> None:
    """Freeze the pipeline and put fresh layers (float32, B = 0) on what the config names."""
    torch.manual_seed(settings.seed)
    for component in model.pipe.components.values():
        if isinstance(component, nn.Module):
            component.requires_grad_(False)
    used: set[str] = set()
    for name, part in trained_parts(model, settings).items():
        key = "target_modules" if name == model.denoiser else "text_encoder_target_modules"
        targets = getattr(settings, key) or [*getattr(model, key)]
        used |= adapt(part, name, f"training.{key}", targets, settings, gaussian=True)
    refuse_unused(settings, used)


def trained_parts(model: Architecture, settings: TrainingConfig) -> dict[str, Any]:
    """Name of the component -> what gets an adapter, in a fixed order."""
    names = model.trainable() if settings.train_text_encoder else (model.denoiser,)
    return {name: part for name in names if (part := model.component(name)) is not None}


def trained_weights(model: Architecture) -> dict[str, nn.Parameter]:
    """{component.name: weight} of everything that learns, in a fixed order."""
    return {
        f"{component}.{name}": weight
        for component in model.trainable()
        if isinstance(part := model.component(component), nn.Module)
        for name, weight in part.named_parameters()
        if weight.requires_grad
    }
