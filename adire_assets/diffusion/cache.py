"""Tensors that are computed once: on disk by the hash of what they come from, some in memory too.

    <folder>/<first 2 digits>/<64 digits>.safetensors

A value must be a function of its key alone. Files are written under another name and renamed, so
several processes and runs may share a folder, and deleting it costs time only. Memory holds at most
`memory_bytes`, however many values there are.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from adire_assets.lineage import digest

MEMORY_BYTES = 512 * 2**20

Tensors = dict[str, Tensor]


class TensorCache:
    """`facts`: what else than its own key makes a value what it is (models, versions, device)."""

    def __init__(
        self, folder: Path, facts: Mapping[str, Any], memory_bytes: int = MEMORY_BYTES
    ) -> None:
        self.folder, self.facts = folder, dict(facts)
        self.memory_bytes, self.kept_bytes = memory_bytes, 0
        self.kept: dict[Any, Tensors] = {}

    def fill(self, jobs: Iterable[tuple[Any, Callable[[], Tensors]]]) -> int:
        """Of (JSON key, what makes its value), make what is not there; how many were made."""
        made = 0
        for key, make in jobs:
            if self._read(key) is None:
                value = {name: tensor.cpu().contiguous() for name, tensor in make().items()}
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
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        save_file(value, temporary)
        temporary.replace(path)

    def _path(self, key: Any) -> Path:
        name = digest({"key": key, "facts": self.facts})
        return self.folder / name[:2] / f"{name}.safetensors"


def _hashable(key: Any) -> Any:
    return tuple(_hashable(part) for part in key) if isinstance(key, list | tuple) else key
