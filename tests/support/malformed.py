"""Requests as no sound client sends them, the same for the same random numbers."""

import copy
import json
import random
import struct
from typing import Any

from tritonclient.grpc import service_pb2

SHAPES: list[list[int]] = [
    [], [1], [0, 1], [1, 0], [1, 1, 1], [5, 1], [1, 2], [-1, 1], [1, -1], [-1, -1], [2**31, 1],
    [1, 2**40], [2**62, 4], [2**62, 2**62], [2**32, 2**32], [1] * 2000,
]  # fmt: skip
DATATYPES = ["", "BYTES", "BOOL", "UINT8", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16", "x"]
RAW = [b"", b"\0", b"\xff" * 4, b"\xff" * 9, b"\5\0\0\0abc", b"\0" * 4, b"12345678", b"x" * 5000]
NAMES = ["", "prompt", "seed", "images", "provenance", "nothing", "a" * 3000, "\0", "../x"]
INPUTS = {
    "negative_prompt": ("BYTES", b"\4\0\0\0blue"),
    "seed": ("INT64", struct.pack("<q", 7)),
    "num_inference_steps": ("INT32", struct.pack("<i", 4)),
    "guidance_scale": ("FP32", struct.pack("<f", 5.0)),
    "num_images": ("INT32", struct.pack("<i", 1)),
}
# What some part of a Triton looks for, and acts upon.
PARAMETERS = [
    "classification", "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset",
    "binary_data", "binary_data_size", "binary_data_output", "timeout", "priority", "sequence_id",
    "sequence_start", "sequence_end", "triton_final_response", "anything",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, -1, 0, 1, 3, 1.5, 2**31, 2**64, 10**30, "", "x", [], {}, [1], {"a": 1}, [[["x"]]],
]  # fmt: skip


def grpc_request(rng: random.Random, model: str) -> bytes:
    """The bytes of a ModelInferRequest that something is wrong with."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(1, 80))
    request = service_pb2.ModelInferRequest(model_name=model, id="7")
    request.inputs.add(name="prompt", datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(b"\6\0\0\0indigo")
    for name in rng.sample(sorted(INPUTS), rng.randrange(4)):
        datatype, content = INPUTS[name]
        request.inputs.add(name=name, datatype=datatype, shape=[1, 1])
        request.raw_input_contents.append(content)
    for _ in range(rng.randrange(1, 3)):
        rng.choice([_shape, _datatype, _inputs, _contents, _typed, _parameters, _texts])(
            rng, request
        )
    content = bytearray(request.SerializeToString())
    if rng.random() < 0.4:
        _spoil(rng, content)
    return bytes(content)


def _shape(rng: random.Random, request: Any) -> None:
    rng.choice(request.inputs).shape[:] = [
        (size + 2**63) % 2**64 - 2**63 for size in rng.choice(SHAPES)
    ]


def _datatype(rng: random.Random, request: Any) -> None:
    rng.choice(request.inputs).datatype = rng.choice(DATATYPES)


def _inputs(rng: random.Random, request: Any) -> None:
    one = rng.choice(request.inputs)
    match rng.randrange(4):
        case 0:
            one.name = rng.choice(NAMES)
        case 1:
            request.inputs.add().CopyFrom(one)
        case 2 if len(request.inputs) > 1:
            del request.inputs[0]
        case _:
            request.outputs.add(name=rng.choice(NAMES))


def _contents(rng: random.Random, request: Any) -> None:
    raw = request.raw_input_contents
    if rng.random() < 0.3 or not raw:
        raw.append(rng.choice(RAW))
    elif rng.random() < 0.3:
        del raw[rng.randrange(len(raw))]
    else:
        raw[rng.randrange(len(raw))] = rng.choice(RAW)


def _typed(rng: random.Random, request: Any) -> None:
    if rng.random() < 0.6:
        del request.raw_input_contents[:]
    contents = rng.choice(request.inputs).contents
    name = rng.choice([field.name for field in contents.DESCRIPTOR.fields])
    value = {"by": b"x", "fp": 1.0, "bo": True}.get(name[:2], 1)
    getattr(contents, name).extend([value] * rng.choice([1, 2, 3000]))


def _parameters(rng: random.Random, request: Any) -> None:
    output = request.outputs.add(name=rng.choice(["images", "release", "provenance"]))
    holder = rng.choice([request, rng.choice(request.inputs), output])
    value = rng.choice([-1, 0, 1, 2**40, "", "x", True, 1.5])
    kind = {int: "int64_param", str: "string_param", bool: "bool_param"}.get(type(value))
    setattr(holder.parameters[rng.choice(PARAMETERS)], kind or "double_param", value)


def _texts(rng: random.Random, request: Any) -> None:
    match rng.randrange(3):
        case 0:
            request.model_version = rng.choice(["0", "-1", "9" * 30, "1x", "../1", " 1", "x"])
        case 1:
            request.model_name = rng.choice(NAMES)
        case _:
            request.id = rng.choice(["\0", "\n\r", "é" * 400, "x" * 5000])


def _spoil(rng: random.Random, content: bytearray) -> None:
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(content) + 1)
        match rng.randrange(4):
            case 0:
                content[at : at + 1] = rng.randbytes(1)
            case 1:
                del content[at : at + rng.randrange(1, 9)]
            case 2:
                content[at:at] = rng.randbytes(rng.randrange(1, 9))
            case _:
                content[at:at] = content[at : at + rng.randrange(1, 30)]


def http_request(rng: random.Random) -> tuple[bytes, dict[str, str]]:
    """The body of an HTTP inference that something is wrong with, and its headers."""
    if rng.random() < 0.1:
        return rng.choice([b"", rng.randbytes(40), b"[" * 100_000, b"null", b"{}", b"\xff"]), {}
    request: dict[str, Any] = {
        "id": "7",
        "inputs": [
            {"name": "prompt", "datatype": "BYTES", "shape": [1, 1], "data": ["indigo"]},
            {"name": "seed", "datatype": "INT64", "shape": [1, 1], "data": [7]},
        ],
        "outputs": [{"name": "images"}],
        "parameters": {"binary_data_output": True},
    }
    binary = b""
    if rng.random() < 0.4:
        binary = rng.choice([b"\6\0\0\0indigo", *RAW])
        del request["inputs"][0]["data"]
        size = rng.choice([len(binary), len(binary), 10, 0, 2**40, -1])
        request["inputs"][0]["parameters"] = {"binary_data_size": size}
    for _ in range(rng.randrange(3) if binary else rng.randrange(1, 3)):
        _change_json(rng, request)
    text = bytearray(json.dumps(request).encode())
    if rng.random() < 0.3:
        _spoil(rng, text)
    headers = {}
    if binary or rng.random() < 0.2:
        length = str(len(text))
        wrong = ["0", "-1", "x", "9" * 30, str(len(text) // 2), f"{len(text)}, 5"]
        headers["inference-header-content-length"] = rng.choice([length] * 6 + wrong)
    if rng.random() < 0.1:
        headers["content-encoding"] = rng.choice(["gzip", "deflate", "br", "x"])
    return bytes(text) + binary, headers


def _change_json(rng: random.Random, request: dict[str, Any]) -> None:
    """One member somewhere becomes another value, another name, nothing, or something new."""
    holder: Any = request
    while True:
        inner = holder.values() if isinstance(holder, dict) else holder
        deeper = [one for one in inner if isinstance(one, dict | list) and one]
        if not deeper or rng.random() < 0.3:
            break
        holder = rng.choice(deeper)
    value = copy.deepcopy(rng.choice([*VALUES, rng.choice(SHAPES), rng.choice(DATATYPES)]))
    if isinstance(holder, list):
        holder[rng.randrange(len(holder))] = value
    elif rng.random() < 0.3 and holder:
        del holder[rng.choice(sorted(holder))]
    else:
        holder[rng.choice([*sorted(holder), rng.choice(PARAMETERS), "shape", "data"])] = value
