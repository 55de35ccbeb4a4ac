"""Streams of a killed server: the launcher speaks for it, directly and behind the real Envoy."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil
from adire_vllm import last_words

from adire_assets.core.waiting import wait_until
from adire_assets.serving.fleet.vllm import CODE
from adire_assets.serving.gateway.served import ServedModel
from benchmarks.chats import Chats, Stream
from tests.support.chat import ChatServer
from tests.support.fake_engine import install
from tests.support.ports import free_port
from tests.support.running_gateway import MODEL, before

ROOT = Path(__file__).parents[3]
RUN = """
import sys
from pathlib import Path
from adire_vllm import launcher
launcher.run(sys.argv[2:], Path(sys.argv[1]), "cpu")
"""


class Slot:
    """A launcher, and below it a door before a slow engine, in the server that vLLM runs on."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.http_port, self.grpc_port = folder, free_port(), free_port()

    def __enter__(self) -> "Slot":
        server = ("-m", "uvicorn", "--factory", "tests.support.fake_engine:slow_door")
        self.launcher = subprocess.Popen(
            [
                *(sys.executable, "-c", RUN, str(self.folder), sys.executable, *server),
                *("--port", str(self.http_port)),
            ],
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{CODE}"},
        )
        assert wait_until(lambda: self.pid > 0, 60, alive=lambda: self.launcher.poll() is None)
        return self

    def __exit__(self, *_: object) -> None:
        self.launcher.terminate()
        self.launcher.wait()

    @property
    def pid(self) -> int:
        """Of the server; 0 before it answers."""
        try:
            with urlopen(f"http://127.0.0.1:{self.http_port}/adire/held") as answer:
                return int(json.load(answer)["pid"])
        except URLError:
            return 0


@contextmanager
def streams(address: str, count: int) -> Iterator[list[Stream]]:
    """So many streams that have begun; afterwards they have ended."""
    found: list[Stream] = []
    asked = [Chats(address, MODEL) for _ in range(count)]
    threads = [threading.Thread(target=lambda one=one: found.append(one.ask())) for one in asked]
    for thread in threads:
        thread.start()
    yield found
    for thread in threads:
        thread.join()


def open_connections(pid: int) -> int:
    """How many connections a process holds, also of clients that have gone."""
    return len(psutil.Process(pid).net_connections("tcp"))


def test_streams_of_a_killed_server_end_with_an_event_that_says_so(tmp_path: Path) -> None:
    install(tmp_path, 1, model=MODEL)
    with (
        Slot(tmp_path) as slot,
        ChatServer(2) as other,
        before(tmp_path, slot, other, server="vllm") as made,
    ):
        made.gateway.publish([ServedModel(MODEL, {1: "blue"}, {1: 100})])
        direct = f"127.0.0.1:{slot.http_port}"
        with streams(direct, 2) as asked, streams(made.gateway.address, 2) as through:
            assert wait_until(lambda: open_connections(slot.launcher.pid) == 4, 20)
            os.kill(slot.pid, signal.SIGKILL)
        for one in (*asked, *through):
            assert one.begun and one.told and one.error == last_words.BROKEN, one
        assert slot.launcher.wait(10) == 0
        assert wait_until(lambda: made.counted(1).failed >= 2, 10)


def test_a_stream_that_is_given_up_leaves_no_connection_open(tmp_path: Path) -> None:
    install(tmp_path, 1, model=MODEL)
    with Slot(tmp_path) as slot:
        chats = Chats(f"127.0.0.1:{slot.http_port}", MODEL)
        asking = threading.Thread(target=chats.ask)
        asking.start()
        assert wait_until(lambda: open_connections(slot.launcher.pid) == 1, 20)
        assert chats.connection.sock
        chats.connection.sock.shutdown(2)
        asking.join()
        assert wait_until(lambda: open_connections(slot.launcher.pid) == 0, 20)
        assert slot.pid
