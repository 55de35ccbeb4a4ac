"""Fresh LoRA layers on the modules of a network that the config names.

A module that does not exist, and a rank above what a layer can have, are refused with a sentence.
"""

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig
from torch import nn

from adire_assets.core.errors import UserError
from adire_assets.families.training.adapter_types import ADAPTER_TYPES
from adire_assets.families.training.settings import SharedTrainingConfig

SHOWN = 3


def adapt(
    part: Any,
    component: str,
    key: str,
    targets: list[str],
    settings: SharedTrainingConfig,
    gaussian: bool = False,
) -> set[str]:
    """Put fresh layers (float32, B = 0) on a frozen network, and have it train.

    `component` and `key` (of the YAML) are what messages call it and where `targets` come from.
    A is uniform as in a linear layer, or normal where `gaussian`. Gives the endings of
    `rank_pattern` that some layer had.
    """
    layers = _targeted(part, component, key, targets)
    ranks = {layer: _rank(layer, settings) for layer in layers}
    _refuse_high_ranks(component, layers, ranks)
    other = {layer: rank for layer, rank in ranks.items() if rank != settings.rank}
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=settings.lora_dropout,
        target_modules=targets,
        rank_pattern=other,
        alpha_pattern={
            layer: settings.lora_alpha * rank / settings.rank for layer, rank in other.items()
        },
        **{"init_lora_weights": "gaussian" if gaussian else True}
        | ADAPTER_TYPES[settings.adapter_type](),
    )
    try:
        part.add_adapter(config)
    except ValueError as error:
        raise UserError(f"{key}: {error}") from None
    part.train()
    return {
        ending for ending in settings.rank_pattern if any(_ends(layer, ending) for layer in layers)
    }


def refuse_unused(settings: SharedTrainingConfig, used: set[str]) -> None:
    """UserError for endings of `rank_pattern` that no layer has."""
    if unused := set(settings.rank_pattern) - used:
        raise UserError(
            f"training.rank_pattern: no layer that is trained has a name that ends in "
            f"{', '.join(sorted(unused))}; name endings of those that target_modules takes"
        )


def _targeted(
    model: nn.Module, component: str, key: str, targets: list[str]
) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }
    found = {
        name: layer
        for name, layer in layers.items()
        if any(_ends(name, target) for target in targets)
    }
    missing = [target for target in targets if not any(_ends(name, target) for name in found)]
    if missing:
        parts = (name.split(".") for name in layers)
        # A number alone names nothing: show to_out.0, not 0.
        known = {".".join(part[-2:] if part[-1].isdigit() else part[-1:]) for part in parts}
        raise UserError(
            f"{key}: the {component} has no linear or convolution layer whose "
            f"name ends in {', '.join(missing)}; endings there: {', '.join(sorted(known))}"
        )
    return found


def _ends(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _rank(layer: str, settings: SharedTrainingConfig) -> int:
    given = (rank for ending, rank in settings.rank_pattern.items() if _ends(layer, ending))
    return next(given, settings.rank)


def _refuse_high_ranks(
    component: str, layers: Mapping[str, nn.Module], ranks: Mapping[str, int]
) -> None:
    """A product of [out, r] and [r, in] has no higher rank than its sides."""
    most = {name: _highest_rank(layer) for name, layer in layers.items()}
    above = [name for name, rank in ranks.items() if rank > most[name]]
    if above:
        some = ", ".join(f"{name} at most {most[name]}" for name in above[:SHOWN])
        ending = above[0].rpartition(".")[2]
        raise UserError(
            f"training.rank: {ranks[above[0]]} is more than {len(above)} layers of the {component} "
            f"can have: {some}; lower it, or for these alone: rank_pattern: "
            f"{{{ending}: {most[above[0]]}}}"
        )


def _highest_rank(layer: nn.Module) -> int:
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    if isinstance(layer, nn.Linear):  # a quantized weight keeps its sides here
        return min(layer.in_features, layer.out_features)
    return min(weight.shape[0], weight[0].numel())
