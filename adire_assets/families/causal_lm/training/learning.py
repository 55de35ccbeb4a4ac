"""What a language model's training learns: to say the next token of an answer.

The `Task` of the training loop. Logits are made only where a loss is taken, which for a long
question and a large vocabulary is most of what a step would hold in memory.
"""

from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from adire_assets.families.causal_lm.training.examples import NOT_LEARNT, Batch, Examples
from adire_assets.families.causal_lm.training.settings import TrainingConfig


class Learner(nn.Module):
    """The whole of a step's forward in one module, so that FSDP can spread it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.plain = _head_is_all(model)

    def forward(self, batch: Batch) -> Tensor:
        """The summed loss, in nats, of the batch's targets: a float32 scalar."""
        told = {"input_ids": batch.ids, "use_cache": False, **batch.told}
        learnt = batch.targets != NOT_LEARNT
        if self.plain:
            hidden = self.model.base_model(**told).last_hidden_state
            logits = self.model.get_output_embeddings()(hidden[learnt])
        else:
            logits = self.model(**told).logits[learnt]
        return cross_entropy(logits.float(), batch.targets[learnt], reduction="sum")


class AnswerLearning:
    """The model, and the examples that it learns from."""

    def __init__(
        self, model: Any, examples: Examples, settings: TrainingConfig, accelerator: Accelerator
    ) -> None:
        self.examples, self.accelerator = examples, accelerator
        self.weights = {
            name: weight for name, weight in model.named_parameters() if weight.requires_grad
        }
        self.module = Learner(model)
        if settings.torch_compile:
            model.compile()
        if settings.distribution == "fsdp" and accelerator.num_processes > 1:
            shard(self.module, set(self.weights.values()))

    def batches(self, step: int) -> Iterable[Batch]:
        """See `Examples.batches`."""
        return self.examples.batches(step)

    def validation(self) -> Iterable[Batch]:
        """See `Examples.validation`."""
        return self.examples.validation()

    def loss(self, batch: Batch, learning: bool) -> Tensor:
        """The batch's part of the mean loss over the answers' tokens."""
        with self.accelerator.autocast():
            return self.module(batch) * batch.weight


def shard(learner: Learner, trained: set[nn.Parameter]) -> None:
    """Spread the frozen weights over the processes (FSDP); the few that learn stay whole."""
    from torch.distributed.fsdp import fully_shard

    for part in learner.model.base_model.children():
        for block in part if isinstance(part, nn.ModuleList) else ():
            fully_shard(block, ignored_params=trained)
    fully_shard(learner, ignored_params=trained)


@torch.no_grad()
def _head_is_all(model: Any) -> bool:
    """Whether a model's logits are its output layer on its last hidden state and nothing more."""
    head, device = model.get_output_embeddings(), next(model.parameters()).device
    ids = torch.arange(4, device=device)[None]
    training = model.training
    model.eval()
    whole = model(input_ids=ids, use_cache=False).logits
    parts = head(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    model.train(training)
    return torch.allclose(whole.float(), parts.float(), rtol=1e-3, atol=1e-4)
