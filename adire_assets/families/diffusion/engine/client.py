"""The engine as the front of a release sees it: started, asked, and let go.

Triton runs a process, a stub, for each version of a model. The versions of a slot that have one
base, one quantization of it and one code share an engine: whoever comes first starts it, from the
code in its own folder. It ends when the last stub has ended, however that was. What belongs to it
lies in /dev/shm under the slot's mark, where the slot's guard finds it. A stub's Python has no
torch, and nothing of the project but what lies beside this file.
"""

import fcntl
import json
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

SHARED_MEMORY = Path("/dev/shm")
MARK = "ADIRE_SLOT"  # in the environment: what the slot's files in SHARED_MEMORY begin with
PYTHON = "ADIRE_PYTHON"  # there too: the Python that has torch
SETTINGS = {"device": "ADIRE_DEVICE", "threads": "ADIRE_THREADS", "turns": "ADIRE_DEVICE_LOCK"}
START_SECONDS = 600.0  # gigabytes from a cold disk
LOOK_SECONDS = 0.05
AGAIN_SECONDS = 1.0
ALREADY = 75  # the exit status of an engine that found another one running


class NoEngine(RuntimeError):
    """There is none, or it does not hold the release; in one sentence."""


class Refused(ValueError):
    """What the engine does not do as it was asked, in one sentence."""


class Failed(RuntimeError):
    """What the engine could not do; the slot's log says why."""


class Gone(ConnectionError):
    """The engine does not hold an adapter (any more) that it is to draw with."""


class Cancelled(Exception):
    """The caller has given up what it asked for."""


