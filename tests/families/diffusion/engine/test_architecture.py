"""A second architecture is one class: a transformer that matches flows, trained and sampled."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from adire_assets.core import lineage
from adire_assets.families.diffusion import ENGINE, FAMILY
from adire_assets.families.diffusion.base import resolve
from adire_assets.families.diffusion.engine import architectures
from adire_assets.families.diffusion.engine.architecture import Architecture, Conditioning, Latents
from adire_assets.families.diffusion.engine.sampling import ADAPTER_FILE, Request, Sampler
from adire_assets.families.diffusion.formats.adapter import inspect_adapter
from tests.support import tiny, training

SHIFT = 3.0  # of the timesteps towards noise


class FlowNoise:
    """Straight paths from data to noise (Esser et al. 2024), by the schedule of a base."""

    def __init__(self, schedule: FlowMatchEulerDiscreteScheduler) -> None:
        self.count, self.shift = schedule.config.num_train_timesteps, schedule.config.shift

    def timesteps(self, count: int, rng: torch.Generator) -> Tensor:
        return self._shifted(torch.randn(count, generator=rng).sigmoid())

    def timestep(self, share: float) -> Tensor:
        return self._shifted(torch.tensor([share]))

    def add(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        sigma = (timesteps / self.count)[:, None, None, None]
        return (1 - sigma) * clean + sigma * noise

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise - clean

    def _shifted(self, sigma: Tensor) -> Tensor:
        return self.count * self.shift * sigma / (1 + (self.shift - 1) * sigma)


class StableDiffusion3(Architecture):
    name = "Stable Diffusion 3"
    denoiser = "transformer"
    text_encoders = ("text_encoder", "text_encoder_2")
    target_modules = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")
    load_options: ClassVar = {"text_encoder_3": None, "tokenizer_3": None}  # T5 may be left out

    @property
    def latents(self) -> Latents:
        scale, vae = self.pipe.vae_scale_factor, self.pipe.vae.config
        return Latents(
            channels=self.pipe.transformer.config.in_channels,
            scale=scale,
            multiple=scale * self.pipe.transformer.config.patch_size,
            scaling_factor=vae.scaling_factor,
            shift_factor=vae.shift_factor,
        )

    def encode(self, texts: Sequence[str]) -> Conditioning:
        words, _, pooled, _ = self.pipe.encode_prompt(
            list(texts), None, None, do_classifier_free_guidance=False
        )
        return {"encoder_hidden_states": words, "pooled_projections": pooled}

    def denoise(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        return self.pipe.transformer(noisy, timestep=timesteps, return_dict=False, **conditioning)[
            0
        ]

    def noise(self) -> FlowNoise:
        return FlowNoise(self.scheduler)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder, words = tmp_path_factory.mktemp("sd3"), tiny.tokenizer()
    encoders = [
        CLIPTextModelWithProjection(CLIPTextConfig(**tiny.text_config(words, width)))
        for width in (tiny.WIDTH, tiny.WIDTH_2)
    ]
    StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=tiny.RESOLUTION // 4,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=96,
            caption_projection_dim=32,
            pooled_projection_dim=tiny.WIDTH + tiny.WIDTH_2,
            pos_embed_max_size=32,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=AutoencoderKL(
            block_out_channels=(8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=tiny.RESOLUTION,
            scaling_factor=1.5,
            shift_factor=0.06,
        ),
        text_encoder=encoders[0],
        tokenizer=words,
        text_encoder_2=encoders[1],
        tokenizer_2=tiny.tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    table = architectures.ARCHITECTURES
    monkeypatch.setitem(table, "StableDiffusion3Pipeline", StableDiffusion3)


@pytest.mark.parametrize("text", [False, True])
def test_a_transformer_in_the_unets_place_is_trained_and_drawn_as_stock_diffusers_draws(
    tmp_path: Path, base: Path, dataset: Path, text: bool
) -> None:
    assert resolve(str(base), None, None, tmp_path).path == base
    settings = {"aspect_ratio_buckets": True, "train_text_encoder": text, "max_train_steps": 24}
    adapter = training.run(tmp_path, base, dataset, **settings)
    report = json.loads((adapter / "training.json").read_text())
    assert report["final_loss"] < report["first_loss"]
    assert inspect_adapter(adapter, base) == []
    parts = {key.partition(".")[0] for key in load_file(adapter / ADAPTER_FILE)}
    assert parts == {"transformer", *(StableDiffusion3.text_encoders if text else ())}

    stock = StableDiffusion3Pipeline.from_pretrained(base, **StableDiffusion3.load_options)
    stock.set_progress_bar_config(disable=True)
    asked = Request("circles", negative_prompt="red", seed=7, num_inference_steps=3)
    sampler = Sampler(base, adapter=adapter, device="cpu")
    for with_adapter in (False, True):
        if with_adapter:
            stock.load_lora_weights(str(adapter))
        image = stock(
            asked.prompt,
            negative_prompt=asked.negative_prompt,
            guidance_scale=asked.guidance_scale,
            num_inference_steps=asked.num_inference_steps,
            generator=torch.Generator().manual_seed(asked.seed),
            output_type="np",
        ).images
        [drawn] = sampler.generate([asked], with_adapter)
        difference = np.abs((image * 255).round() - drawn).max()
        # Prepacked convolutions and merged weights round otherwise.
        assert difference <= 1 + with_adapter
    [bare] = sampler.generate([asked], with_adapter=False)
    assert not np.array_equal(drawn, bare)


def test_latents_are_shifted_and_scaled_and_come_back() -> None:
    latents = Latents(channels=4, scale=8, multiple=16, scaling_factor=1.5, shift_factor=0.5)
    found = torch.tensor([0.5, 2.5])
    assert latents.normalized(found).tolist() == [0.0, 3.0]
    assert latents.restored(latents.normalized(found)).tolist() == found.tolist()
    assert latents.shape(width=64, height=32) == (4, 4, 8)


def test_a_release_takes_all_along_that_draws() -> None:
    modules = FAMILY.release.modules
    assert set(lineage.sources(modules)) == set(modules)
    assert set(ENGINE.modules) < set(modules)
