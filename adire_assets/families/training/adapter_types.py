"""Kinds of adapter: what peft is told besides rank, alpha and targets.

A function gives keyword arguments for `peft.LoraConfig`. A layer with weight W computes
W x + scale * B A x, with A [rank, in] and B [out, rank].
"""

from typing import Any

from adire_assets.families.training.registry import Registry

ADAPTER_TYPES = Registry("adapter type")


@ADAPTER_TYPES.register
def lora() -> dict[str, Any]:
    """scale = alpha / rank (Hu et al. 2021, LoRA)."""
    return {}


@ADAPTER_TYPES.register
def rslora() -> dict[str, Any]:
    """scale = alpha / sqrt(rank), so that a higher rank does not learn more slowly (Kalajdzievski
    2023, rank-stabilised LoRA)."""
    return {"use_rslora": True}


@ADAPTER_TYPES.register
def dora() -> dict[str, Any]:
    """The sum's columns are rescaled to a learned magnitude (Liu et al. 2024, DoRA)."""
    return {"use_dora": True}
