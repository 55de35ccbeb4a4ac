"""safetensors files with numpy: bfloat16 too, one tensor of many, equal bytes for equal content.

`load` and `save` are for whole small files such as adapters; `stored` tells what the files of a
model's folder hold without reading them. Nothing is unpickled and torch is not imported.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as to_bytes

from adire_assets.core.errors import UserError
from adire_assets.core.store import write_bytes

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
WHOLE_NUMBERS = {
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
}
# How files begin that are given the ending .safetensors, or are taken for weights.
OTHER_FILES = {
    b"version https://git-lfs": "is a pointer that Git LFS left in place of the file; run `git lfs "
    "pull` in the clone that it is from",
    b"<": "is a web page (or XML), not the file; download it again, signed in where that is asked",
    b"{": "is JSON text, perhaps the answer of a server instead of the file; download it again",
    b"PK\x03\x04": "is a zip archive, such as torch.save writes",
    b"\x80": "is pickled",
    b"GGUF": "is a GGUF file",
}
READABLE = ("BF16", *TYPES, *WHOLE_NUMBERS)
PICKLE = (
    "; pickled weights (.pt, .ckpt, .bin) are not read, because a pickle can run any code: save "
    "them as safetensors where you trust them"
)
SUFFIX = ".safetensors"
SIZE_BYTES = 8  # a file begins with the size of its header, little-endian
ALIGNMENT = 8  # bytes, of the tensors behind the header


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: where its bytes begin, and how to read them."""

    file: Path
    start: int
    dtype: str  # as safetensors calls it: F32, BF16, ...
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        """The tensor; bfloat16 comes as float32, which holds it exactly."""
        with self.file.open("rb") as stream:
            stream.seek(self.start)
            size = 2 if self.dtype == "BF16" else np.dtype(TYPES[self.dtype]).itemsize
            content = stream.read(size * int(np.prod(self.shape)))
        return _array(content, self.dtype, self.shape)


def problem(file: Path) -> str | None:
    """Why `file` cannot be a whole safetensors file, a clause that follows its name; None when its
    header can be read and as many bytes follow as the header says."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            head = stream.read(1024)
            wanted = _data_start(head) if len(head) >= SIZE_BYTES else 0
            header = head[SIZE_BYTES:] + stream.read(max(0, min(wanted, size) - len(head)))
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not head:
        return "is empty; download or save it again"
    try:
        entries = json.loads(header[: wanted - SIZE_BYTES])
        ends = [e["data_offsets"][1] for n, e in entries.items() if n != "__metadata__"]
        end = wanted + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        for start, kind in OTHER_FILES.items():
            if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(start):
                pickled = start in (b"PK\x03\x04", b"\x80")
                return f"is not a safetensors file: it {kind}{PICKLE if pickled else ''}"
        if head[SIZE_BYTES:].lstrip().startswith(b"{") and wanted > size:
            return f"is cut off after {size} bytes, within its header; download or copy it again"
        return f"is not a safetensors file{PICKLE}"
    if end > size:
        return f"is cut off: {size} of {end} bytes are there; download or copy it again"
    return None


def load(file: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(tensors, metadata) of `file`; alphas are whole numbers in some files.

    UserError when it is no whole safetensors file, or holds a type that numpy has not.
    """
    if wrong := problem(file):
        raise UserError(f"{file} {wrong}")
    content = file.read_bytes()
    try:
        entries = deserialize(content)
    except SafetensorError as error:
        raise UserError(f"{file} is not a safetensors file ({error})") from None
    others = [f"{name} {e['dtype']}" for name, e in entries if e["dtype"] not in READABLE]
    if others:
        raise UserError(
            f"{file} holds types other than float64, float32, float16 and bfloat16: "
            f"{some(sorted(others))}; save the adapter in one of these"
        )
    tensors = {
        name: _array(entry["data"], entry["dtype"], tuple(entry["shape"]))
        for name, entry in entries
    }
    return tensors, _header(content).get("__metadata__", {})


def save(file: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write `file` whole or not at all; equal tensors and metadata give equal bytes."""
    content = to_bytes(
        {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}, dict(metadata)
    )
    # The library writes its metadata in an order that is random for each process.
    header = json.dumps(_header(content), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    size = len(header).to_bytes(SIZE_BYTES, "little")
    write_bytes(file, size + header + content[_data_start(content) :])


def stored(folder: Path) -> dict[str, Stored]:
    """{name: tensor} of all safetensors files in `folder`; empty when there is no such folder."""
    found = {}
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        with file.open("rb") as stream:
            head = stream.read(SIZE_BYTES)
            head += stream.read(_data_start(head) - SIZE_BYTES)
        for name, entry in _header(head).items():
            if name != "__metadata__":
                start = _data_start(head) + entry["data_offsets"][0]
                found[name] = Stored(file, start, entry["dtype"], tuple(entry["shape"]))
    return found


def some(names: list[str], shown: int = 3) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _array(content: bytes, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    if dtype == "BF16":  # the upper half of a float32
        wide = np.frombuffer(content, "<u2").astype("<u4") << 16
        return wide.view("<f4").reshape(shape)
    return np.frombuffer(content, {**TYPES, **WHOLE_NUMBERS}[dtype]).reshape(shape)


def _data_start(content: bytes) -> int:
    return SIZE_BYTES + int.from_bytes(content[:SIZE_BYTES], "little")


def _header(content: bytes) -> dict[str, Any]:
    return json.loads(content[SIZE_BYTES : _data_start(content)])
