"""The autoencoder: pixels to latents of an eighth of the side and 12 channels, and back.

Contract: a stock AutoencoderKL. After training the statistics of the latents are folded into the
1x1 convolutions around them, so each channel has mean 0 and deviation 1 and `scaling_factor` is 1.
"""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from adire_assets.embedded.base.optimizer import SplitOptimizer
from adire_assets.embedded.base.stages import Loop, as_input, batch_rng, cosine

LATENT_CHANNELS = 12
REDUCTION = 8  # pixels per latent, each way
# The rate-distortion optimum drowns detail below a variance of KL_WEIGHT * values / 2, where a
# 128-pixel image has 49,152 values in [-1, 1]: this leaves room for 38 dB, 2.5e-7 only for 28.
KL_WEIGHT = 2.5e-8


@dataclass(frozen=True)
class AutoencoderSettings:
    """How the autoencoder is trained."""

    steps: int = 6000
    batch_size: int = 8  # crops of half the side; a quarter as many whole images
    learning_rate: float = 2e-3
    matrix_learning_rate: float = 0.02
    warmup: int = 100


def build_autoencoder(resolution: int = 128) -> AutoencoderKL:
    """An untrained autoencoder of about 1.7 M parameters."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=resolution,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def train_autoencoder(
    model: AutoencoderKL,
    images: np.ndarray,
    settings: AutoencoderSettings,
    loop: Loop,
    seed: int,
    device: torch.device,
    decoder_only: bool = False,
) -> float:
    """Train in place on uint8 [N, H, W, 3]; returns CPU seconds. Three steps of four see crops.

    `decoder_only` leaves the latents as they are and learns only to draw them better.
    """
    model.to(device, memory_format=torch.channels_last).train()
    for part in (model.encoder, model.quant_conv):
        part.requires_grad_(not decoder_only)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = SplitOptimizer(
        model, settings.learning_rate, settings.matrix_learning_rate, weight_decay=1e-4
    )
    side = images.shape[1]
    crop = side // 2

    def step(number: int) -> Tensor:
        rng = batch_rng(seed, 4 if decoder_only else 2, number)
        whole = number % 4 == 3
        size = max(1, settings.batch_size // 4) if whole else settings.batch_size
        chosen = rng.integers(0, len(images), size)
        batch = images[chosen]
        if not whole:
            # Corners on multiples of the reduction keep the phase that whole images have.
            top, left = rng.integers(0, crop // REDUCTION + 1, 2) * REDUCTION
            batch = batch[:, top : top + crop, left : left + crop]
        if rng.random() < 0.5:
            batch = batch[:, :, ::-1]
        if rng.random() < 0.5:
            batch = batch[:, ::-1]
        pixels = as_input(batch, device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            posterior = model.encode(pixels).latent_dist
            noise = torch.from_numpy(
                rng.standard_normal(tuple(posterior.mean.shape), dtype=np.float32)
            ).to(device)
            latents = posterior.mean + posterior.std * noise
            output = model.decode(latents).sample
        error = output.float() - pixels
        loss = functional.mse_loss(output.float(), pixels) + 0.05 * error.abs().mean()
        loss = loss + KL_WEIGHT * posterior.kl().float().mean()
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step(cosine(number, settings.steps, 1.0, settings.warmup))
        return loss.detach()

    spent = loop.run({"model": model, "optimizer": optimizer}, step)
    model.to(memory_format=torch.contiguous_format).eval()
    return spent


@torch.no_grad()
def encode_images(model: AutoencoderKL, images: np.ndarray, batch_size: int = 128) -> Tensor:
    """Latent means of uint8 [N, H, W, 3] as float16 [N, 12, H/8, W/8]."""
    parts = []
    for start in range(0, len(images), batch_size):
        pixels = as_input(images[start : start + batch_size], model.device)
        with torch.autocast(model.device.type, torch.bfloat16):
            mean = model.encode(pixels).latent_dist.mode()
        parts.append(mean.to("cpu", torch.float16))
    return torch.cat(parts)


@torch.no_grad()
def normalise_latents(model: AutoencoderKL, images: np.ndarray) -> None:
    """Fold mean and deviation of each latent channel into the convolutions around the latents."""
    latents = encode_images(model, images).float()
    mean = latents.mean((0, 2, 3)).to(model.device)
    deviation = latents.std((0, 2, 3)).to(model.device)
    before, after = model.quant_conv, model.post_quant_conv
    after.bias += torch.einsum("oikl,i->o", after.weight, mean)
    after.weight *= deviation[None, :, None, None]
    before.weight[:LATENT_CHANNELS] /= deviation[:, None, None, None]
    before.bias[:LATENT_CHANNELS] = (before.bias[:LATENT_CHANNELS] - mean) / deviation
    before.bias[LATENT_CHANNELS:] -= 2 * deviation.log()


@torch.no_grad()
def psnr(model: AutoencoderKL, images: np.ndarray) -> float:
    """Mean peak signal-to-noise ratio in dB of uint8 [N, H, W, 3] there and back."""
    ratios = []
    for start in range(0, len(images), 32):
        pixels = as_input(images[start : start + 32], model.device)
        output = model.decode(model.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
        error = ((output - pixels) / 2).square().mean((1, 2, 3))
        ratios.append(-10 * error.log10())
    return float(torch.cat(ratios).mean())
