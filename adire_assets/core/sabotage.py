"""A training that went wrong in a way of its own, which the gates must refuse."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sabotage:
    """One way to spoil a training.

    Other `settings`; or `dataset`, called with the folder of a dataset's copy and a seed; or
    `adapter`, called with the folder of a sound adapter's copy. `evaluated`: the evaluation uses
    the spoilt dataset too.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    dataset: Callable[[Path, int], None] | None = None
    adapter: Callable[[Path], None] | None = None
    evaluated: bool = False
