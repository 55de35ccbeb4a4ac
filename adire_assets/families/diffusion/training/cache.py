"""Tensors that are computed once: on disk by the hash of what they come from, some in memory too.

    <folder>/<first 2 digits>/<64 digits>.safetensors

A value is a function of its subject and of `Facts`. Its key is that of a recipe (`lineage.Recipe`)
whose code is that of the function that makes it. Files are written under another name and renamed,
so several processes and runs may share a folder, and deleting it costs time only. Memory holds at
most `memory_bytes`, however many values there are.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from adire_assets.core.disk import written_whole
from adire_assets.core.lineage import Recipe, digest

MEMORY_BYTES = 512 * 2**20

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Facts:
    """What else than its subject makes a value what it is, as in a `lineage.Recipe`."""

    inputs: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def of(self, **config: Any) -> "Facts":
        """These, and more of the config."""
        return replace(self, config={**self.config, **config})

    def key(self, kind: str, make: Callable[..., Any]) -> str:
        """The key of all values of a `kind` that the function `make` gives under these facts.

        Its code is in the key: the module of `make`, and all that this imports of the project.
        """
        function = make.func if isinstance(make, partial) else make
        recipe = Recipe(
            kind, "", (function.__module__,), self.inputs, self.config, self.environment
        )
        return recipe.key


class TensorCache:
    """The values of `make(*subject)` under `facts`; a subject's key is plain JSON."""

    def __init__(
        self,
        folder: Path,
        make: Callable[..., Tensors],
        facts: Facts,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self.folder, self.make = folder, make
        self.key = facts.key(folder.name, make)
        self.memory_bytes, self.kept_bytes = memory_bytes, 0
        self.kept: dict[Any, Tensors] = {}

    def fill(self, subjects: Iterable[tuple[Any, tuple[Any, ...]]]) -> int:
        """Of (key, arguments of `make`), make what is not there; how many were made."""
        made = 0
        for key, arguments in subjects:
            if self._read(key) is None:
                found = self.make(*arguments)
                value = {name: tensor.cpu().contiguous() for name, tensor in found.items()}
                self._write(self._path(key), value)
                made += 1
        return made

    def get(self, key: Any, device: torch.device) -> Tensors:
        """A value that was made; KeyError otherwise."""
        if (found := self.kept.get(_hashable(key))) is not None:
            return found
        value = self._read(key)
        if value is None:
            raise KeyError(key)
        value = {name: tensor.to(device) for name, tensor in value.items()}
        size = sum(tensor.nbytes for tensor in value.values())
        if self.kept_bytes + size <= self.memory_bytes:
            self.kept_bytes += size
            self.kept[_hashable(key)] = value
        return value

    def _read(self, key: Any) -> Tensors | None:
        try:
            return load_file(self._path(key))
        except (FileNotFoundError, SafetensorError):  # a machine that lost power leaves empty files
            return None

    def _write(self, path: Path, value: Tensors) -> None:
        with written_whole(path) as temporary:
            save_file(value, temporary)

    def _path(self, key: Any) -> Path:
        name = digest({"recipe": self.key, "subject": key})
        return self.folder / name[:2] / f"{name}.safetensors"


def _hashable(key: Any) -> Any:
    return tuple(_hashable(part) for part in key) if isinstance(key, list | tuple) else key
