"""What a base's modules are called in adapter files of diffusers, kohya's sd-scripts and ComfyUI.

All names follow from the base: its modules from the headers of its files, and the places of the
UNet's blocks in the original code (latent diffusion, LDM) from the UNet's config. A module is
`component.name` with the base's own name, for example `unet.mid_block.attentions.0.proj_in`.

    diffusers  unet.<name>                 text_encoder.<name>  text_encoder_2.<name>
    kohya      lora_unet_<name, . as _>    lora_te_<name>; of two encoders lora_te1_, lora_te2_
    comfyui    diffusion_model.<LDM name>  text_encoders.clip_l.transformer.<name> (clip_h, clip_g)

kohya's scripts train Stable Diffusion 1 and 2 with diffusers' UNet and XL with the original one, so
their names for XL are those of LDM.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adire_assets.core.errors import UserError
from adire_assets.core.store import read_json
from adire_assets.families.diffusion.safetensors_file import Stored, stored

Format = Literal["diffusers", "kohya", "comfyui"]
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
TABLES = ("token_embedding.weight", "position_embedding.weight")  # no layers, so they get no LoRA
# The blocks that the original code has too; others have no names there.
LDM_BLOCKS = {
    "down_block_types": {"DownBlock2D", "CrossAttnDownBlock2D"},
    "up_block_types": {"UpBlock2D", "CrossAttnUpBlock2D"},
}
LDM_MIDDLE = "UNetMidBlock2DCrossAttn"
LDM_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
}
LDM_LABELS = {"linear_1": "label_emb.0.0", "linear_2": "label_emb.0.2"}
LDM_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
LDM_ATTENTION = ("proj_in", "proj_out", "transformer_blocks.")  # the same names there
INNER = re.compile(r"((?:(?:down|up)_blocks\.\d+|mid_block)\.(resnets|attentions)\.\d+)\.(.+)")


@dataclass(frozen=True)
class Base:
    """`weights`: module -> its stored weight. `names[format]`: module -> what the format calls it;
    a module that the format cannot name is missing. `accepted[format]`: the other way round, with
    names that readers of the format also take. `config` is that of the UNet."""

    folder: Path
    config: dict[str, Any]
    weights: dict[str, Stored]
    names: dict[Format, dict[str, str]]
    accepted: dict[Format, dict[str, str]]

    @property
    def is_xl(self) -> bool:
        return has_two_text_encoders(self.weights)


def read_base(folder: Path) -> Base:
    """The base in a diffusers pipeline's folder. UserError when it has no UNet."""
    weights = {
        f"{component}.{name.removesuffix('.weight')}": tensor
        for component in ("unet", *TEXT_ENCODERS)
        for name, tensor in stored(folder / component).items()
        if name.endswith(".weight") and len(tensor.shape) > 1 and not name.endswith(TABLES)
    }
    if not any(module.startswith("unet.") for module in weights):
        raise UserError(
            f"{folder} has no unet in safetensors files; adapters are exported and imported for "
            "Stable Diffusion 1, 2 and XL"
        )
    config = read_json(folder / "unet" / "config.json")
    names: dict[Format, dict[str, str]] = {"diffusers": {}, "kohya": {}, "comfyui": {}}
    accepted: dict[Format, dict[str, str]] = {"diffusers": {}, "kohya": {}, "comfyui": {}}
    places, two = _ldm_places(config), has_two_text_encoders(weights)
    for module in weights:
        for target, name in _names(module, config, places, two):
            # The first name of a format is the one that is written.
            names[target].setdefault(module, name)
            if accepted[target].setdefault(name, module) != module:
                raise UserError(
                    f"{folder}: {accepted[target][name]} and {module} have the same name {name} "
                    f"in the format {target}; adapters of this base stay in diffusers' format"
                )
    return Base(folder, config, weights, names, accepted)


def has_two_text_encoders(weights: dict[str, Stored]) -> bool:
    return any(module.startswith("text_encoder_2.") for module in weights)


def text_name(name: str) -> str:
    """A text encoder's module by its long name: transformers 5 leaves `text_model.` out."""
    short = name.removeprefix("text_model.")
    return name if short.startswith("text_projection") else f"text_model.{short}"


def _names(
    module: str, config: dict[str, Any], places: dict[str, str], two: bool
) -> Iterator[tuple[Format, str]]:
    yield "diffusers", module
    component, _, name = module.partition(".")
    if component == "unet":
        ldm = _ldm_name(name, places)
        if ldm:
            yield "comfyui", f"diffusion_model.{ldm}"
        if ldm or not two:
            kohya = (ldm, name) if two else (name, ldm)
            yield from (("kohya", f"lora_unet_{_flat(other)}") for other in kohya if other)
        return
    long = text_name(name)
    yield "diffusers", f"{component}.{long}"
    yield "diffusers", f"{component}.{long.removeprefix('text_model.')}"
    # SD 2's text encoder is OpenCLIP's ViT-H; linear projections tell its UNet from SD 1's.
    clips = ["clip_h", "clip_l"] if config.get("use_linear_projection") else ["clip_l", "clip_h"]
    number = TEXT_ENCODERS.index(component) + 1
    if two:
        clips = ["clip_l", "clip_g"][number - 1 : number]
    else:
        yield "kohya", f"lora_te_{_flat(long)}"
    yield "kohya", f"lora_te{number}_{_flat(long)}"
    yield from (("comfyui", f"text_encoders.{clip}.transformer.{long}") for clip in clips)


def _ldm_places(config: dict[str, Any]) -> dict[str, str]:
    """{part of the UNet in diffusers: its place in LDM}; empty for a UNet that LDM has not.

    LDM numbers the layers through: input block 0 is the first convolution, then each level has its
    layers and, but for the last, a downsampler; on the way up each level has a layer more, and the
    upsampler belongs to its last.
    """
    known = all(set(config[key]) <= kinds for key, kinds in LDM_BLOCKS.items())
    if not known or config.get("mid_block_type", LDM_MIDDLE) != LDM_MIDDLE:
        return {}
    levels = len(config["down_block_types"])
    layers = config["layers_per_block"]
    layers = [layers] * levels if isinstance(layers, int) else list(layers)
    places = dict(LDM_ENDS)
    embedding = (
        "add_embedding" if config.get("addition_embed_type") == "text_time" else "class_embedding"
    )
    places |= {f"{embedding}.{name}": place for name, place in LDM_LABELS.items()}
    for part, place in (("resnets.0", 0), ("attentions.0", 1), ("resnets.1", 2)):
        places[f"mid_block.{part}"] = f"middle_block.{place}"
    number = 1
    for level in range(levels):
        for layer in range(layers[level]):
            places[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{number}.0"
            places[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{number}.1"
            number += 1
        places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
        number += 1
    number = 0
    for level, kind in enumerate(config["up_block_types"]):
        for layer in range(layers[levels - 1 - level] + 1):
            places[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{number}.0"
            places[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{number}.1"
            number += 1
        after = 2 if kind.startswith("CrossAttn") else 1
        places[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{number - 1}.{after}.conv"
    return places


def _ldm_name(name: str, places: dict[str, str]) -> str | None:
    """The LDM name of a UNet's module, None when there is none."""
    if name in places:
        return places[name]
    inner = INNER.fullmatch(name)
    if inner is None or inner[1] not in places:
        return None
    if inner[2] == "resnets":
        part = LDM_RESNET.get(inner[3])
    else:
        part = inner[3] if inner[3].startswith(LDM_ATTENTION) else None
    return f"{places[inner[1]]}.{part}" if part else None


def _flat(name: str) -> str:
    return name.replace(".", "_")
