"""The UNet: denoises latents under the guidance of the judge's frozen text tower.

Contract: a stock UNet2DConditionModel that the stock StableDiffusionPipeline runs. It predicts
velocity under a schedule that ends in pure noise (rescaled betas): plain cloth has a mean colour,
which a schedule that never reaches pure noise gives away. `addition_embed_type="text"` hands a
pooled caption to every block, which is what makes motifs (and not only colours) follow the words.
"""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from adire_assets.embedded.base.autoencoder import LATENT_CHANNELS, REDUCTION
from adire_assets.embedded.base.optimizer import SplitOptimizer
from adire_assets.embedded.base.stages import AveragedWeights, Loop, batch_rng, cosine

TEXT_WIDTH = 128
SIGNAL_TO_NOISE_CAP = 5.0  # min-SNR weighting, Hang et al. 2023


@dataclass(frozen=True)
class UnetSettings:
    """How the UNet is trained."""

    steps: int = 6200
    batch_size: int = 48
    learning_rate: float = 1e-3
    matrix_learning_rate: float = 0.02
    warmup: int = 150
    caption_dropout: float = 0.1  # share of captions left empty, for classifier-free guidance
    average_decay: float = 0.999


def build_unet(resolution: int = 128) -> UNet2DConditionModel:
    """An untrained UNet of about 8.1 M parameters, attention at 1/16 and 1/32 of the side."""
    return UNet2DConditionModel(
        sample_size=resolution // REDUCTION,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(64, 112, 160),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def build_scheduler() -> DDIMScheduler:
    """The schedule of training and sampling: velocity, 1,000 steps, zero terminal signal."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # unused by trailing spacing; the pipeline warns about anything else
    )


def train_unet(
    model: UNet2DConditionModel,
    latents: Tensor,
    texts: Tensor,
    text_of: np.ndarray,
    settings: UnetSettings,
    loop: Loop,
    seed: int,
    device: torch.device,
) -> float:
    """Train in place and leave the averaged weights in `model`; returns CPU seconds.

    `latents` float16 [N, 12, h, w]; `texts` float16 [M, L, 128], the last one the empty caption;
    `text_of` int [N] says which text belongs to which latent.
    """
    model.to(device).train()
    model.set_attn_processor(AttnProcessor())  # on CPU its backward beats that of SDPA
    optimizer = SplitOptimizer(
        model, settings.learning_rate, settings.matrix_learning_rate, weight_decay=1e-2
    )
    average = AveragedWeights(model, settings.average_decay)
    cumulative = build_scheduler().alphas_cumprod.to(device)

    def step(number: int) -> Tensor:
        rng = batch_rng(seed, 3, number)
        chosen = rng.integers(0, len(latents), settings.batch_size)
        which = text_of[chosen].copy()
        which[rng.random(len(which)) < settings.caption_dropout] = len(texts) - 1
        # Stratified times: every batch sees the whole schedule, which steadies the loss.
        share = (np.arange(len(chosen)) + rng.random(len(chosen))) / len(chosen)
        times = torch.from_numpy((share * 1000).astype(np.int64)).to(device)
        clean = latents[chosen].to(device, torch.float32)
        noise = torch.from_numpy(rng.standard_normal(tuple(clean.shape), dtype=np.float32)).to(
            device
        )
        kept = cumulative[times][:, None, None, None]
        noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
        velocity = kept.sqrt() * noise - (1 - kept).sqrt() * clean
        with torch.autocast(device.type, torch.bfloat16):
            text = texts[which].to(device, torch.float32)
            predicted = model(noisy, times, text).sample
        ratio = kept / (1 - kept)
        weight = ratio.clamp(max=SIGNAL_TO_NOISE_CAP) / (ratio + 1)
        # Velocity weighs clean and noise alike; near pure noise all the learning is in the words.
        weight = weight.clamp(min=0.3)
        loss = (weight * (predicted.float() - velocity).square()).mean()
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(cosine(number, settings.steps, 1.0, settings.warmup))
        average.update(model, number)
        return loss.detach()

    spent = loop.run({"model": model, "optimizer": optimizer, "average": average}, step)
    model.set_default_attn_processor()
    average.copy_to(model)
    model.eval()
    return spent
