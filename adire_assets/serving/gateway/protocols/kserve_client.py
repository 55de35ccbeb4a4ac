"""Asking over KServe's gRPC: arrays by name go in and come out, at once or in pieces."""

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from adire_assets.core.answer import Answer
from adire_assets.serving.connection import Endpoint, Unanswered, channel, connect, sentence


def ask(
    endpoint: Endpoint, model: str, request: Mapping[str, Any], release: int | None, timeout: float
) -> Answer:
    """`request`: numpy arrays by the names of the inputs; the `content` of the answer likewise.

    KeyError, ValueError or the like when an output of every release is missing or empty.
    """
    from tritonclient.grpc import InferInput
    from tritonclient.utils import np_to_triton_dtype

    inputs = []
    for name, value in request.items():
        tensor = InferInput(name, value.shape, np_to_triton_dtype(value.dtype))
        tensor.set_data_from_numpy(value)
        inputs.append(tensor)
    with connect(endpoint) as client:
        answer = client.infer(
            model,
            inputs,
            model_version=str(release or ""),
            client_timeout=timeout,
            headers=endpoint.headers,
        )
    outputs = {one.name: answer.as_numpy(one.name) for one in answer.get_response().outputs}
    return Answer(_release(outputs), _provenance(outputs), outputs)


def ask_stream(
    endpoint: Endpoint, model: str, request: Mapping[str, Any], release: int | None, timeout: float
) -> Answer:
    """The same of a release that answers in pieces: `content` is the list of their arrays."""
    pieces = list(stream(endpoint, model, request, release, timeout))
    return replace(pieces[-1], content=[one.content for one in pieces])


def stream(
    endpoint: Endpoint, model: str, request: Mapping[str, Any], release: int | None, timeout: float
) -> Iterator[Answer]:
    """The answer in pieces, as they come: the `content` of each are arrays by name. `timeout` is
    between two of them. The last one's provenance is whole, the others name model and release.

    `Unanswered` also for an answer that breaks off; KeyError or the like as for `ask`.
    """
    import grpc
    from tritonclient.grpc import InferResult, service_pb2_grpc

    late = threading.Event()
    with channel(endpoint) as opened:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(opened)
        asked = _message(model, request, release)
        # The iterator's end says that nothing follows, which the gateway waits for.
        call = stub.ModelStreamInfer(iter([asked]), metadata=tuple(endpoint.headers.items()))

        def give_up() -> None:
            late.set()
            call.cancel()

        ended = False
        try:
            while True:
                watch = threading.Timer(timeout, give_up)
                watch.start()
                try:
                    response = next(call, None)
                finally:
                    watch.cancel()
                if response is None:
                    break
                if response.error_message:  # of a Triton that is asked directly
                    said = sentence(endpoint, None, response.error_message)
                    raise Unanswered(said, None)
                result = InferResult(response.infer_response)
                named = (one.name for one in response.infer_response.outputs)
                outputs = {name: result.as_numpy(name) for name in named}
                ended = "provenance" in outputs
                told = _provenance(outputs) if ended else {"model": model}
                number = _release(outputs)
                yield Answer(number, {**told, "release": number}, outputs)
        except grpc.RpcError as error:
            status = "DEADLINE_EXCEEDED" if late.is_set() else error.code().name
            said = sentence(endpoint, f"StatusCode.{status}", error.details() or "")
            raise Unanswered(said, status) from None
        finally:
            call.cancel()
    if not ended:
        raise KeyError("provenance")


def _message(model: str, request: Mapping[str, Any], release: int | None) -> Any:
    from tritonclient.grpc import service_pb2
    from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

    message = service_pb2.ModelInferRequest(model_name=model, model_version=str(release or ""))
    for name, value in request.items():
        kind = np_to_triton_dtype(value.dtype)
        message.inputs.add(name=name, datatype=kind, shape=value.shape)
        content = serialize_byte_tensor(value).item() if kind == "BYTES" else value.tobytes()
        message.raw_input_contents.append(content)
    return message


def _release(outputs: Mapping[str, Any]) -> int:
    return int(outputs["release"].reshape(-1)[0])


def _provenance(outputs: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(outputs["provenance"].reshape(-1)[0]))
