"""Checkpoints of a training: whole or absent, safetensors and JSON only.

    <work>/step-00000100/   weights.safetensors  optimizer.safetensors  state.json

A checkpoint is written under a temporary name, synced and renamed, and then the older one goes: a
kill at any moment leaves one that is complete. `state.json` carries the digest of all that decides
the run's bits; a checkpoint of another run is removed, never continued.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from adire_assets.store import read_json, write_json


@dataclass(frozen=True)
class State:
    """A run after `step` optimizer steps; `extra` is plain JSON."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    extra: dict[str, Any]


class Checkpoints:
    """The checkpoints below `work` of the run that `digest` names."""

    def __init__(self, work: Path, digest: str) -> None:
        self.work, self.digest = work, digest

    def load(self) -> State | None:
        """The last complete checkpoint of this run, on the CPU, or None."""
        for folder in sorted(self.work.glob("step-*"), reverse=True):
            state = read_json(folder / "state.json")
            if state["digest"] == self.digest:
                return State(
                    state["step"],
                    load_file(folder / "weights.safetensors"),
                    load_file(folder / "optimizer.safetensors"),
                    state["extra"],
                )
        return None

    def save(self, state: State) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        temporary = self.work / f".tmp-{state.step}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for name, tensors in (("weights", state.weights), ("optimizer", state.optimizer)):
            file = temporary / f"{name}.safetensors"
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file)
            _sync(file)
        content = {"digest": self.digest, "step": state.step, "extra": state.extra}
        write_json(temporary / "state.json", content)
        final = self.work / f"step-{state.step:08}"
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        _sync(self.work)
        self._remove_all_but(final)

    def _remove_all_but(self, kept: Path) -> None:
        for folder in (*self.work.glob("step-*"), *self.work.glob(".tmp-*")):
            if folder != kept:
                shutil.rmtree(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
