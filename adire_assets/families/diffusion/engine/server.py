"""The engine as a process: the fronts of all releases on one base ask it at a unix socket.

    python -m <package>.server BASE SOCKET USERS SETTINGS

BASE is a base model's folder (pipeline/, base.json), SETTINGS a JSON object of what may be missing:
`device`, `threads`, `turns` (a path: engines that share it run their passes in turns),
`quantization` (of the base, see `quantized`). Each user holds a shared lock on the file USERS; when
nobody does any more, the engine ends.

A connection is one request, a line of JSON; answers are lines of JSON, those with `bytes` followed
by so many bytes. Who closes a connection gives up what it asked for.

    {"adapter": folder, "name": "cloth@3",
     "provenance": {...}, "batch_images": n}      -> {"adapter": key, "software": {...}}; the
                                                  adapter is held until the connection closes, and
                                                  as long a pass takes so many images
    {"draw": {fields of Request}, "adapter": key, or "mix": {"cloth" or "cloth@3":
     weight}, "truncation": bool,
     "preview_steps": n, "progress": bool}        -> {"preview": image, "step": n, "steps": of how
                                                  many, "shape": [H, W, 3], "bytes": n} ...
                                                  {"step": n, "steps": of how many} after passes
                                                  without a preview, with "progress" ...
                                                  {"shape": [n, H, W, 3], "bytes": n, "step": n,
                                                  "steps": n, "left_out": {input: text},
                                                  "adapters": what each of a mix is, with its
                                                  weight, "seconds": of its denoising and
                                                  its decoding}
    {"held": true}                                -> {"adapters": [names], "waiting": images,
                                                  "batch_images": n, "pid": n}

What cannot be done is answered by {"refused": sentence}, a mistake in the request, by {"gone":
sentence} when an adapter is not held (any more), or by {"failed": sentence}.

Beside it, at SOCKET with the suffix .metrics, whoever connects is sent lines for the slot's page of
metrics (see `serving.fleet.metrics_page`).
"""

import fcntl
import json
import os
import queue
import re
import resource
import secrets
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from .adapter_layers import AdapterError, Layers
from .adapters import AdapterGone, Mix, mix_of
from .client import ALREADY
from .drawings import Drawing, Request
from .engine import Engine
from .quantized import NONE
from .sampling import open_engine
from .series import Series, current
from .turns import Turns

LOOK_SECONDS = 0.5
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
WARM_UP = Request("warm-up", num_inference_steps=2)


class Refused(ValueError):
    """The caller's mistake, in one sentence."""


