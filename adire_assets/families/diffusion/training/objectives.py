"""What the training minimises, by name.

A function takes what the denoiser predicted and what it should have, both float32 [B, C, h, w], and
gives each example's loss, [B].
"""

from typing import TYPE_CHECKING

from adire_assets.families.training.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

OBJECTIVES = Registry("objective")


@OBJECTIVES.register
def mse(predicted: "Tensor", target: "Tensor") -> "Tensor":
    """Mean squared error (Ho et al. 2020)."""
    return (predicted - target).square().mean(dim=(1, 2, 3))


@OBJECTIVES.register
def huber(predicted: "Tensor", target: "Tensor") -> "Tensor":
    """Smooth L1 with its bend at 1: quadratic for small errors, linear for outliers."""
    difference = (predicted - target).abs()
    bent = difference.clamp(max=1.0)
    return (0.5 * bent.square() + (difference - bent)).mean(dim=(1, 2, 3))
