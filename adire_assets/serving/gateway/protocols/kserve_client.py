"""Asking over KServe's gRPC: arrays by name go in and come out."""

import json
from collections.abc import Mapping
from typing import Any

from adire_assets.core.answer import Answer
from adire_assets.serving.connection import Endpoint, connect


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
    return Answer(
        release=int(outputs["release"].reshape(-1)[0]),
        provenance=json.loads(outputs["provenance"].reshape(-1)[0]),
        content=outputs,
    )
