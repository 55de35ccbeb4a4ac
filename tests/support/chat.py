"""A second protocol and a second kind of slot server: chats of OpenAI's form, streamed.

`CHAT` and `SERVER` are what a module of each would bring; `ChatServer` is a server that a test can
have fail in every way: before an answer, with a status, and in the middle of one.
"""

import json
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from adire_assets.config.fleet import SlotConfig
from adire_assets.core.answer import Answer
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.serving import release
from adire_assets.serving.connection import Endpoint
from adire_assets.serving.gateway.protocol import HTTP_OUTCOMES, InferenceProtocol
from adire_assets.serving.slot_server import SlotServer, address
from tests.support.ports import free_port

PIECES = 5  # of a streamed answer
CHAT = InferenceProtocol(
    "chat",
    suffix="-chat",
    port="http_port",
    grpc=False,
    model_paths="/v1/chat/completions",
    server_paths=(),
    scripts=(Path(__file__).with_name("chat.lua"),),
    outcomes=HTTP_OUTCOMES,
    streams=True,
    client=f"{__name__}:asked",
)


def asked(
    endpoint: Endpoint, model: str, request: dict[str, str], number: int | None, timeout: float
) -> Answer:
    name = f"{model}@{number}" if number else model
    body = json.dumps({"model": name, "messages": [request]}).encode()
    with urlopen(f"http://{endpoint.address}/v1/chat/completions", body, timeout) as answer:
        found = int(answer.headers["x-adire-release"])
        return Answer(found, {"release_hash": "abc"}, json.load(answer))


class _Server(SlotServer):
    """Runs this module; it holds what its folder holds, at each request."""

    protocols = ("chat",)
    port = "http_port"
    drain_seconds = 2
    error_line = r"Error:"

    def command(
        self, project: Project, folder: Path, slot: SlotConfig, models: Sequence[str]
    ) -> list[str]:
        return [sys.executable, "-m", __name__, str(slot.http_port), str(folder)]

    def environment(self, device: str, threads: int) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def versions(self, content: Path) -> dict[str, str]:
        return {}

    def require_live(self, slot: SlotConfig, seconds: float) -> None:
        self._asked(slot, "health", seconds)

    def reconcile(self, slot: SlotConfig, folder: Path, model: str, seconds: float) -> set[int]:
        return self.held(slot, model)

    def held(self, slot: SlotConfig, model: str) -> set[int]:
        return set(json.loads(self._asked(slot, model, 5)))

    def health_path(self, model: str | None) -> str:
        return "/health"

    def load_failure(self, model: str) -> str:
        return rf"cannot load {model}: (.*)"

    def _asked(self, slot: SlotConfig, path: str, seconds: float) -> bytes:
        try:
            with urlopen(f"http://{address(slot)}/{path}", timeout=seconds) as answer:
                return answer.read()
        except OSError as error:
            raise UserError(f"no server answers at {address(slot)}: {error}") from None


SERVER = _Server()


@dataclass
class ChatServer:
    """Answers with `release`; `status` other than 200 instead; breaks off in the `cut`-th piece.

    `reason`: why an answer ended, as OpenAI's interface says it; `text` is in its pieces."""

    release: int = 0
    status: int = 200
    cut: int | None = None
    seconds: float = 0.0  # before each piece
    reason: str = "stop"
    text: str = "indigo"
    grpc_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    folder: Path = Path("/nonexistent")

    def __enter__(self) -> "ChatServer":
        self.http = ThreadingHTTPServer(("127.0.0.1", self.http_port), _handler(self))
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()


def _handler(server: ChatServer) -> type[BaseHTTPRequestHandler]:
    pause = threading.Event()

    def told(reason: str | None) -> dict[str, Any]:
        choice = {"delta": {"content": server.text}, "finish_reason": reason}
        return {"release": server.release, "choices": [choice]}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            body = json.dumps(release.installed(server.folder, self.path[1:])).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(server.status)
            if server.status != 200 or not request.get("stream"):
                body = json.dumps({"model": request["model"], **told(server.reason)}).encode()
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                return
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for piece in range(PIECES):
                if piece == server.cut:
                    self.wfile.flush()
                    self.connection.close()
                    self.close_connection = True
                    return
                pause.wait(server.seconds)
                last = piece == PIECES - 1
                self._chunk(
                    f"data: {json.dumps(told(server.reason if last else None))}\n\n".encode()
                )
            self._chunk(b"data: [DONE]\n\n")
            self._chunk(b"")

        def _chunk(self, data: bytes) -> None:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

    return Handler


if __name__ == "__main__":
    with ChatServer(http_port=int(sys.argv[1]), folder=Path(sys.argv[2])):
        threading.Event().wait()
