"""peft's linear LoRA layers computed in fewer, larger operations.

A LoRA layer is y = x Wᵀ + b + s (x Aᵀ) Bᵀ (Hu et al. 2021, equation 3). peft computes the frozen
and the low-rank part apart, multiplies by s and adds: passes over tensors as large as y, and again
in the backward. Here the low-rank part accumulates in the product that is there. The sums are the
same but for rounding. Layers with anything more (dropout, DoRA, quantized weights) stay with peft.
"""

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn


def fuse(model: nn.Module) -> int:
    """Give the plain LoRA layers of `model` with one adapter the fused forward; how many got it."""
    layers = [layer for layer in model.modules() if type(layer) is Linear and _plain(layer)]
    for layer in layers:
        layer.forward = _Forward(layer)  # type: ignore[method-assign]
    return len(layers)


def _plain(layer: Linear) -> bool:
    [name, *others] = layer.active_adapters
    return (
        not others
        and not layer.fan_in_fan_out
        and not layer.lora_variant
        and not layer.lora_bias[name]
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and type(layer.base_layer) is nn.Linear
    )


class _Forward:
    """Looks the weights up at each call, because FSDP and checkpoints replace them."""

    def __init__(self, layer: Linear) -> None:
        [name] = layer.active_adapters
        self.base, self.scale = layer.base_layer, layer.scaling[name]
        self.down, self.up = layer.lora_A[name], layer.lora_B[name]

    def __call__(self, inputs: Tensor) -> Tensor:
        tensors = [inputs, self.base.weight, self.base.bias, self.down.weight, self.up.weight]
        kind = inputs.device.type
        wanted = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        if wanted:
            tensors = [None if tensor is None else tensor.to(wanted) for tensor in tensors]
        return _LoraLinear.apply(*tensors, self.scale)


class _LoraLinear(torch.autograd.Function):
    """x [..., in], W [out, in], b [out] or None, A [r, in], B [out, r] -> [..., out].

    With g the gradient of y: dx = g W + s (g B) A, dA = s (g B)ᵀ x, dB = s gᵀ (x Aᵀ).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, s: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        low = flat @ a.t()
        out = flat @ weight.t() if bias is None else torch.addmm(bias, flat, weight.t())
        out.addmm_(low, b.t(), alpha=s)
        ctx.save_for_backward(flat, low, weight, a, b)
        ctx.scale, ctx.shape = s, x.shape
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, low, weight, a, b = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1])
        gradient_low = (gradient @ b).mul_(ctx.scale)
        inputs = None
        if ctx.needs_input_grad[0]:
            inputs = (gradient @ weight).addmm_(gradient_low, a).view(ctx.shape)
        return (
            inputs,
            None,
            None,
            gradient_low.t() @ flat,
            (gradient.t() @ low).mul_(ctx.scale),
            None,
        )
