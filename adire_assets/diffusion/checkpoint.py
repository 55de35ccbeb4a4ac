"""Checkpoints of a training: whole or absent, safetensors and JSON only.

    <work>/step-00000100/   weights.safetensors  optimizer.safetensors  ...  state.json

A checkpoint is written under a temporary name, synced and renamed, and then the older one goes: a
kill at any moment leaves one that is complete. `state.json` carries all that decides the run's bits
(its identity); a checkpoint of another run is refused, never continued and never removed.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from adire_assets.errors import UserError
from adire_assets.store import read_json, write_json

SHOWN, LONGEST = 3, 40  # differences, and characters of a value, that a message shows


@dataclass(frozen=True)
class State:
    """A run after `step` optimizer steps: tensors by kind and name; `extra` is plain JSON."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    extra: dict[str, Any]


class Checkpoints:
    """The checkpoints below `work` of the run with this flat identity, name -> JSON value."""

    def __init__(self, work: Path, identity: Mapping[str, Any]) -> None:
        self.work, self.identity = work, json.loads(json.dumps(identity))

    def load(self) -> State | None:
        """The last complete checkpoint, on the CPU, or None. UserError when it is another run's."""
        folder = max(self.work.glob("step-*"), default=None)
        if folder is None:
            return None
        state = read_json(folder / "state.json")
        self._refuse_another(folder, state["identity"])
        tensors = {path.stem: load_file(path) for path in folder.glob("*.safetensors")}
        return State(state["step"], tensors, state["extra"])

    def _refuse_another(self, folder: Path, found: Mapping[str, Any]) -> None:
        names = sorted({*found, *self.identity})
        different = [
            f"{name} was {_short(found.get(name))} and is {_short(self.identity.get(name))}"
            for name in names
            if found.get(name) != self.identity.get(name)
        ]
        if different:
            more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
            raise UserError(
                f"{folder} is a checkpoint of another run: {'; '.join(different[:SHOWN])}{more}; "
                f"go back to what it was, or delete {self.work} to start afresh"
            )

    def save(self, state: State) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        temporary = self.work / f".tmp-{state.step}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for name, tensors in state.tensors.items():
            file = temporary / f"{name}.safetensors"
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file)
            _sync(file)
        content = {"identity": self.identity, "step": state.step, "extra": state.extra}
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


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
