"""What an adapter adds to each weight of its base, as the engine computes with it.

Reads the file that stock diffusers reads, in the names of diffusers and of peft: LoRA (Hu et al.
2021), rsLoRA (Kalajdzievski 2023) and DoRA (Liu et al. 2024), of linear layers and convolutions, in
the denoiser and the text encoders.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from safetensors import safe_open
from torch import Tensor, nn

from .architecture import Architecture
from .layouts import unpacked
from .quantized import restored

ADAPTER_FILE = "pytorch_lora_weights.safetensors"
SETTINGS = "lora_adapter_metadata"  # the metadata in which diffusers keeps peft's settings
HALVES = {  # names of the two matrices -> which one
    **dict.fromkeys(("lora_A.weight", "lora.down.weight", "lora_linear_layer.down.weight"), "down"),
    **dict.fromkeys(("lora_B.weight", "lora.up.weight", "lora_linear_layer.up.weight"), "up"),
    **dict.fromkeys(("lora_magnitude_vector", "lora_magnitude_vector.weight"), "magnitude"),
}
TEXT_PREFIX = "text_model."  # of a text encoder's modules: files come with and without it


class AdapterError(ValueError):
    """An adapter that does not fit its base, in one sentence."""


@dataclass(frozen=True)
class Layer:
    """What an adapter adds to y = W x + b: up (down x) + gain * W x.

    `down`: [rank, in], of a convolution [rank, in, height, width]; `up`: [out, rank], scaled by
    alpha / rank; `gain`: [out] of a DoRA, whose y is (m / |W + BA|) (W + BA) x + b, else None.
    """

    down: Tensor
    up: Tensor
    gain: Tensor | None

    def change(self, weight: Tensor) -> Tensor:
        """What it adds to the weight, in float32 and in its shape."""
        change = (self.up.float() @ self.down.float().flatten(1)).view_as(weight)
        if self.gain is not None:
            change += _along_outputs(self.gain.float(), weight) * weight.float()
        return change


Layers = dict[tuple[str, str], Layer]  # by (component, name of the module in it)


@dataclass(frozen=True)
class BaseWeight:
    """A weight of the base as its module holds it; `scale` where it is quantized."""

    held: Tensor
    scale: Tensor | None

    @property
    def dtype(self) -> torch.dtype:
        """The type that is computed in."""
        return self.held.dtype if self.scale is None else self.scale.dtype

    def whole(self) -> Tensor:
        """In torch's own layout, in the type that is computed in."""
        return unpacked(self.held) if self.scale is None else restored(self.held, self.scale)


Weights = Mapping[tuple[str, str], BaseWeight]  # the base's own, of all that can get a layer


def weights_of(model: Architecture) -> Weights:
    """The weights of a base that has no adapter on it."""
    return {
        (component, name): BaseWeight(module.weight, getattr(module, "scale", None))
        for component in model.trainable()
        for name, module in model.component(component).named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


def read(folder: Path, base: Weights) -> Layers:
    """The layers of the adapter in `folder`, on the device and in the type of the base.

    AdapterError when a tensor belongs to nothing in the base, or a shape does not fit.
    """
    file = folder / ADAPTER_FILE
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    with safe_open(file, framework="pt") as tensors:
        settings = json.loads((tensors.metadata() or {}).get(SETTINGS) or "{}")
        for key in tensors.keys():  # noqa: SIM118 - it is no mapping
            where, half = _parted(key, file)
            component, _, name = where.partition(".")
            found.setdefault((component, name), {})[half] = tensors.get_tensor(key).float()
    layers: Layers = {}
    for (component, name), parts in sorted(found.items()):
        kept = _name(base, component, name, file)
        with torch.no_grad():
            own = base[component, kept]
            layers[component, kept] = _layer(own, parts, settings, component, name, file)
    return layers


def _parted(key: str, file: Path) -> tuple[str, str]:
    for ending, half in HALVES.items():
        if key.endswith(f".{ending}"):
            return key.removesuffix(f".{ending}"), half
    raise AdapterError(f"{file}: {key} is no tensor of a LoRA")


def _name(base: Weights, component: str, name: str, file: Path) -> str:
    """What the base calls the layer."""
    short = name.removeprefix(TEXT_PREFIX)
    for one in (name, short, TEXT_PREFIX + short):
        if (component, one) in base:
            return one
    raise AdapterError(f"{file}: the base has no layer {component}.{name}; is it for another base?")


def _layer(
    own: BaseWeight,
    parts: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    component: str,
    name: str,
    file: Path,
) -> Layer:
    down, up = parts.get("down"), parts.get("up")
    if down is None or up is None:
        raise AdapterError(f"{file}: half of {component}.{name} is missing")
    rank, weight = down.shape[0], own.held  # of which shape and device count
    if down.shape[1:] != weight.shape[1:] or up.shape[:2] != (weight.shape[0], rank) or not rank:
        raise AdapterError(
            f"{file}: {component}.{name} is {list(up.shape)} by {list(down.shape)}, which does not "
            f"fit a weight of {list(weight.shape)}; is it for another base?"
        )
    down, up = down.to(weight.device), up.flatten(1).to(weight.device)
    up = up * _scale(settings, component, name, rank)
    gain = None
    if (magnitude := parts.get("magnitude")) is not None:
        if magnitude.numel() != weight.shape[0]:
            raise AdapterError(
                f"{file}: {component}.{name} has {magnitude.numel()} magnitudes for a weight of "
                f"{list(weight.shape)}; is it for another base?"
            )
        whole = own.whole().float() + (up @ down.flatten(1)).view(weight.shape)
        gain = magnitude.flatten().to(weight.device) / whole.flatten(1).norm(dim=1)
        up, gain = gain[:, None] * up, (gain - 1).to(own.dtype)
    return Layer(down.to(own.dtype), up.to(own.dtype), gain)


def _scale(settings: Mapping[str, Any], component: str, name: str, rank: int) -> float:
    """alpha / rank, or of rsLoRA alpha / sqrt(rank), by peft's settings; without any 1."""
    own = {key: settings.get(f"{component}.{key}") for key in ("lora_alpha", "alpha_pattern")}
    if own["lora_alpha"] is None:
        return 1.0
    patterns = own["alpha_pattern"] or {}
    names = (name, name.removeprefix(TEXT_PREFIX))
    alphas = (patterns.get(get_pattern_key(list(patterns), one)) for one in names)
    alpha = next((alpha for alpha in alphas if alpha is not None), own["lora_alpha"])
    root = settings.get(f"{component}.use_rslora")
    return float(alpha) / (math.sqrt(rank) if root else rank)


def _along_outputs(values: Tensor, weight: Tensor) -> Tensor:
    """[out] values, shaped to be multiplied with a weight [out, in, ...]."""
    return values.view(-1, *[1] * (weight.dim() - 1))
