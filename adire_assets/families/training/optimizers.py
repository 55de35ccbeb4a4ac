"""Optimizers by name: a function takes the trained weights and the settings.

What is not installed or needs other hardware is refused with a sentence.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adire_assets.core.errors import UserError
from adire_assets.families.training.registry import Registry

if TYPE_CHECKING:
    import torch

    from adire_assets.families.training.settings import SharedTrainingConfig

OPTIMIZERS = Registry("optimizer")
Weights = Sequence["torch.nn.Parameter"]


@OPTIMIZERS.register
def adamw(weights: Weights, settings: "SharedTrainingConfig") -> "torch.optim.Optimizer":
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), in torch's fused kernel."""
    import torch

    return torch.optim.AdamW(weights, fused=True, **_adam(settings))


@OPTIMIZERS.register
def adamw_8bit(weights: Weights, settings: "SharedTrainingConfig") -> "torch.optim.Optimizer":
    """AdamW with its two moments in 8 bits (Dettmers et al. 2022); needs CUDA and bitsandbytes."""
    needs_bitsandbytes("training.optimizer: adamw_8bit", weights[0].device.type, "adamw")
    import bitsandbytes

    return bitsandbytes.optim.AdamW8bit(weights, **_adam(settings))


@OPTIMIZERS.register
def adafactor(weights: Weights, settings: "SharedTrainingConfig") -> "torch.optim.Optimizer":
    """Factored second moments, no first (Shazeer and Stern 2018); the rate is relative to the
    weights' own size, so it is commonly some ten times AdamW's."""
    import torch

    return torch.optim.Adafactor(
        weights, lr=settings.learning_rate, weight_decay=settings.adam_weight_decay
    )


def _adam(settings: "SharedTrainingConfig") -> dict:
    return {
        "lr": settings.learning_rate,
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "weight_decay": settings.adam_weight_decay,
        "eps": settings.adam_epsilon,
    }


def needs_bitsandbytes(what: str, device: str, instead: str) -> None:
    """UserError unless this is a CUDA device with bitsandbytes installed."""
    if device != "cuda":
        raise UserError(f"{what} needs a CUDA GPU; here use {instead}")
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        raise UserError(
            f"{what} needs bitsandbytes: `pip install 'adire-assets[quantization]'`, "
            f"or use {instead}"
        )
