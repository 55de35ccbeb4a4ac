"""Requests and answers of KServe's protocol as they went over the wire, as arrays by name.

Each function takes (headers, body) of a request and of its answer. ValueError or the like for what
is none, and for an answer that is an error.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Message = tuple[Mapping[str, str], bytes]
Arrays = dict[str, np.ndarray]
PREFIX = struct.Struct(">BI")  # of a gRPC message: compressed or not, bytes
HEADER_LENGTH = "inference-header-content-length"  # of a body with binary data behind its JSON
# The field of `contents` that holds a tensor of the datatype.
TYPED = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def read_grpc(asked: Message, answered: Message) -> tuple[Arrays, Arrays]:
    """(inputs, outputs) of a unary request."""
    from tritonclient.grpc import service_pb2

    (request,), (response,) = _messages(asked[1]), _messages(answered[1])
    outputs = _parsed(service_pb2.ModelInferResponse, response)
    return _inputs(request), _arrays(outputs, "outputs")


def read_stream(asked: Message, answered: Message) -> tuple[Arrays, list[Arrays]]:
    """(inputs, the outputs of each piece) of a stream with one request."""
    from tritonclient.grpc import service_pb2

    (request,) = _messages(asked[1])
    pieces = []
    for response in _messages(answered[1]):
        piece = _parsed(service_pb2.ModelStreamInferResponse, response)
        if piece.error_message:
            raise ValueError(piece.error_message)
        pieces.append(_arrays(piece.infer_response, "outputs"))
    if not pieces or "provenance" not in pieces[-1]:
        raise ValueError("the answer broke off")
    return _inputs(request), pieces


def read_http(asked: Message, answered: Message) -> tuple[Arrays, Arrays]:
    """(inputs, outputs) of a request over HTTP."""
    if answered[0][":status"] != "200":
        raise ValueError("it was not answered")
    return _of_json(*asked, "inputs"), _of_json(*answered, "outputs")


def _messages(body: bytes) -> Iterator[bytes]:
    """The messages of a gRPC body."""
    place = 0
    while place < len(body):
        if place + PREFIX.size > len(body):
            raise ValueError("a message is cut off")
        compressed, size = PREFIX.unpack_from(body, place)
        place += PREFIX.size
        if compressed or place + size > len(body):
            raise ValueError("a message is compressed or cut off")
        yield body[place : place + size]
        place += size


def _inputs(request: bytes) -> Arrays:
    from tritonclient.grpc import service_pb2

    return _arrays(_parsed(service_pb2.ModelInferRequest, request), "inputs")


def _parsed(kind: Any, message: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise ValueError(f"a message is none of KServe's: {error}") from None


def _arrays(message: Any, field: str) -> Arrays:
    tensors, raw = getattr(message, field), getattr(message, f"raw_{field[:-1]}_contents")
    found = {}
    for place, tensor in enumerate(tensors):
        if raw:
            found[tensor.name] = _array(tensor.datatype, tensor.shape, raw[place])
        else:
            values = list(getattr(tensor.contents, TYPED[tensor.datatype]))
            found[tensor.name] = _shaped(tensor.datatype, tensor.shape, values)
    return found


def _of_json(headers: Mapping[str, str], body: bytes, field: str) -> Arrays:
    length = int(headers.get(HEADER_LENGTH, len(body)))
    message, place = json.loads(body[:length]), length
    found = {}
    for tensor in message[field]:
        kind, shape = tensor["datatype"], tensor["shape"]
        if "data" in tensor:
            found[tensor["name"]] = _shaped(kind, shape, _flat(tensor["data"]))
            continue
        size = tensor["parameters"]["binary_data_size"]
        found[tensor["name"]] = _array(kind, shape, body[place : place + size])
        place += size
    return found


def _array(kind: str, shape: Any, content: bytes) -> np.ndarray:
    from tritonclient.utils import deserialize_bytes_tensor, triton_to_np_dtype

    if kind == "BYTES":
        try:
            return deserialize_bytes_tensor(content).reshape(list(shape))
        except struct.error as error:
            raise ValueError(f"a tensor is cut off: {error}") from None
    return np.frombuffer(content, triton_to_np_dtype(kind)).reshape(list(shape))


def _shaped(kind: str, shape: Any, values: list[Any]) -> np.ndarray:
    from tritonclient.utils import triton_to_np_dtype

    if kind == "BYTES":
        values = [one.encode() if isinstance(one, str) else one for one in values]
    return np.array(values, triton_to_np_dtype(kind)).reshape(list(shape))


def _flat(data: Any) -> list[Any]:
    if not isinstance(data, list):
        return [data]
    return [value for one in data for value in _flat(one)]
