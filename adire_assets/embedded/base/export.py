"""Writes the tiny base model as stock folders that diffusers and transformers load.

Contract: `pipeline/` (StableDiffusionPipeline, fp16 variant), `judge/` (CLIPModel, tokenizer, image
processor) and `training.json`, safetensors only. Everything is written beside its place first, so
a crash leaves the former export.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from adire_assets.embedded.base.unet import build_scheduler


def write_export(
    output: Path,
    judge: CLIPModel,
    tokenizer: CLIPTokenizer,
    autoencoder: AutoencoderKL,
    unet: UNet2DConditionModel,
    record: Callable[[Path], dict],
) -> dict:
    """Write the models (turned to float16 in place) under `output`, replacing what is there, and
    training.json with what `record(pipeline folder)` says of them; returns that. The judge's text
    tower becomes the pipeline's text encoder."""
    temporary = output / "export.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    text_encoder = CLIPTextModel(judge.config.text_config)
    text_encoder.load_state_dict(_text_weights(judge, text_encoder))
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(temporary / "pipeline", variant="fp16")
    folder = temporary / "judge"
    judge.to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _image_processor(int(judge.config.vision_config.image_size)).save_pretrained(folder)
    facts = record(temporary / "pipeline")
    text = json.dumps(facts, indent=2, sort_keys=True) + "\n"
    (temporary / "training.json").write_text(text, encoding="utf-8")
    for path in temporary.rglob("*.safetensors"):
        path.chmod(0o644)  # written for the owner alone, but a server may run as somebody else
    for part in ("pipeline", "judge", "training.json"):
        target = output / part
        if target.is_dir():
            shutil.rmtree(target)
        (temporary / part).replace(target)
    temporary.rmdir()
    return facts


def _text_weights(judge: CLIPModel, encoder: CLIPTextModel) -> dict[str, Tensor]:
    """The judge's text tower under the names that CLIPTextModel uses (with or without prefix)."""
    weights = judge.text_model.state_dict()
    prefixed = any(name.startswith("text_model.") for name in encoder.state_dict())
    return {f"text_model.{name}" if prefixed else name: value for name, value in weights.items()}


def _image_processor(resolution: int) -> CLIPImageProcessorPil:
    size = {"height": resolution, "width": resolution}
    return CLIPImageProcessorPil(
        size=size,
        crop_size=size,
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
