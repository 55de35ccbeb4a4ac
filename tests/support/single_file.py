"""Checkpoints in one file, with the keys of the original code, written from a pipeline's folder."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from adire_assets.families.diffusion.engine import architectures

# The first text encoder of Stable Diffusion 1 and XL, and OpenCLIP's in 2 and XL.
CLIP = {"sd15": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}
OPEN_CLIP = {"sd2": "cond_stage_model.model.", "sdxl": "conditioner.embedders.1.model."}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OPEN_CLIP_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def write_single_file(base: Path, file: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The pipeline folder `base` as one checkpoint `file`; returns `file`.

    As published files do, it also holds positions, a noise schedule and CLIP's scale, which no
    pipeline takes.
    """
    pipe = architectures.load(base, None, torch.float32).pipe
    architecture = architecture_of(pipe)
    tensors = {f"model.diffusion_model.{k}": v for k, v in _unet(pipe.unet)}
    tensors |= {f"first_stage_model.{k}": v for k, v in _vae(pipe.vae)}
    if prefix := CLIP.get(architecture):
        first = pipe.text_encoder.state_dict().items()
        tensors |= {f"{prefix}text_model.{k.removeprefix('text_model.')}": v for k, v in first}
        positions = torch.arange(pipe.text_encoder.config.max_position_embeddings)[None]
        tensors[f"{prefix}text_model.embeddings.position_ids"] = positions
    if prefix := OPEN_CLIP.get(architecture):
        encoder = pipe.text_encoder_2 if architecture == "sdxl" else pipe.text_encoder
        tensors |= {f"{prefix}{k}": v for k, v in _open_clip(encoder)}
        tensors[f"{prefix}logit_scale"] = torch.tensor(4.6)
    tensors["alphas_cumprod"] = pipe.scheduler.alphas_cumprod
    plain = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
    save_file({k: v.detach().clone().contiguous() for k, v in plain.items()}, file)
    return file


def architecture_of(pipe: Any) -> str:
    if hasattr(pipe, "text_encoder_2"):
        return "sdxl"
    return "sd2" if pipe.unet.config.use_linear_projection else "sd15"


def _unet(unet: Any) -> Iterator[tuple[str, Tensor]]:
    deep = unet.config.layers_per_block + 1  # original blocks of one level: layers and resampling
    weights = unet.state_dict()
    for key, tensor in weights.items():
        module, _, leaf = key.rpartition(".")
        if module in UNET_ENDS:
            yield f"{UNET_ENDS[module]}.{leaf}", tensor
            continue
        side, level, kind, place, rest = re.fullmatch(
            r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(resnets|attentions|\w+samplers)\.(\d+)\.(.+)", key
        ).groups()
        number = int(level or 0) * deep + int(place)
        if kind == "resnets":
            rest = ".".join(RESNET.get(part, part) for part in rest.split("."))
        if side == "mid":
            yield f"middle_block.{1 if kind == 'attentions' else 2 * int(place)}.{rest}", tensor
        elif kind == "downsamplers":
            yield f"input_blocks.{number + deep}.0.op.{leaf}", tensor
        elif kind == "upsamplers":
            attention = any(k.startswith(f"up_blocks.{level}.attentions") for k in weights)
            yield f"output_blocks.{number + deep - 1}.{1 + attention}.{rest}", tensor
        else:
            blocks = f"input_blocks.{number + 1}" if side == "down" else f"output_blocks.{number}"
            yield f"{blocks}.{int(kind == 'attentions')}.{rest}", tensor


def _vae(vae: Any) -> Iterator[tuple[str, Tensor]]:
    top = len(vae.config.block_out_channels) - 1
    for key, tensor in vae.state_dict().items():
        name = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        for part, original in (("resnets", "block"), ("upsamplers.0", "upsample")):
            name = re.sub(
                rf"up_blocks\.(\d+)\.{part}",
                lambda found, to=original: f"up.{top - int(found[1])}.{to}",
                name,
            )
        name = re.sub(
            r"mid_block\.resnets\.(\d+)", lambda found: f"mid.block_{int(found[1]) + 1}", name
        )
        if found := re.fullmatch(r"(.+)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", name):
            name = f"{found[1]}.mid.attn_1.{VAE_ATTENTION[found[2]]}.{found[3]}"
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        yield name, tensor


def _open_clip(encoder: Any) -> Iterator[tuple[str, Tensor]]:
    weights = {k.removeprefix("text_model."): v for k, v in encoder.state_dict().items()}
    yield (
        "text_projection",
        weights.pop("text_projection.weight", torch.eye(encoder.config.hidden_size)).T,
    )
    for key, tensor in weights.items():
        if key in OPEN_CLIP_ENDS:
            yield OPEN_CLIP_ENDS[key], tensor
            continue
        layer, module, leaf = re.fullmatch(
            r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key
        ).groups()
        block = f"transformer.resblocks.{layer}"
        if module in OPEN_CLIP_LAYER:
            yield f"{block}.{OPEN_CLIP_LAYER[module]}.{leaf}", tensor
        elif module == "self_attn.q_proj":
            parts = [weights[f"encoder.layers.{layer}.self_attn.{p}_proj.{leaf}"] for p in "qkv"]
            yield f"{block}.attn.in_proj_{leaf}", torch.cat(parts)
