"""A running gateway in front of two servers, and a client of it."""

import json
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from adire_assets.config.fleet import GatewayConfig, SlotConfig
from adire_assets.core.project import Project
from adire_assets.core.waiting import wait_until
from adire_assets.serving.gateway.gateway import Gateway
from adire_assets.serving.gateway.served import ServedModel
from adire_assets.serving.gateway.traffic import Traffic
from tests.support.backend import Backend
from tests.support.ports import free_port

MODEL = "cloth"
INFER = "/inference.GRPCInferenceService/ModelInfer"
PROMPT = {"name": "prompt", "datatype": "BYTES", "shape": [1, 1], "data": ["indigo"]}
SOUND = json.dumps({"inputs": [PROMPT]}).encode()  # the body of an HTTP inference


class Server(Protocol):
    """What listens behind a gateway."""

    grpc_port: int
    http_port: int


@dataclass
class RunningGateway:
    """A gateway, its two servers (blue has release 1, green 2), and a channel to it."""

    gateway: Gateway
    blue: Any
    green: Any
    process: subprocess.Popen = field(init=False)
    channel: grpc.Channel = field(init=False)

    def start(self) -> None:
        self.gateway.prepare()
        command = self.gateway.command()
        with (self.gateway.folder / "envoy.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        assert wait_until(self.gateway.live, 20, alive=lambda: self.process.poll() is None)

    def publish(self, weights: dict[int, int], **more) -> None:
        served = ServedModel(MODEL, {1: "blue", 2: "green"}, weights, **more)
        self.gateway.publish([served, ServedModel("paper", {5: "blue"}, {5: 100})])

    def ask(self, *headers: tuple[str, str], model: str = MODEL, **fields) -> int:
        """The release that answers; grpc.RpcError with its code when none does."""
        stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        request = service_pb2.ModelInferRequest(model_name=model, **fields)
        return int(stub.ModelInfer(request, metadata=headers, timeout=20).model_version)

    def refusal(self, *headers: tuple[str, str], **fields) -> tuple[str, str]:
        with pytest.raises(grpc.RpcError) as caught:
            self.ask(*headers, **fields)
        return caught.value.code().name, caught.value.details()

    def raw(self, body: bytes, method: str = INFER, **options) -> str:
        """The code of a request of any bytes."""
        try:
            self.channel.unary_unary(method)(body, **{"timeout": 20, **options})
        except grpc.RpcError as error:
            return error.code().name
        return "OK"

    def http(
        self,
        path: str,
        body: bytes | None = None,
        *,
        trust: ssl.SSLContext | None = None,
        method: str | None = None,
        **headers: str,
    ) -> tuple[int, dict]:
        """Status and JSON of an answer; https where `trust` is given."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"{'https' if trust else 'http'}://{self.gateway.address}{path}"
        request = urllib.request.Request(url, body, named, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20, context=trust) as answer:
                length = answer.headers.get("inference-header-content-length")
                status, text = answer.status, answer.read()[: int(length) if length else None]
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        return status, json.loads(text) if text[:1] == b"{" else {}

    def counted(self, number: int) -> Traffic:
        """What a release has answered to whomever."""
        gateway = self.gateway
        return gateway.traffic(MODEL, number).plus(gateway.pinned_traffic(MODEL, number))

    @contextmanager
    def requests_all_along(self) -> Iterator[Counter]:
        """Four clients that send all along; afterwards none may have met an error."""
        answers: Counter = Counter()
        failures: list[str] = []
        over = threading.Event()

        def send() -> None:
            while not over.wait(0.002):
                try:
                    answers[self.ask()] += 1
                except grpc.RpcError as error:
                    failures.append(f"{error.code()} {error.details()}")

        clients = [threading.Thread(target=send) for _ in range(4)]
        for client in clients:
            client.start()
        try:
            yield answers
            sent = answers.total()
            assert wait_until(lambda: answers.total() > sent + 50 or bool(failures), 30)
        finally:
            over.set()
            for client in clients:
                client.join()
        assert not failures, (len(failures), failures[:3])


@contextmanager
def before(
    root: Path, blue: Server, green: Server, server: str = "triton", **settings
) -> Iterator[RunningGateway]:
    """A gateway before two servers that run."""
    slots = {
        name: SlotConfig(server=server, grpc_port=one.grpc_port, http_port=one.http_port)
        for name, one in (("blue", blue), ("green", green))
    }
    config = GatewayConfig(port=free_port(), admin_port=free_port(), **settings)
    made = RunningGateway(
        Gateway(Project(root, root / ".adire"), "local", config, slots), blue, green
    )
    made.start()
    made.channel = grpc.insecure_channel(made.gateway.address)
    try:
        yield made
    finally:
        made.channel.close()
        made.process.kill()
        made.process.wait()


@contextmanager
def running_gateway(root: Path, **settings) -> Iterator[RunningGateway]:
    """A gateway before two stand-ins of a Triton."""
    with (
        Backend({MODEL: 1, "paper": 5}) as blue,
        Backend({MODEL: 2}) as green,
        before(root, blue, green, **settings) as made,
    ):
        yield made
