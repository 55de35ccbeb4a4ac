"""How the weights of convolutions lie in memory while the engine draws.

On the CPU oneDNN computes with weights in an order of its own. torch's convolution brings them into
it anew at each call, which takes as long as half of a small batch; here they stay in it.
"""

from typing import Any

import torch
from torch import Tensor, nn


class _Ordered(nn.Conv2d):
    """A convolution whose weight is in oneDNN's order."""

    def forward(self, input: Tensor) -> Tensor:
        # What torch.compile makes of a convolution; the usual one would order the weight again.
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(
            input, self.weight, self.bias, *_settings(self), "none", [], ""
        )
        return found


def order(part: nn.Module) -> None:
    """Let the convolutions of a part that draws have their weights in the order that suits its
    device."""
    for module in part.modules():
        if type(module) is not nn.Conv2d:
            continue
        if module.weight.is_cuda:
            set_weight(module, module.weight.contiguous(memory_format=torch.channels_last))
        elif module.weight.dtype == torch.float32 and module.padding_mode == "zeros":
            module.__class__ = _Ordered
            set_weight(module, module.weight)


def plain(weight: Tensor) -> Tensor:
    """A weight in the order of its shape."""
    return weight.to_dense() if weight.is_mkldnn else weight


@torch.no_grad()
def set_weight(module: nn.Linear | nn.Conv2d, weight: Tensor) -> None:
    """Give a module a weight, which is in the order of its shape."""
    if isinstance(module, _Ordered):
        weight = torch._C._nn.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), *_settings(module))
    module.weight = nn.Parameter(weight, requires_grad=False)


def _settings(module: nn.Conv2d) -> tuple[Any, ...]:
    return module.padding, module.stride, module.dilation, module.groups
