"""What the training minimises, by name.

A function takes what the UNet predicted and what it should have, both float32 [B, C, h, w], and
gives each example's loss, [B]. `weights_of` then weighs the examples by their timestep.
"""

from typing import TYPE_CHECKING, Any

from adire_assets.families.diffusion.training.registry import Registry

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


def target_of(schedule: Any, clean: "Tensor", noise: "Tensor", timesteps: "Tensor") -> "Tensor":
    """What the base predicts at `timesteps`, [B, C, h, w]: the noise, or the velocity.

    Velocity is sqrt(a) noise - sqrt(1 - a) clean, Salimans and Ho 2022.
    """
    if schedule.config.prediction_type == "v_prediction":
        return schedule.get_velocity(clean, noise, timesteps)
    return noise


def weights_of(schedule: Any, timesteps: "Tensor", snr_gamma: float | None) -> "Tensor | None":
    """Min-SNR weights, float32 [B]; None without a gamma.

    With s = a / (1 - a): min(s, gamma) / s for predicted noise, min(s, gamma) / (s + 1) for
    predicted velocity (Hang et al. 2023).
    """
    if snr_gamma is None:
        return None
    kept = schedule.alphas_cumprod.to(timesteps.device)[timesteps].float()
    ratio = kept / (1 - kept)
    most = ratio.clamp(max=snr_gamma)
    return most / (ratio + 1 if schedule.config.prediction_type == "v_prediction" else ratio)
