"""A server of Triton's interface that answers at once, or as slowly and wrongly as a test wants.

It stands in for a slot where the gateway is what is tested: no model, the release's number as the
version of each answer. gRPC and the HTTP that health checks and JSON clients use.
"""

import json
import random
import threading
import time
from concurrent import futures
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.support.ports import free_port


@dataclass
class Backend:
    """`releases`: model -> the number it answers with; `fault_share` of the requests fail with
    INTERNAL, each answer takes `seconds`; not `healthy`, it fails the checks of the gateway."""

    releases: dict[str, int]
    grpc_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    seconds: float = 0.0
    fault_share: float = 0.0
    healthy: bool = True
    answered: int = 0

    def __enter__(self) -> "Backend":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; again after `stop`, on the same ports."""
        self.server = grpc.server(futures.ThreadPoolExecutor(32))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Service(self), self.server)
        assert self.server.add_insecure_port(f"127.0.0.1:{self.grpc_port}")
        self.server.start()
        self.http = ThreadingHTTPServer(("127.0.0.1", self.http_port), _handler(self))
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Close every connection at once, as a killed server does."""
        self.server.stop(None).wait()
        self.http.shutdown()
        self.http.server_close()

    def infer(self, model: str) -> int | None:
        """The release that answers, None for a model that is not there."""
        time.sleep(self.seconds)
        self.answered += 1
        return self.releases.get(model)


class _Service(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.random = random.Random(0)

    def ServerLive(self, request, context):
        return service_pb2.ServerLiveResponse(live=True)

    def ModelReady(self, request, context):
        return service_pb2.ModelReadyResponse(ready=request.name in self.backend.releases)

    def ModelInfer(self, request, context):
        number = self.backend.infer(request.model_name)
        if number is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown model")
        if request.id == "wrong":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the prompt is too long")
        if self.random.random() < self.backend.fault_share:
            context.abort(grpc.StatusCode.INTERNAL, "out of memory")
        return service_pb2.ModelInferResponse(
            model_name=request.model_name, model_version=str(number), id=request.id
        )

    def ModelStreamInfer(self, requests, context):
        for request in requests:
            answer = self.ModelInfer(request, context)
            yield service_pb2.ModelStreamInferResponse(infer_response=answer)


def _handler(backend: Backend) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(200 if backend.healthy else 503, b"")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            number = backend.infer(self.path.split("/")[3])
            self.answer(200, json.dumps({"model_version": str(number)}).encode())

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
