"""The denoiser's weights in 8 bits: linear layers and convolutions restore theirs at each call.

Each output of a layer has a scale of its own, and its weights are held as `int8` (whole numbers to
127) or `float8` (e4m3: 3 bits of mantissa, to 448) parts of it. Activations stay as they are, and
so does the type that is computed in, which is why every device knows both. So the weights take half
of what they do in half precision, a quarter of what they do in full precision, and a pass takes
longer by the time of restoring them.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

NONE = "none"
TYPES = {"int8": torch.int8, "float8": torch.float8_e4m3fn}
LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}


class _Room:
    """Where the layers of a part restore their weights on the CPU, one after another: memory that
    is new at each call takes several times as long."""

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self.memory: Tensor | None = None

    def restored(self, held: Tensor, scale: Tensor) -> Tensor:
        """The weights, until the next call."""
        if held.device.type != "cpu":
            return restored(held, scale)
        if self.memory is None:
            with torch.inference_mode(False):  # of use outside of it too
                self.memory = torch.empty(self.largest, dtype=scale.dtype)
        return self.memory[: held.numel()].view(held.shape).copy_(held).mul_(scale)


class _QuantizedLinear(nn.Linear):
    scale: Tensor
    room: _Room

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.room.restored(self.weight, self.scale), self.bias)


class _QuantizedConv2d(nn.Conv2d):
    scale: Tensor
    room: _Room

    def forward(self, input: Tensor) -> Tensor:
        weight = self.room.restored(self.weight, self.scale)
        return self._conv_forward(input, weight, self.bias)


@torch.no_grad()
def quantize(part: nn.Module, quantization: str) -> None:
    """Hold the weights of a part's linear layers and convolutions as `quantization` says."""
    layers: list[Any] = [one for one in part.modules() if type(one) in (nn.Linear, nn.Conv2d)]
    room = _Room(max((layer.weight.numel() for layer in layers), default=0))
    for layer in layers:
        held, scale = _quantized(layer.weight, TYPES[quantization])
        # As buffers: they are neither trained nor of the type that the part computes in.
        del layer.weight
        layer.register_buffer("weight", held)
        layer.register_buffer("scale", scale)
        layer.room = room
        layer.__class__ = _QuantizedLinear if isinstance(layer, nn.Linear) else _QuantizedConv2d


def is_quantized(part: nn.Module) -> bool:
    """Whether a part's weights are held in 8 bits."""
    return any(isinstance(one, _QuantizedLinear | _QuantizedConv2d) for one in part.modules())


def restored(held: Tensor, scale: Tensor) -> Tensor:
    """The weights as they are computed with, in the type of the scale."""
    return held.to(scale.dtype).mul_(scale)


def _quantized(weight: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """(weights in 8 bits, scale of each output in the type of the weights, [out, 1, ...])."""
    whole, largest = weight.float(), LARGEST[kind]
    precision = torch.finfo(weight.dtype)
    # Where half precision has few digits left a scale is rounded up: one too small would cut the
    # largest weights, and one of 0 would lose the output.
    smallest = precision.smallest_normal * precision.eps
    scale = (whole.flatten(1).abs().amax(1) / largest + smallest / 2).to(weight.dtype)
    scale = scale.where(scale > 0, 1).view(-1, *[1] * (weight.dim() - 1))
    # By the scale as it was rounded, which may leave the largest beyond the type.
    parts = (whole / scale.float()).clamp(-largest, largest)
    return (parts.round() if kind == torch.int8 else parts).to(kind), scale
