"""Muon for the matrices of a network and AdamW for the rest, as one optimizer.

A convolution is a matrix from patches to channels. Orthogonalised momentum (Jordan et al. 2024,
"Muon: An optimizer for hidden layers in neural networks") takes the small networks of this folder
to the same loss in fewer steps than AdamW alone (docs/base-model.md). Embeddings, biases, norms and
layers with fewer than 16 channels on a side are no such matrices and keep AdamW.
"""

from typing import Any

import torch
from torch import Tensor, nn

MINIMUM_SIDE = 16  # channels


class SplitOptimizer:
    """Owns the trainable parameters of a module whose memory format does not change any more.

    `matrix_learning_rate` is Muon's, `learning_rate` AdamW's; `weight_decay` holds for both.
    """

    def __init__(
        self,
        module: nn.Module,
        learning_rate: float,
        matrix_learning_rate: float,
        weight_decay: float,
    ) -> None:
        weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
        tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
        self.matrices = [w for w in weights if _is_matrix(w) and id(w) not in tables]
        # Muon takes two dimensions: it steps views, which share the memory of the weights.
        self.views = [nn.Parameter(as_matrix(weight.data)) for weight in self.matrices]
        chosen = {id(weight) for weight in self.matrices}
        rest = [weight for weight in weights if id(weight) not in chosen]
        self.parts: dict[str, torch.optim.Optimizer] = {
            "muon": torch.optim.Muon(
                self.views, lr=matrix_learning_rate, weight_decay=weight_decay
            ),
            "adamw": torch.optim.AdamW(
                rest, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99)
            ),
        }
        self.peaks = {name: part.param_groups[0]["lr"] for name, part in self.parts.items()}

    def step(self, share: float) -> None:
        """One step at `share` (0 to 1) of the learning rates, on the gradients that stand now."""
        for weight, view in zip(self.matrices, self.views, strict=True):
            view.grad = None if weight.grad is None else as_matrix(weight.grad)
        for name, part in self.parts.items():
            part.param_groups[0]["lr"] = self.peaks[name] * share
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The state of both parts by name."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


def _is_matrix(weight: Tensor) -> bool:
    return weight.ndim > 1 and min(weight.shape[:2]) >= MINIMUM_SIDE


def as_matrix(weight: Tensor) -> Tensor:
    """[out, in, ...] as [out, -1] without a copy, in the order in which it lies in memory."""
    if not weight.is_contiguous():
        weight = weight.permute(0, 2, 3, 1)  # channels last
    return weight.view(len(weight), -1)
