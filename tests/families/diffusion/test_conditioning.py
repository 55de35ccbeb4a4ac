"""An architecture gives its denoiser what the stock pipeline's own call gives it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from adire_assets.families.diffusion.engine import architectures
from adire_assets.families.diffusion.engine.architecture import Architecture
from tests.support import tiny

CAPTIONS = ["circles", "white crosses on indigo"]


def encoded(model: Architecture, resolution: int = tiny.RESOLUTION) -> dict[str, torch.Tensor]:
    return model.for_size(model.encode(CAPTIONS), resolution, resolution)


def told(pipe: Any) -> dict[str, Any]:
    """What the pipeline's own call hands to its UNet, without guidance."""
    seen: list[dict[str, Any]] = []
    hook = pipe.unet.register_forward_pre_hook(
        lambda _, inputs, named: seen.append(named), with_kwargs=True
    )
    pipe(CAPTIONS, num_inference_steps=1, guidance_scale=0.0, output_type="latent")
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_it_is_what_the_stock_call_tells_the_unet(
    bases: dict[tiny.Architecture, Path], architecture: tiny.Architecture
) -> None:
    model = architectures.load(bases[architecture], None, torch.float32)
    stock = told(model.pipe)
    with torch.no_grad():
        ours = encoded(model)
    assert torch.equal(ours["encoder_hidden_states"], stock["encoder_hidden_states"])
    if architecture != "sdxl":
        assert set(ours) == {"encoder_hidden_states"}
        return
    assert ours["text_embeds"].shape == (2, tiny.WIDTH_2)
    assert torch.equal(ours["text_embeds"], stock["added_cond_kwargs"]["text_embeds"])
    assert torch.equal(ours["time_ids"], stock["added_cond_kwargs"]["time_ids"])
    assert ours["time_ids"].tolist() == [[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * 2


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_the_unet_takes_it_and_gradients_reach_the_text_encoders(
    bases: dict[tiny.Architecture, Path], architecture: tiny.Architecture
) -> None:
    model = architectures.load(bases[architecture], None, torch.float32)
    latents, times = torch.randn(2, 4, 16, 16), torch.tensor([10, 500])
    model.denoise(latents, times, encoded(model)).square().mean().backward()
    for name in model.text_encoders:
        first = model.component(name).get_input_embeddings().weight
        assert first.grad is not None and first.grad.abs().max() > 0


def test_the_embedded_base_takes_the_texts_alone(embedded_base: Path) -> None:
    model = architectures.load(embedded_base, "fp16", torch.float32)
    with torch.no_grad():
        taken = encoded(model, 128)
        assert model.pipe.unet.config.addition_embed_type == "text"
        assert set(taken) == {"encoder_hidden_states"}
        drawn = model.denoise(torch.randn(2, 12, 16, 16), torch.tensor([10, 500]), taken)
    assert drawn.shape == (2, 12, 16, 16)
