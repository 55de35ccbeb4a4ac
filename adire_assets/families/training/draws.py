"""The chance in a training: each draw is a function of the seed, its kind and its numbers."""

from functools import lru_cache

import numpy as np
import torch


def stream(seed: int, kind: int, *numbers: int) -> int:
    """An independent 64-bit seed for a draw of a kind."""
    return int(np.random.SeedSequence((seed, kind, *numbers)).generate_state(1, np.uint64)[0])


@lru_cache(maxsize=64)
def permutation(count: int, *draw: int) -> np.ndarray:
    """int32 [count], the order of a draw: a seed, its kind and numbers."""
    rng = torch.Generator().manual_seed(stream(*draw))
    return torch.randperm(count, generator=rng).numpy().astype(np.int32)
