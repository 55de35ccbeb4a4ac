"""The weight layout of convolutions during inference on the CPU.

oneDNN computes with weights in a blocked layout. torch's convolution converts them at each call,
which for a small batch takes up to half of the time; here they are converted once.
"""

from typing import Any

import torch
from torch import Tensor, nn


class _PrepackedConv2d(nn.Conv2d):
    """A convolution whose weight is in oneDNN's layout."""

    def forward(self, input: Tensor) -> Tensor:
        # The operator that torch.compile uses for it; the usual one would convert the weight again.
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(
            input, self.weight, self.bias, *_settings(self), "none", [], ""
        )
        return found


def prepack(part: nn.Module) -> None:
    """Convert the weights of a part's convolutions; on another device than the CPU do nothing."""
    if not torch.backends.mkldnn.is_available():
        return
    for module in part.modules():
        if type(module) is nn.Conv2d and _is_packable(module):
            module.__class__ = _PrepackedConv2d
            set_weight(module, module.weight)


def unpacked(weight: Tensor) -> Tensor:
    """A module's weight in torch's own layout."""
    return weight.to_dense() if weight.is_mkldnn else weight


@torch.no_grad()
def set_weight(module: nn.Linear | nn.Conv2d, weight: Tensor) -> None:
    """Replace a module's weight by one in torch's own layout."""
    if isinstance(module, _PrepackedConv2d):
        weight = torch._C._nn.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), *_settings(module))
    module.weight = nn.Parameter(weight, requires_grad=False)


def _is_packable(module: nn.Conv2d) -> bool:
    plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return plain and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32


def _settings(module: nn.Conv2d) -> tuple[Any, ...]:
    return module.padding, module.stride, module.dilation, module.groups
