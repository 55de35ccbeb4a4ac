"""A training that went wrong in a way of its own, which the gates must refuse."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sabotage:
    """Other `settings` of the training; what is done to a copy of the dataset, with a seed, or to a
    copy of a sound adapter. `evaluated`: the evaluation has the spoilt dataset too."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    dataset: Callable[[Path, int], None] | None = None
    adapter: Callable[[Path], None] | None = None
    evaluated: bool = False
