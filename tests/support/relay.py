"""A relay of TCP before a server that speaks HTTP/1.1, which can make its answers slower.

Everything passes as it is. With a `factor`, each piece of an answer is passed on after so many
times as long as it took since the end of its request: the first token and the pace are both slower,
as those of a slower server are.
"""

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass, field

from tests.support.ports import free_port

PIECE = 2**16


@dataclass
class Relay:
    """Listens at `port` for what listens at `server_port`, while its context lasts."""

    server_port: int
    factor: float = 1.0
    port: int = field(default_factory=free_port)

    def __enter__(self) -> "Relay":
        ready = threading.Event()

        async def run() -> None:
            self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
            async with await asyncio.start_server(self._connected, "127.0.0.1", self.port):
                ready.set()
                await self._over.wait()

        # What still passes then is cancelled.
        self._thread = threading.Thread(target=asyncio.run, args=(run(),))
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = [time.monotonic()]  # when the last piece of a request passed
        try:
            there, to_there = await asyncio.open_connection("127.0.0.1", self.server_port)
        except OSError:
            writer.close()
            return
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        passing = [
            asyncio.ensure_future(one)
            for one in (
                self._requests(reader, to_there, asked),
                self._read(there, pieces),
                self._answers(pieces, writer, asked),
            )
        ]
        try:
            # A connection that is cancelled, at the end of the context, just ends.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
                if not passing[0].done():  # the server has ended the connection
                    await passing[2]
        finally:
            for one in passing:
                one.cancel()
            for one in (writer, to_there):
                one.close()

    async def _requests(
        self, reader: asyncio.StreamReader, to_there: asyncio.StreamWriter, asked: list[float]
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(PIECE):
                asked[0] = time.monotonic()
                to_there.write(data)
                await to_there.drain()

    async def _read(
        self, there: asyncio.StreamReader, pieces: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await there.read(PIECE):
                pieces.put_nowait((time.monotonic(), data))
        pieces.put_nowait((time.monotonic(), b""))

    async def _answers(
        self,
        pieces: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        asked: list[float],
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                came, data = await pieces.get()
                if not data:
                    return
                due = asked[0] + self.factor * (came - asked[0])
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                writer.write(data)
                await writer.drain()