class EngineClient:
    """The engine for the release in `folder` on the base model in `base`, held as the release's
    serving.json says; this process uses it, and keeps it running, until it ends."""

    def __init__(
        self,
        folder: Path,
        base: Path,
        name: str,
        batch_images: int,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.base = folder, base
        # Read here, not given: Triton's model.py may be one of before there were any.
        serving = json.loads((folder / "serving.json").read_text(encoding="utf-8"))
        self.quantization: str | None = serving.get("quantization")
        self.asked = {
            "adapter": str(folder / "adapter"),
            "name": name,
            "provenance": dict(provenance or {}),
            "batch_images": batch_images,
        }
        slot = folder.parents[2]
        mark = os.environ.get(MARK) or f"adire_{sha256(os.fsencode(slot)).hexdigest()[:16]}_"
        place = f"{mark}engine_{_key(folder, base, self.quantization)}"
        self.socket = SHARED_MEMORY / f"{place}.sock"
        self.users = SHARED_MEMORY / f"{place}.users"
        self.starting = SHARED_MEMORY / f"{place}.start"
        # Waits out the end of one that nobody has used any more.
        self.used = _mine(self.users)
        fcntl.flock(self.used, fcntl.LOCK_SH)
        self.adapter: str | None = None  # its key in the engine
        self.software: dict[str, str | None] = {}  # that the engine draws with
        self.process: subprocess.Popen | None = None
        self.closed = False
        self.connection: socket.socket | None = None

    def attach(self, lost: Callable[[Exception | None], None]) -> None:
        """Have the engine run and hold the adapter.

        Should the engine end, it is started again; `lost` is told when it is gone (None) and of
        each attempt that fails. NoEngine, Refused, Failed or OSError when the engine
        cannot be had to begin with.
        """
        for _ in range(2):  # one that was there may just be ending
            with suppress(OSError):
                self._hold()
                break
        else:
            self._hold()
        threading.Thread(target=self._keep, args=(lost,), daemon=True).start()

    def close(self) -> None:
        """Let the engine go, which takes the adapter away."""
        if self.closed:
            return
        self.closed = True
        self._let_go()
        self.used.close()

    def draw(
        self, request: Mapping[str, Any], cancelled: Callable[[], bool], **options: Any
    ) -> Iterator[tuple[dict[str, Any], bytes]]:
        """The events of a request (see `server`), each with its pixels; the last has the images.

        Refused, Failed, Cancelled as soon as `cancelled` says so, or OSError when the engine ends.
        """
        adapter = self.adapter
        if adapter is None:
            raise ConnectionError("the engine is being started")
        asked = {"draw": dict(request), "adapter": adapter, **options}
        with _connected(self.socket) as connection:
            connection.sendall(json.dumps(asked).encode() + b"\n")
            connection.settimeout(LOOK_SECONDS)
            reader = _Reader(connection, cancelled)
            while True:
                try:
                    event, pixels = reader.event()
                except Gone:
                    # Another engine listens than the one that holds it; another request may have
                    # had it held again meanwhile.
                    if "mix" not in options and self.adapter == adapter:
                        self._let_go()
                    raise
                last = "left_out" in event
                if not last and cancelled():  # looked after here too: events may never pause
                    raise Cancelled
                yield event, pixels
                if last:
                    return

    def _let_go(self) -> None:
        if self.connection is not None:
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads it

    def _hold(self) -> None:
        self._require_running()
        connection = _connected(self.socket)
        try:
            connection.sendall(json.dumps(self.asked).encode() + b"\n")
            event, _ = _Reader(connection, lambda: False).event()
        except BaseException:
            connection.close()
            raise
        self.software, self.connection = event["software"], connection
        self.adapter = event["adapter"]

    def _keep(self, lost: Callable[[Exception | None], None]) -> None:
        """Hold the adapter again whenever the engine has ended."""
        while True:
            assert self.connection is not None
            try:
                ended = not self.connection.recv(1)  # nothing ever comes but the end
            except OSError:
                ended = True
            self.adapter = None
            self.connection.close()
            if self.closed:
                return
            lost(None)
            while ended:
                try:
                    self._hold()
                    ended = False
                except (OSError, NoEngine, Refused, Failed) as error:
                    lost(error)
                    time.sleep(AGAIN_SECONDS)

    def _require_running(self) -> None:
        with _mine(self.starting) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # one stub starts it, others wait
            if self._listens():
                return
            if self.process is not None:  # the one before has ended, or hangs at its end
                self.process.kill()
                self.process.wait()
            self.process = self._start()
            end = time.monotonic() + START_SECONDS
            while not self._listens():
                # Another one may be loading still, whose starter has ended.
                if self.process.poll() not in (None, ALREADY):
                    raise NoEngine(
                        f"the engine for {self.base.name} ended while it started (status "
                        f"{self.process.returncode}); the slot's log says why"
                    )
                if time.monotonic() > end:
                    self.process.kill()
                    raise NoEngine(
                        f"the engine for {self.base.name} did not start within "
                        f"{START_SECONDS:g} s; the slot's log says why"
                    )
                time.sleep(LOOK_SECONDS)

    def _listens(self) -> bool:
        try:
            _connected(self.socket).close()
        except OSError:
            return False
        return True

    def _start(self) -> subprocess.Popen:
        settings: dict[str, Any] = {
            name: value
            for name, variable in SETTINGS.items()
            if (value := os.environ.get(variable))
        }
        if "threads" in settings:
            settings["threads"] = int(settings["threads"])
        if self.quantization:
            settings["quantization"] = self.quantization
        # The home of a stub's Python is not that of one in a virtual environment.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
        places = [str(place) for place in (self.base, self.socket, self.users)]
        module = f"{self.folder.name}.server"
        return subprocess.Popen(
            [os.environ.get(PYTHON) or "python3", "-m", module, *places, json.dumps(settings)],
            cwd=self.folder.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # another stub may need it when this one has ended
        )


class _Reader:
    """Reads what the engine sends; looks after each LOOK_SECONDS whether it is still wanted."""

    def __init__(self, connection: socket.socket, cancelled: Callable[[], bool]) -> None:
        self.connection, self.cancelled = connection, cancelled
        self.buffer = bytearray()

    def event(self) -> tuple[dict[str, Any], bytes]:
        while (end := self.buffer.find(b"\n")) < 0:
            self._more()
        event = json.loads(self.buffer[:end])
        size = event.get("bytes", 0)
        while len(self.buffer) < end + 1 + size:
            self._more()
        pixels = bytes(self.buffer[end + 1 : end + 1 + size])
        del self.buffer[: end + 1 + size]
        if "refused" in event:
            raise Refused(event["refused"])
        if "gone" in event:
            raise Gone(event["gone"])
        if "failed" in event:
            raise Failed(event["failed"])
        return event, pixels

    def _more(self) -> None:
        while True:
            try:
                found = self.connection.recv(1 << 20)
            except TimeoutError:
                if self.cancelled():
                    raise Cancelled from None
                continue
            if not found:
                raise ConnectionError("the engine has ended")
            self.buffer += found
            return


def _mine(path: Path) -> IO[str]:
    """A file to lock, which no other user may."""
    return open(path, "a", opener=lambda name, flags: os.open(name, flags, 0o600))


def _connected(place: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(place))
        # In a folder where everybody may write, whoever comes first could listen.
        sent = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", sent)[1] != os.getuid():
            raise PermissionError(f"another user listens at {place}")
    except OSError:
        connection.close()
        raise
    return connection


def _key(folder: Path, base: Path, quantization: str | None) -> str:
    """What releases of one engine have in common: the code, the base model, its quantization."""
    code = sha256(os.fsencode(base.name))
    if quantization:
        code.update(f"\0{quantization}\0".encode())
    for file in sorted(folder.glob("*.py")):
        code.update(file.name.encode() + b"\0" + file.read_bytes())
    return code.hexdigest()[:16]
