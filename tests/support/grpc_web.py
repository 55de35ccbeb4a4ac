"""A request in the form of gRPC-Web, as a browser sends it."""

import urllib.request
from collections.abc import Mapping

from tritonclient.grpc import service_pb2

from tests.support.running_gateway import INFER, MODEL, RunningGateway


def grpc_web(opened: RunningGateway, **headers: str) -> bytes:
    """What a browser gets: the message and the trailers, one behind the other."""
    return grpc_web_answer(opened, MODEL, **headers)[1]


def grpc_web_answer(
    opened: RunningGateway, model: str, **headers: str
) -> tuple[Mapping[str, str], bytes]:
    request = service_pb2.ModelInferRequest(model_name=model).SerializeToString()
    framed = b"\0" + len(request).to_bytes(4, "big") + request
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named["content-type"] = "application/grpc-web+proto"
    url = f"http://{opened.gateway.address}{INFER}"
    with urllib.request.urlopen(urllib.request.Request(url, framed, named)) as response:
        return response.headers, response.read()
