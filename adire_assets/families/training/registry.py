"""Tables of interchangeable functions, chosen by name in a model's YAML.

A table is filled by decorating functions; the function's name is what the YAML says. The modules
that fill the tables import no torch, because the config is validated in every Dagster process.
"""

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable)


class Registry(dict[str, Callable]):
    """Name -> function; `kind` is what a message calls one of them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def register(self, function: Function) -> Function:
        """Add a function under its own name."""
        self[function.__name__] = function
        return function

    def known(self, name: str) -> str:
        """`name`, or a ValueError that lists what there is; for validators of the config."""
        if name not in self:
            raise ValueError(f"there is no {self.kind} {name}; there is {', '.join(sorted(self))}")
        return name