class Server:
    """Answers connections by threads of their own; passes run in the thread that calls `run`."""

    def __init__(self, engine: Engine, turns: AbstractContextManager | None = None) -> None:
        self.engine = engine
        self.turns = turns or nullcontext()
        self.series = Series()
        self.load_seconds = 0.0  # of the base, until it can draw
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._work = threading.Event()
        # Key in the engine -> what was asked to hold it; replaced, never changed, since all threads
        # read it.
        self._held: dict[str, dict[str, Any]] = {}
        self._holders: Counter[str] = Counter()  # of each key
        self._changing = threading.Lock()  # of what is held
        # Of no other engine either: who asks the wrong one is told so.
        self._mark = secrets.token_hex(8)

    def listen(self, path: Path) -> None:
        """Accept connections at unix sockets, in threads."""
        self.name = path.stem.rpartition("_")[2]
        for place, answer in ((path.with_suffix(".metrics"), self._show), (path, self._answer)):
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            # Nobody sees a socket at which nothing listens.
            making = place.with_name(f"{place.name}.{os.getpid()}")
            listener.bind(str(making))
            making.chmod(0o600)
            listener.listen(1024)
            making.rename(place)
            threading.Thread(target=self._accept, args=(listener, answer), daemon=True).start()

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Run passes as long as there is something to draw, and wait where there is not."""
        while not until():
            while not self._commands.empty():
                self._commands.get()()
            with self.turns:
                busy = self.engine.step()
            if not busy:
                self._work.wait(LOOK_SECONDS)
                self._work.clear()

    # --- connections -----------------------------------------------------------------------------

    def _accept(self, listener: socket.socket, answer: Callable[[socket.socket], None]) -> None:
        while True:
            try:
                connection, _ = listener.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()
            except (OSError, RuntimeError) as error:  # no descriptors, or no threads are left
                say(f"a request could not be taken: {error}")
                time.sleep(LOOK_SECONDS)

    def _answer(self, connection: socket.socket) -> None:
        # Who does not wait any more needs no answer.
        with suppress(OSError), connection, connection.makefile("rb") as lines:
            line = lines.readline()
            if not line:  # it only looked whether somebody listens
                return
            asked = json.loads(line)
            try:
                if "draw" in asked:
                    self._draw(connection, asked)
                elif "adapter" in asked:
                    self._hold(connection, asked)
                else:
                    _send(connection, self._told())
            except (Refused, AdapterError) as error:
                _send(connection, {"refused": str(error)})
            except AdapterGone as error:
                _send(connection, {"gone": str(error)})
            except OSError:
                raise
            except Exception as error:
                say(f"a request failed: {type(error).__name__}: {error}")
                _send(connection, {"failed": type(error).__name__})

    def _show(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            counted = current(self.engine, len(self._held), self.load_seconds)
            connection.sendall(self.series.lines(self.name, counted).encode())

    def _told(self) -> dict[str, Any]:
        return {
            "adapters": sorted(held["name"] for held in self._held.values()),
            "waiting": self.engine.waiting,
            "batch_images": self.engine.batch_images,
            "pid": os.getpid(),
        }

    def _hold(self, connection: socket.socket, asked: dict[str, Any]) -> None:
        """Hold an adapter as long as the connection is open."""
        folder, began = Path(asked["adapter"]), time.perf_counter()
        try:
            layers = self.engine.adapters.read(folder)
        except (OSError, SafetensorError) as error:
            raise Refused(f"the adapter in {folder} cannot be read: {error}") from None
        # Who asks for the same, as a release and its streams do, shares it.
        same = f"{self._mark}{json.dumps(asked, sort_keys=True)}"
        key = sha256(same.encode()).hexdigest()
        self._add(key, asked, layers, began)
        try:
            _send(connection, {"adapter": key, "software": software(self.engine.device)})
            connection.recv(1)  # nothing ever comes but the end
        finally:
            self._commands.put(partial(self._forget, key))  # between passes
            self._work.set()

    def _add(self, key: str, asked: dict[str, Any], layers: Layers, began: float) -> None:
        with self._changing:
            if key not in self._held:
                self.engine.adapters.add(key, layers)
                self.series.loaded(key, asked["name"], time.perf_counter() - began)
                self._held = {**self._held, key: asked}
                self._resize()
            self._holders[key] += 1

    def _forget(self, key: str) -> None:
        """Take an adapter away with its last holder; what is still to be drawn with it fails."""
        with self._changing:
            self._holders[key] -= 1
            if self._holders[key]:
                return
            del self._holders[key]
            self._held = {name: held for name, held in self._held.items() if name != key}
            self._resize()
            gone = AdapterGone("an adapter of the request was taken away; ask again")
            self.engine.let_go(key, gone)

    def _resize(self) -> None:
        if self._held:
            most = max(held["batch_images"] for held in self._held.values())
            self.engine.batch_images = self.engine.decoded_images = most

    def _draw(self, connection: socket.socket, asked: dict[str, Any]) -> None:
        request, came = Request(**asked["draw"]), time.perf_counter()
        left_out = self._left_out(request, asked.get("truncation", True))
        mix, adapters = self._mix(asked)
        events: queue.SimpleQueue[tuple[dict[str, Any], np.ndarray | None]] = queue.SimpleQueue()

        def on_preview(drawing: Drawing, image: int, pixels: np.ndarray) -> None:
            events.put(({"preview": image, **_progress(drawing)}, pixels))

        def on_step(drawing: Drawing) -> None:
            if asked.get("progress"):
                events.put((_progress(drawing), None))

        def on_end(drawing: Drawing) -> None:
            if drawing.error is None:
                told = {"left_out": left_out, "adapters": adapters, **_progress(drawing)}
                told["seconds"] = drawing.seconds
                events.put((told, drawing.images))
            else:
                gone = isinstance(drawing.error, AdapterGone)
                said = str(drawing.error) if gone else _what(drawing.error)
                events.put(({"gone" if gone else "failed": said}, None))

        drawing = self.engine.submit(
            request, mix, on_end, on_preview, asked.get("preview_steps", 0), on_step
        )
        self._work.set()

        def watch() -> None:
            with suppress(OSError):
                connection.recv(1)
            self.engine.cancel(drawing)
            events.put(({}, None))

        threading.Thread(target=watch, daemon=True).start()
        previewed = False
        try:
            said, pixels = events.get()
            while "step" in said and "left_out" not in said:
                if "preview" in said and not previewed:
                    previewed = True
                    self.series.previewed(time.perf_counter() - came)
                _send(connection, said, pixels)
                said, pixels = events.get()
        finally:
            self.series.ended(drawing, mix, time.perf_counter() - came)
        if said:
            _send(connection, said, pixels)

    def _left_out(self, request: Request, allowed: bool) -> dict[str, str]:
        """{input: the end of it that the text encoder does not see}; refused if not allowed."""
        texts = {"prompt": request.prompt, "negative_prompt": request.negative_prompt}
        found = {name: rest for name, text in texts.items() if (rest := self.engine.left_out(text))}
        if found and not allowed:
            name, rest = next(iter(found.items()))
            raise Refused(f"{name} is longer than the text encoder reads; leave out {rest!r}")
        return found

    def _mix(self, asked: dict[str, Any]) -> tuple[Mix, list[dict[str, Any]]]:
        """The adapter of the release that is asked, or by name several with their weights; and what
        each of them is."""
        held = self._held
        if "mix" not in asked:
            if asked["adapter"] not in held:
                raise AdapterGone("this engine does not hold the release; ask again")
            return ((asked["adapter"], 1.0),), []
        weights: dict[str, float] = {}
        for name, weight in asked["mix"].items():
            of_name = [key for key, one in held.items() if name in _names(one["name"])]
            if not of_name:
                known = ", ".join(sorted(one["name"] for one in held.values())) or "none"
                raise Refused(
                    f"there is no adapter {name} on this base with this serving.quantization; held "
                    f"are: {known}"
                )
            # Of several releases of a model the newest.
            key = max(of_name, key=lambda key: _number(held[key]["name"]))
            if key in weights:
                raise Refused(f"the adapter {held[key]['name']} is named twice")
            weights[key] = weight
        if not (mix := mix_of(weights)):
            raise Refused("the weights of the adapters sum to nothing: give one that is not 0")
        in_order = sorted(mix, key=lambda one: held[one[0]]["name"])
        return mix, [{**held[key].get("provenance", {}), "weight": w} for key, w in in_order]


def _progress(drawing: Drawing) -> dict[str, int]:
    return {"step": drawing.passes, "steps": drawing.passes_in_all}


def _names(name: str) -> tuple[str, str]:
    """What a release is asked by: cloth@3, cloth."""
    return name, name.partition("@")[0]


def _number(name: str) -> int:
    return int(name.partition("@")[2] or 0)


def _send(
    connection: socket.socket, said: dict[str, Any], pixels: np.ndarray | None = None
) -> None:
    if pixels is None:
        connection.sendall(json.dumps(said).encode() + b"\n")
        return
    line = json.dumps({**said, "shape": pixels.shape, "bytes": pixels.nbytes}).encode() + b"\n"
    connection.sendall(line)
    connection.sendall(np.ascontiguousarray(pixels).data)


def _what(error: Exception) -> str:
    say(f"images could not be drawn: {type(error).__name__}: {error}")
    kind = type(error).__name__
    return f"{kind}: {error}" if isinstance(error, MemoryError) else kind


def software(device: str) -> dict[str, str | None]:
    """What draws here, by the names of adire_assets.gates.compatibility."""
    versions = {name: version(name) for name in ("torch", "diffusers", "transformers", "peft")}
    versions["torch"] = str(torch.__version__)
    if device != "cuda":
        threads = str(torch.get_num_threads())
        return {**versions, "device": device, "threads": threads, "cuda": None, "driver": None}
    try:
        found = re.search(r"\d+\.\d+(\.\d+)?", NVIDIA_DRIVER.read_text(encoding="utf-8"))
    except OSError:
        found = None
    driver = found[0] if found else None
    return {**versions, "device": device, "cuda": torch.version.cuda, "driver": driver}


def say(sentence: str) -> None:
    """One line in the slot's log."""
    print(f"engine: {sentence}", file=sys.stderr, flush=True)


def end_when_unused(users: Path) -> None:
    """End this process as soon as nobody uses the engine."""
    with users.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(LOOK_SECONDS)
                continue
            # The lock ends with this process: who comes now waits for that, and starts another one.
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    began = time.perf_counter()
    base, path, users = (Path(argument) for argument in sys.argv[1:4])
    settings = json.loads(sys.argv[4])
    # Held as long as this process lives: there is one engine at a socket.
    alone = path.with_suffix(".engine").open("a")
    try:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(ALREADY)
    path.unlink(missing_ok=True)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each request has a connection
    threading.Thread(target=end_when_unused, args=(users,), daemon=True).start()
    variant = json.loads((base / "base.json").read_text(encoding="utf-8"))["variant"]
    engine = open_engine(
        base / "pipeline",
        variant,
        settings.get("device") or "auto",
        settings.get("threads"),
        quantization=settings.get("quantization") or NONE,
    )
    engine.say = say
    turns = Turns(Path(settings["turns"]), say) if settings.get("turns") else None
    server = Server(engine, turns)
    engine.submit(WARM_UP)
    while engine.step():
        pass
    server.load_seconds = time.perf_counter() - began
    server.listen(path)
    server.run()


if __name__ == "__main__":
    main()
