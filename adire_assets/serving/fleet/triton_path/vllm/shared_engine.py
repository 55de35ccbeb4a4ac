"""The engine that a slot's stubs share, as a stub sees it: started, asked, and let go.

Triton starts a process, a stub, for each version of a model. An engine takes minutes to start and
gigabytes of memory, and a LoRA milliseconds, so the versions of a slot share one: whoever comes
first starts it. It is the one of a vLLM's slot (`adire_vllm`), at a unix socket, and ends when the
last stub has ended, however that was. Everything here belongs to one slot by its mark in
/dev/shm, where the slot's guard finds it. A stub's Python imports nothing of the project.
"""

import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

TOLD = "ADIRE_ENGINE"  # in the environment: JSON of what starts an engine, or why none can be
MARK = "ADIRE_SLOT"  # there too: what the slot's files in SHARED_MEMORY begin with
SOCKET = "ADIRE_ENGINE_SOCKET"  # in the environment of an engine's processes: whose they are
SIGNING = ("ADIRE_ANSWER_KEYS", "ADIRE_ANSWER_TOKEN")  # there too: what answers are signed with
SHARED_MEMORY = Path("/dev/shm")
LOOK_SECONDS = 0.2
RECONCILE_SECONDS = 300.0
ANSWER_SECONDS = 600.0  # between two pieces; the gateway waits for less


class NoEngine(RuntimeError):
    """There is none, or it does not serve what it should; in one sentence."""


class Unanswered(RuntimeError):
    """The engine refused a request, by this status of HTTP and in this sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class SharedEngine:
    """The engine of one slot. This process uses it, and keeps it running, until it ends."""

    def __init__(self, slot: Path) -> None:
        self.told = json.loads(os.environ.get(TOLD) or '{"missing": "no vLLM is named here"}')
        if "missing" in self.told:
            raise NoEngine(self.told["missing"])
        self.slot = slot
        mark = os.environ.get(MARK) or f"adire_{sha256(os.fsencode(slot)).hexdigest()[:16]}_"
        self.socket = str(SHARED_MEMORY / f"{mark}engine.sock")
        self.users = SHARED_MEMORY / f"{mark}engine.users"
        self.starting = SHARED_MEMORY / f"{mark}engine.start"
        # Waits out the end of one that nobody has used any more.
        self.used = self.users.open("a")
        fcntl.flock(self.used, fcntl.LOCK_SH)
        self.process: subprocess.Popen | None = None

    def attach(self, model: str, number: int) -> dict[str, Any]:
        """Have the engine run and serve this release; what it says of itself (`software`)."""
        end = time.monotonic() + self.told["start_seconds"]
        self._require_running(end)
        told = self.reconcile(model)
        while told["again"]:  # it is started again, on another base
            gone = told["pid"]
            while (found := self.held()) is None or found["pid"] == gone:
                if time.monotonic() > end:
                    raise NoEngine("the engine did not come back; its log says why")
                time.sleep(LOOK_SECONDS)
            told = self.reconcile(model)
        if why := told["failed"].get(f"{model}@{number}"):
            raise NoEngine(why)
        if number not in told["held"]:
            raise NoEngine(f"the engine does not hold {model}@{number}; its log says why")
        return self.held() or {}

    def reconcile(self, model: str, seconds: float = RECONCILE_SECONDS) -> dict[str, Any]:
        """Bring the engine to the releases of a model that the slot's folder holds."""
        with self._asked("POST", "/adire/reconcile", {"model": model}, seconds) as answer:
            return dict(json.loads(answer.read()))

    def whole(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request of OpenAI's interface, in one piece."""
        with self._asked("POST", path, body, ANSWER_SECONDS) as answer:
            return dict(json.loads(answer.read()))

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of a streamed one. OSError or HTTPException when it breaks off."""
        with self._asked("POST", path, {**body, "stream": True}, ANSWER_SECONDS) as answer:
            for line in answer:
                event = line.strip().removeprefix(b"data:").strip()
                if event == b"[DONE]":
                    return
                if event:
                    content = dict(json.loads(event))
                    if "error" in content:
                        raise Unanswered(503, _message(content))
                    yield content
        raise http.client.IncompleteRead(b"")

    @contextmanager
    def _asked(
        self, method: str, path: str, body: Any, seconds: float
    ) -> Iterator[http.client.HTTPResponse]:
        connection = _Connection(self.socket, seconds)
        try:
            data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
            connection.request(method, path, data, {"content-type": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise Unanswered(answer.status, _message(answer.read()))
            yield answer
        finally:
            connection.close()

    def held(self) -> dict[str, Any] | None:
        """What the engine says that it serves; None while it does not answer."""
        try:
            with self._asked("GET", "/adire/held", None, 5) as answer:
                return dict(json.loads(answer.read()))
        except (OSError, http.client.HTTPException, ValueError, Unanswered):
            return None

    def _require_running(self, end: float) -> None:
        with self.starting.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # one stub starts it, others wait
            if self.held() is not None:
                return
            self._kill_remains()
            self.process = self._start()
            while self.held() is None:
                if self.process.poll() is not None:
                    raise NoEngine(
                        f"the vLLM for {self.slot} ended while it started (status "
                        f"{self.process.returncode}); the slot's log says why"
                    )
                if time.monotonic() > end:
                    raise NoEngine(
                        f"the vLLM for {self.slot} did not start within "
                        f"{self.told['start_seconds']:g} s; the slot's log says why"
                    )
                time.sleep(LOOK_SECONDS)

    def _start(self) -> subprocess.Popen:
        mine = {SOCKET: self.socket, MARK: os.environ.get(MARK, "")}
        mine |= {name: os.environ[name] for name in SIGNING if name in os.environ}
        # A stub knows no other letters than ASCII in paths; bytes it passes on as they are.
        environment = {
            os.fsencode(name): value.encode("utf-8", "surrogateescape")
            for name, value in {**self.told["environment"], **mine}.items()
        }
        arguments = [*self.told["command"], str(self.slot), self.socket, str(self.users)]
        # Of no stub's session: another one may need it when this one has ended.
        return subprocess.Popen(
            arguments, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def _kill_remains(self) -> None:
        """End what an engine that was killed has left."""
        mark = f"{SOCKET}={self.socket}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    os.kill(int(folder.name), signal.SIGKILL)
        if self.process:
            self.process.wait()


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def _message(content: Any) -> str:
    """What an error says."""
    try:
        found = json.loads(content) if isinstance(content, bytes) else content
        return str(found["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return bytes(content).decode("utf-8", "replace")[:300]
