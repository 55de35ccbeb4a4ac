"""Checkpoints of a training: whole or absent, safetensors and JSON only.

    <work>/step-00000100/   tensors.safetensors  state.json

A checkpoint is written under a temporary name, synced and renamed, and then the older one goes: a
kill at any moment leaves one that is complete. `state.json` carries all that decides the run's bits
(its identity); a checkpoint of another run is refused, never continued and never removed.

The content may nest dicts, lists and tuples to any depth, with tensors anywhere in them.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, strided

from adire_assets.core.errors import UserError
from adire_assets.core.files import read_json, sync, write_json

TENSORS = "tensors.safetensors"
PLAIN = (bool, int, float, str, type(None))
SHOWN, LONGEST = 3, 40  # differences, and characters of a value, that a message shows


@dataclass(frozen=True)
class State:
    """A run after `step` optimizer steps: tensors and plain values, nested."""

    step: int
    content: dict[str, Any]


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
        return State(state["step"], _join(state["content"], load_file(folder / TENSORS)))

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
        """Write a checkpoint in place of the one before. UserError as by `split`."""
        content, tensors = split(state.content)
        self.work.mkdir(parents=True, exist_ok=True)
        temporary = self.work / f".tmp-{state.step}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        save_file(tensors, temporary / TENSORS)
        sync(temporary / TENSORS)
        write_json(
            temporary / "state.json",
            {"identity": self.identity, "step": state.step, "content": content},
        )
        final = self.work / f"step-{state.step:08}"
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync(self.work)
        self._remove_all_but(final)

    def _remove_all_but(self, kept: Path) -> None:
        for folder in (*self.work.glob("step-*"), *self.work.glob(".tmp-*")):
            if folder != kept:
                shutil.rmtree(folder)


def split(content: Any) -> tuple[Any, dict[str, Tensor]]:
    """(`content` as JSON, the tensors that it names). UserError for what can be neither.

    The JSON has $tensor for a tensor of the file, $pairs for a dict and $tuple for a tuple.
    """
    tensors: dict[str, Tensor] = {}
    names: dict[tuple, str] = {}
    memories: set[int] = set()

    def plain(value: Any, path: str) -> Any:
        match value:
            case Tensor() if value.layout is strided and not value.is_quantized:
                return {"$tensor": named(value.detach(), path)}
            case dict() if all(type(key) in PLAIN for key in value):
                return {"$pairs": [[key, plain(v, f"{path}.{key}")] for key, v in value.items()]}
            case list() | tuple():
                found = [plain(part, f"{path}.{n}") for n, part in enumerate(value)]
                return {"$tuple": found} if isinstance(value, tuple) else found
            case _ if type(value) in PLAIN:
                return value
        raise UserError(
            f"a checkpoint cannot hold {path.removeprefix('.')}, a {type(value).__module__}."
            f"{type(value).__qualname__}: the state of a training is tensors, numbers, texts, and "
            "dicts and lists of these; use another training.optimizer"
        )

    def named(tensor: Tensor, path: str) -> str:
        """What several hold together is written once; the file takes no memory twice."""
        memory = tensor.untyped_storage().data_ptr()
        same = memory, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
        if same not in names:
            name = path.removeprefix(".")
            names[same] = name if name not in tensors else f"{name} ({len(tensors)})"
            own = tensor.clone() if memory in memories else tensor
            tensors[names[same]] = own.contiguous()
            memories.add(memory)
        return names[same]

    return plain(content, ""), tensors


def _join(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `split` took apart."""
    match plain:
        case {"$tensor": name}:
            return tensors[name]
        case {"$pairs": pairs}:
            return {key: _join(value, tensors) for key, value in pairs}
        case {"$tuple": parts}:
            return tuple(_join(part, tensors) for part in parts)
        case list():
            return [_join(part, tensors) for part in plain]
    return plain


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
