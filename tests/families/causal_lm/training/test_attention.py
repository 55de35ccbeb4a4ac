"""Examples in one row: each is computed as in a row of its own, or the model is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    MambaConfig,
    MambaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from adire_assets.core.errors import UserError
from adire_assets.families.causal_lm.training.attention import lay_side_by_side, packed

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
WINDOW = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
LENGTHS = {
    "of about one length": (9, 8, 8, 6),
    "of several": (20, 12, 5, 5, 1),
    "in no order": (3, 20, 7, 19),
}


def gradients(model: Any, hidden: torch.Tensor) -> list[torch.Tensor]:
    """Of something that every position and number counts in."""
    model.zero_grad()
    weights = torch.linspace(-1, 1, hidden.numel(), dtype=hidden.dtype).view_as(hidden)
    (hidden * weights).sum().backward()
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("config", [{}, WINDOW], ids=["full", "sliding window"])
def test_a_row_gives_what_its_examples_give_alone(config: dict, lengths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES, **config)).double()
    ids = torch.randint(0, 64, (1, sum(lengths)))
    parts = ids.split(lengths, dim=1)
    alone = torch.cat([model.model(input_ids=part).last_hidden_state for part in parts], 1)
    wanted = gradients(model, alone)
    lay_side_by_side(model, "base")
    row = model.model(input_ids=ids, **packed(lengths, ids.device)).last_hidden_state
    torch.testing.assert_close(row, alone)
    torch.testing.assert_close(gradients(model, row), wanted)


def test_a_model_in_which_more_than_the_attention_mixes_tokens_is_refused() -> None:
    torch.manual_seed(0)
    mamba = MambaForCausalLM(
        MambaConfig(vocab_size=64, hidden_size=32, state_size=4, num_hidden_layers=2)
    )
    with pytest.raises(UserError, match=r"do not stay apart in base .*set packing: false"):
        lay_side_by_side(mamba, Path("base"))
    hybrid = Qwen3NextForCausalLM(
        Qwen3NextConfig(**SIZES, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16)
    )
    with pytest.raises(UserError, match="layers of linear_attention"):
        lay_side_by_side(hybrid, Path("base"))


def test_a_model_is_tried_before_it_is_trusted() -> None:
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES))
    model.model.layers[0].register_forward_hook(lambda _, __, hidden: hidden + hidden.cumsum(1))
    with pytest.raises(UserError, match="what it computes then differs by"):
        lay_side_by_side(model, Path("base"))
