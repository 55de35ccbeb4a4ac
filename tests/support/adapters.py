"""Tiny pipelines in the shape of Stable Diffusion 1.5, 2 and XL, and random LoRAs on them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig, get_peft_model_state_dict
from safetensors import safe_open
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from adire_assets.families.diffusion.engine import architectures
from adire_assets.families.diffusion.formats.adapters import export
from adire_assets.families.diffusion.formats.base_names import Format
from tests.support import tiny

PLAIN, CROSS = "{}Block2D", "CrossAttn{}Block2D"
# Levels with attention from the top, and what else tells the UNets apart.
UNETS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "sd15": ((CROSS, CROSS, PLAIN), {"cross_attention_dim": tiny.WIDTH}),
    "sd2": (
        (CROSS, CROSS, PLAIN),
        {"cross_attention_dim": tiny.WIDTH, "use_linear_projection": True},
    ),
    "sdxl": (
        (PLAIN, CROSS, CROSS),
        {
            "cross_attention_dim": 2 * tiny.WIDTH,
            "use_linear_projection": True,
            "transformer_layers_per_block": (1, 1, 2),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + tiny.WIDTH,
        },
    ),
}
ENCODERS = ("text_encoder", "text_encoder_2")
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
TEXT_ATTENTION = ["q_proj", "k_proj", "v_proj", "out_proj"]


def make_unet(architecture: str, **changed: Any) -> UNet2DConditionModel:
    levels, settings = UNETS[architecture]
    return UNet2DConditionModel(
        **{
            "sample_size": tiny.RESOLUTION // 4,
            "layers_per_block": 2,
            "block_out_channels": (8, 16, 24),
            "attention_head_dim": 2,
            "norm_num_groups": 4,
            "down_block_types": [level.format("Down") for level in levels],
            "up_block_types": [level.format("Up") for level in reversed(levels)],
            **settings,
            **changed,
        }
    )


def make_base(folder: Path, architecture: str, seed: int = 0, **changed: Any) -> Path:
    """A pipeline's folder of 64 x 64 pixels; `changed` settings are the UNet's."""
    torch.manual_seed(seed)
    words = tiny.tokenizer()
    config = CLIPTextConfig(**tiny.text_config(words))
    parts: dict[str, Any] = {
        "vae": AutoencoderKL(
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            norm_num_groups=4,
            mid_block_add_attention=False,
            sample_size=tiny.RESOLUTION,
        ),
        "text_encoder": CLIPTextModel(config),
        "tokenizer": words,
        "unet": make_unet(architecture, **changed),
        "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1),
    }
    if architecture == "sdxl":
        pipe = StableDiffusionXLPipeline(
            **parts,
            text_encoder_2=CLIPTextModelWithProjection(config),
            tokenizer_2=tiny.tokenizer(),
            add_watermarker=False,
        )
    else:
        pipe = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipe.save_pretrained(folder)
    return folder


def layers_of(model: nn.Module) -> list[str]:
    """The full name of everything that can carry a LoRA."""
    return [name for name, one in model.named_modules() if isinstance(one, nn.Linear | nn.Conv2d)]


def make_adapter(
    folder: Path,
    base: Path,
    *,
    unet: list[str] | None = None,
    text: list[str] | None = None,
    seed: int = 0,
    variant: str | None = None,
    **settings: Any,
) -> Path:
    """A LoRA with random weights on the UNet (default: all of it) and each text encoder.

    `settings` are those of peft's LoraConfig; an alpha that is not the rank is the default.
    """
    torch.manual_seed(seed)
    pipe = architectures.load(base, variant, torch.float32).pipe
    layers: dict[str, Any] = {}
    for component in ("unet", *ENCODERS):
        model = getattr(pipe, component, None)
        targets = unet if component == "unet" else text
        if model is None or targets == []:
            continue
        given = {"r": 3, "lora_alpha": 5, "init_lora_weights": False, **settings}
        model.add_adapter(LoraConfig(target_modules=targets or layers_of(model), **given))
        for name, weight in model.named_parameters():
            if "magnitude" in name:
                weight.data *= 1 + 0.2 * torch.rand_like(weight)
        facts = model.peft_config["default"].to_dict()
        tensors = get_peft_model_state_dict(model)
        layers[f"{component}_lora_layers"] = {
            # transformers reads a text encoder's magnitudes by this name alone.
            f"{name}.weight" if "magnitude" in name and component != "unet" else name: tensor
            for name, tensor in tensors.items()
        }
        layers[f"{component}_lora_adapter_metadata"] = {
            key: sorted(value) if isinstance(value, set) else value for key, value in facts.items()
        }
    folder.mkdir(parents=True)
    type(pipe).save_lora_weights(str(folder), **layers)
    return folder


def load(base: Path, adapter: Path | None, variant: str | None = None) -> Any:
    """A pipeline with an adapter, by stock diffusers."""
    pipe = architectures.load(base, variant, torch.float32).pipe
    if adapter is not None:
        pipe.load_lora_weights(str(adapter))
    return pipe


def draw(base: Path, adapter: Path | None, variant: str | None = None) -> np.ndarray:
    """[64, 64, 3] float32 in [0, 1]."""
    pipe = load(base, adapter, variant)
    return pipe(
        "indigo circles",
        num_inference_steps=2,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images[0]


def merged_weights(base: Path, adapter: Path | None, variant: str | None = None) -> dict[str, Any]:
    """{component.module: weight} with the adapter merged in, by stock diffusers and peft."""
    pipe = load(base, adapter, variant)
    if adapter is not None:
        pipe.fuse_lora(components=[name for name in ("unet", *ENCODERS) if hasattr(pipe, name)])
    return {
        f"{component}.{name.removesuffix('.weight').removesuffix('.base_layer')}": weight
        for component in ("unet", *ENCODERS)
        if hasattr(pipe, component)
        for name, weight in getattr(pipe, component).state_dict().items()
        if name.endswith(".weight") and weight.ndim > 1 and ".lora_" not in name
    }


class Case:
    """A base with adapters on it, each made once."""

    def __init__(self, name: str, base: Path, folder: Path, **whole: Any) -> None:
        self.name, self.base, self.folder, self.whole = name, base, folder, whole
        self.variant = whole.get("variant")
        self.expected: dict[str | None, dict[str, torch.Tensor]] = {}

    def adapter(self, kind: str = "lora") -> Path:
        """lora: on everything; attention: on attention alone; dora and rslora: with other ranks."""
        folder = self.folder / kind
        given: dict[str, Any] = {
            "lora": {"rank_pattern": {"to_q": 2}, "alpha_pattern": {"to_q": 7, "q_proj": 0.5}},
            "attention": {"unet": ATTENTION, "text": TEXT_ATTENTION},
            "dora": {"use_dora": True, "rank_pattern": {"to_q": 2}},
            "rslora": {"use_rslora": True, "rank_pattern": {"to_q": 2, "fc1": 4}},
        }[kind]
        if not folder.exists():
            make_adapter(folder, self.base, **{**self.whole, **given})
        return folder

    def merged(self, kind: str | None) -> dict[str, torch.Tensor]:
        """The base's weights with an adapter (None: without) merged in by stock diffusers."""
        if kind not in self.expected:
            folder = self.adapter(kind) if kind else None
            self.expected[kind] = merged_weights(self.base, folder, self.variant)
        return dict(self.expected[kind])

    def export(self, kind: str, to: Format, out: Path) -> Path:
        file = out / f"{to}.safetensors"
        export(self.adapter(kind), self.base, to, file)
        return file


def metadata_of(file: Path) -> dict[str, str]:
    with safe_open(file, framework="numpy") as opened:
        return opened.metadata()
