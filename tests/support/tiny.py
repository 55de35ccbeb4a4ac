"""Randomly initialised models of the real classes, small enough to make and run in a moment.

Their pictures are noise; shapes, files, keys and determinism are those of trained ones.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from tokenizers import pre_tokenizers
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from adire_assets.lineage import file_digest

RESOLUTION = 64  # pixels
WIDTH = 32
TOKENS = 32


def tokenizer() -> CLIPTokenizer:
    """Every byte is a token, alone and at a word's end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(byte + "</w>" for byte in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=[],
        model_max_length=TOKENS,
    )


def text_config(words: CLIPTokenizer) -> dict:
    return {
        "vocab_size": len(words),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": TOKENS,
        "projection_dim": WIDTH,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }


def make_random_base(
    folder: Path,
    prediction_type: str = "epsilon",
    seed: int = 0,
    variant: str | None = None,
    width: int = 32,
    largest_weight: float | None = None,
) -> Path:
    """A StableDiffusionPipeline folder of 64 x 64 pixels; returns `folder`.

    Files are float32, or with variant "fp16" half precision. `width` is that of the UNet's lower
    level, `largest_weight` replaces one number of its last layer.
    """
    torch.manual_seed(seed)
    words = tokenizer()
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            norm_num_groups=4,
            mid_block_add_attention=False,
            sample_size=RESOLUTION,
        ),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text_config(words))),
        tokenizer=words,
        unet=UNet2DConditionModel(
            sample_size=RESOLUTION // 4,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(16, width),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=2,
            norm_num_groups=4,
        ),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type=prediction_type,
            clip_sample=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    if largest_weight is not None:
        pipe.unet.conv_out.weight.data[0, 0] = largest_weight
    if variant == "fp16":
        pipe.to(dtype=torch.float16)
    pipe.save_pretrained(folder, variant=variant)
    return folder


def make_random_judge(folder: Path, seed: int = 0) -> Path:
    """A CLIPModel with tokenizer and image processor for 64 x 64 pixels; returns `folder`."""
    torch.manual_seed(seed)
    words = tokenizer()
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": RESOLUTION,
        "patch_size": 16,
        "projection_dim": WIDTH,
    }
    config = CLIPConfig(text_config=text_config(words), vision_config=vision, projection_dim=WIDTH)
    CLIPModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": RESOLUTION}, crop_size={"height": RESOLUTION, "width": RESOLUTION}
    ).save_pretrained(folder)
    return folder


def make_dataset(folder: Path, images: int = 6, held_out: int = 3, seed: int = 0) -> Path:
    """A dataset artefact's files with coloured noise for images; returns `folder`."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(images + held_out):
        name = f"images/{number:02}.png"
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        size = (RESOLUTION + 8 * (number % 2), RESOLUTION)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / name)
        rows.append(
            {
                "file_name": name,
                "text": f"cloth number {number}",
                "sha256": file_digest(folder / name),
                "phash": f"{number:016x}",
            }
        )
    write_rows(folder / "train.jsonl", rows[:images])
    write_rows(folder / "held_out.jsonl", rows[images:])
    return folder


def write_rows(path: Path, rows: Sequence[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
