"""Randomly initialised models of the real classes, small enough to make and run in a moment.

Their pictures are noise; shapes, files, keys and determinism are those of trained ones.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from adire_assets.core.lineage import file_digest
from adire_assets.families.diffusion.engine import architectures
from adire_assets.families.diffusion.formats.adapter_file import save_adapter

RESOLUTION = 64  # pixels
WIDTH = 32
WIDTH_SD2 = 40
WIDTH_2 = 48  # of SDXL's second text encoder; a single file tells the two apart by their widths
TOKENS = 32
Architecture = Literal["sd15", "sd2", "sdxl"]
ARCHITECTURES: tuple[Architecture, ...] = ("sd15", "sd2", "sdxl")
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# What tells the UNets of the three apart, beside their sizes.
UNETS: dict[Architecture, dict[str, Any]] = {
    "sd15": {"cross_attention_dim": WIDTH, "attention_head_dim": 2},
    "sd2": {
        "cross_attention_dim": WIDTH_SD2,
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
    },
    "sdxl": {
        "cross_attention_dim": WIDTH + WIDTH_2,
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + WIDTH_2,
    },
}


def tokenizer() -> CLIPTokenizer:
    """Every byte is a token, alone and at a word's end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(byte + "</w>" for byte in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=[],
        model_max_length=TOKENS,
    )


def text_config(words: CLIPTokenizer, width: int = WIDTH, activation: str = "quick_gelu") -> dict:
    return {
        "vocab_size": len(words),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_act": activation,
        "max_position_embeddings": TOKENS,
        "projection_dim": width,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }


def make_random_base(
    folder: Path,
    prediction_type: str | None = None,
    seed: int = 0,
    variant: str | None = None,
    width: int = 32,
    largest_weight: float | None = None,
    architecture: Architecture = "sd15",
) -> Path:
    """A pipeline folder of 64 x 64 pixels; returns `folder`.

    Stable Diffusion 1.5 (convolutions around the attention, predicts the noise), 2 (linear layers,
    OpenCLIP's activation, predicts velocity) or XL (two text encoders, pooled texts and sizes); the
    autoencoders of the latter two have attention as the published ones do.
    Files are float32, or with variant "fp16" half precision. `width` is that of the UNet's lower
    level, `largest_weight` replaces one number of its last layer.
    """
    torch.manual_seed(seed)
    words = tokenizer()
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=architecture != "sd15",
        sample_size=RESOLUTION,
    )
    text = (WIDTH_SD2, "gelu") if architecture == "sd2" else (WIDTH, "quick_gelu")
    text_encoder = CLIPTextModel(CLIPTextConfig(**text_config(words, *text)))
    unet = UNet2DConditionModel(
        sample_size=RESOLUTION // 4,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, width),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        **UNETS[architecture],
    )
    kind = prediction_type or ("v_prediction" if architecture == "sd2" else "epsilon")
    parts = {"vae": vae, "text_encoder": text_encoder, "tokenizer": words, "unet": unet}
    pipe: StableDiffusionPipeline | StableDiffusionXLPipeline
    if architecture == "sdxl":
        second = CLIPTextConfig(**text_config(words, WIDTH_2, "gelu"))
        pipe = StableDiffusionXLPipeline(
            **parts,
            text_encoder_2=CLIPTextModelWithProjection(second),
            tokenizer_2=tokenizer(),
            scheduler=EulerDiscreteScheduler(**SCHEDULE, prediction_type=kind, steps_offset=1),
            add_watermarker=False,
        )
    else:
        pipe = StableDiffusionPipeline(
            **parts,
            scheduler=DDIMScheduler(
                **SCHEDULE, prediction_type=kind, clip_sample=False, steps_offset=1
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


def make_adapter(folder: Path, base: Path, seed: int = 0) -> Path:
    """A LoRA with random weights, saved as a training saves it; returns `folder`."""
    model = architectures.load(base, None, torch.float32)
    add_random_lora(model.pipe, seed)
    folder.mkdir(parents=True, exist_ok=True)
    save_adapter(model, folder)
    return folder


def add_random_lora(pipe: Any, seed: int) -> None:
    """LoRA layers on the attention of the UNet and of each text encoder; alpha is not the rank.

    Large enough that two of them draw different images.
    """
    torch.manual_seed(seed)
    for component in ("unet", "text_encoder", "text_encoder_2"):
        model = getattr(pipe, component, None)
        if model is None:
            continue
        text = ["q_proj", "k_proj", "v_proj", "out_proj"]
        modules = ["to_k", "to_q", "to_v", "to_out.0"] if component == "unet" else text
        model.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=modules))
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weights, std=0.5)


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


def make_random_siglip(folder: Path, seed: int = 0) -> Path:
    """A SiglipModel whose tokenizer is a tokenizer.json alone, as on the hub; returns `folder`."""
    torch.manual_seed(seed)
    words = Tokenizer(models.WordLevel({"</s>": 0, "<unk>": 1, "indigo": 2, "rings": 3}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 0)])
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = {**tower, "vocab_size": 4, "max_position_embeddings": 8, "pad_token_id": 0}
    vision = {**tower, "image_size": RESOLUTION, "patch_size": 16}
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": RESOLUTION, "width": RESOLUTION}).save_pretrained(
        folder
    )
    return folder


def make_dataset(
    folder: Path,
    images: int = 6,
    held_out: int = 3,
    seed: int = 0,
    validation: int = 3,
    resolution: int = RESOLUTION,
) -> Path:
    """A dataset artifact's files with coloured noise for images; returns `folder`."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(images + held_out + validation):
        name = f"images/{number:02}.png"
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        size = (resolution + 8 * (number % 2), resolution)
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
    write_rows(folder / "held_out.jsonl", rows[images : images + held_out])
    write_rows(folder / "validation.jsonl", rows[images + held_out :])
    (folder / "summary.json").write_text(json.dumps({"resolution": resolution}))
    return folder


def write_rows(path: Path, rows: Sequence[dict]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")
