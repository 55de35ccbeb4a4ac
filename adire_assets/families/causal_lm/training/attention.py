"""Attention of examples that lie one after another in one row, each to itself alone.

There is no padding but inside the attention: all else of a model (projections, norms, the MLP, most
of its work) sees each token for itself. transformers lets a model's attention be replaced by a
function under a name (its AttentionInterface); ours takes the row apart into its examples, those of
about one length together, and puts the outcome back. It gives what each example gives in a row of
its own. A model in which more than the attention mixes tokens cannot be packed: `lay_side_by_side`
tries it and refuses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from adire_assets.core.errors import UserError

NAME = "adire_side_by_side"
SHORTEST = 0.5  # times the longest of those that are attended together
TRIED = (5, 3, 7)  # tokens of the examples that a model is tried with
TOLERANCE = {torch.float32: 1e-3}  # relative, of what a model computes; elsewhere as follows
COARSE = 3e-2
KINDS = {"full_attention", "sliding_attention"}  # of layers, that `attend` computes


@dataclass(frozen=True)
class Group:
    """Examples of about one length, from token `first` of the row up to `end`.

    `padded` int64 [n L]: for each place of a rectangle the token of the group that goes there,
    any one at padding. `real` int64 [tokens]: the places of the tokens. `rows` is n.
    """

    first: int
    end: int
    padded: Tensor
    real: Tensor
    rows: int


def groups_of(lengths: Sequence[int], device: torch.device) -> tuple[Group, ...]:
    """The groups of a row of examples; few of them where the examples stand by their lengths."""
    together: list[list[int]] = []
    for length in lengths:
        if not together or not SHORTEST <= length / together[-1][0] <= 1:
            together.append([])
        together[-1].append(length)
    found, first = [], 0
    for some in together:
        sizes = torch.tensor(some)
        starts = sizes.cumsum(0) - sizes
        place = torch.arange(some[0])
        padded = starts[:, None] + torch.minimum(place[None], sizes[:, None] - 1)
        real = (place[None] < sizes[:, None]).flatten().nonzero()[:, 0]
        end = first + sum(some)
        found.append(Group(first, end, padded.flatten().to(device), real.to(device), len(some)))
        first = end
    return tuple(found)


@torch.compiler.disable
def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    groups: tuple[Group, ...] | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """[1, heads, tokens, width] each -> [1, tokens, heads, width], as AttentionInterface has it.

    A row without groups is one example.
    """
    found = []
    for group in groups or groups_of(query.shape[-2:-1], query.device):
        q, k, v = (_Apart.apply(part[0].transpose(0, 1), group) for part in (query, key, value))
        window = _window(q, sliding_window)
        attended, _ = sdpa_attention_forward(module, q, k, v, window, is_causal=True, **others)
        found.append(_Together.apply(attended, group))
    return torch.cat(found)[None], None


def _window(query: Tensor, most: int | None) -> Tensor | None:
    """The mask of a sliding window that is shorter than the examples."""
    length = query.shape[-2]
    if most is None or most >= length:
        return None
    place = torch.arange(length, device=query.device)
    behind = place[:, None] - place[None]
    return (behind >= 0) & (behind < most)


def _apart(row: Tensor, group: Group) -> Tensor:
    tokens = row[group.first : group.end].index_select(0, group.padded)
    return tokens.view(group.rows, -1, *row.shape[1:]).transpose(1, 2)


def _together(rectangle: Tensor, group: Group) -> Tensor:
    return rectangle.flatten(0, 1).index_select(0, group.real)


class _Apart(torch.autograd.Function):
    """[tokens of the row, heads, width] -> [n, heads, L, width].

    Padding stands behind an example, so nothing of it sees the padding, and its gradient is zero.
    """

    @staticmethod
    def forward(ctx: Any, row: Tensor, group: Group) -> Tensor:
        ctx.group, ctx.shape = group, row.shape
        return _apart(row, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        group, gradient = ctx.group, _together(gradients[0].transpose(1, 2), ctx.group)
        if len(gradient) == ctx.shape[0]:
            return gradient, None
        whole = gradient.new_zeros(ctx.shape)
        whole[group.first : group.end] = gradient
        return whole, None


class _Together(torch.autograd.Function):
    """[n, L, heads, width] -> [tokens of the group, heads, width]."""

    @staticmethod
    def forward(ctx: Any, rectangle: Tensor, group: Group) -> Tensor:
        ctx.group, ctx.shape = group, rectangle.shape
        return _together(rectangle, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        rows, length, *sizes = ctx.shape
        flat = gradients[0].new_zeros(rows * length, *sizes)
        flat.index_copy_(0, ctx.group.real, gradients[0])
        return flat.view(ctx.shape), None


AttentionInterface.register(NAME, attend)


def packed(lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
    """What a model whose attention is `attend` is told of a row of examples besides its tokens."""
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    return {"position_ids": positions.to(device), "groups": groups_of(lengths, device)}


def lay_side_by_side(model: Any, base: Any) -> None:
    """Have a model attend by `attend`. UserError where its examples would not stay apart."""
    if other := set(getattr(model.config, "layer_types", None) or ()) - KINDS:
        raise _unpackable(base, f"it has layers of {min(other)}")
    device = next(model.parameters()).device
    ids = torch.arange(1, 1 + sum(TRIED), device=device)[None]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            alone = [_hidden(model, part) for part in ids.split(TRIED, dim=1)]
            model.set_attn_implementation(NAME)
            row = _hidden(model, ids, **packed(TRIED, device))
    except (TypeError, ValueError) as error:
        raise _unpackable(base, str(error)) from None
    finally:
        model.train(training)
    wanted = torch.cat(alone, dim=1)
    off = ((row - wanted).norm() / wanted.norm()).item()
    if not off <= TOLERANCE.get(model.dtype, COARSE):
        raise _unpackable(base, f"what it computes then differs by {off:.1%}")


def _hidden(model: Any, ids: Tensor, **told: Any) -> Tensor:
    return model.base_model(input_ids=ids, use_cache=False, **told).last_hidden_state.float()


def _unpackable(base: Any, why: str) -> UserError:
    reason = " ".join(why.split())[:200]
    return UserError(
        f"training.packing: the examples of one row do not stay apart in {base} ({reason}); "
        "set packing: false"
    )
