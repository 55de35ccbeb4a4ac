"""The fused LoRA layers compute what peft's compute."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor

from adire_assets.families.training.fused_lora import fuse

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.2", "conv1"]


def with_lora(base: Path, **options: Any) -> UNet2DConditionModel:
    unet = UNet2DConditionModel.from_pretrained(base / "unet").requires_grad_(False)
    settings = {"r": 4, "lora_alpha": 6, "target_modules": TARGETS, "init_lora_weights": False}
    torch.manual_seed(0)
    unet.add_adapter(LoraConfig(**settings | options))
    return unet.train()


def gradients(
    unet: UNet2DConditionModel, autocast: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    rng = torch.Generator().manual_seed(0)
    config = unet.config
    noisy = torch.randn(2, config.in_channels, 16, 16, generator=rng)
    words = torch.randn(2, 5, config.cross_attention_dim, generator=rng)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = unet(noisy, torch.tensor([10, 900]), words, return_dict=False)[0]
    out.float().square().mean().backward()
    found = {name: w.grad for name, w in unet.named_parameters() if w.grad is not None}
    return out.detach(), found


@pytest.mark.parametrize(("autocast", "tolerance"), [(False, 1e-4), (True, 0.1)])
def test_output_and_gradients_are_those_of_peft(
    random_base: Path, autocast: bool, tolerance: float
) -> None:
    plain, fused = with_lora(random_base), with_lora(random_base)
    linear = sum(
        isinstance(layer, torch.nn.Linear) and name.endswith("base_layer")
        for name, layer in fused.named_modules()
    )
    assert fuse(fused) == linear > 0
    (expected, theirs), (out, ours) = gradients(plain, autocast), gradients(fused, autocast)
    assert torch.linalg.norm(out - expected) <= tolerance * torch.linalg.norm(expected)
    assert set(ours) == set(theirs)
    assert any("lora_A" in name for name in ours)
    for name, gradient in theirs.items():
        difference = torch.linalg.norm(ours[name] - gradient)
        assert difference <= tolerance * torch.linalg.norm(gradient), name


@pytest.mark.parametrize(
    "options", [{"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}]
)
def test_layers_with_more_to_them_stay_with_peft(
    random_base: Path, options: dict[str, Any]
) -> None:
    assert fuse(with_lora(random_base, **options)) == 0
