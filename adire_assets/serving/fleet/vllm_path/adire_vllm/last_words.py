"""What the clients of a server's streams are told when its process is killed in the middle of them.

A killed process says nothing, so another one has to: the launcher. For each stream that has begun
it is handed the connection (`Streams`, in the server), and gives it back when the stream ends. When
the server has ended, it writes an event that says so into what is left (`Keeper`, in the launcher),
and closes it without the end of a body.
"""

import json
import os
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

KEEPER = "ADIRE_KEEPER"  # in the environment of a server: the descriptor of the way to its launcher
BROKEN = "the answer broke off: the server failed while it was being written; ask again"
NUMBER = struct.Struct("!q")  # of a stream; negative: it has ended
JOIN_SECONDS = 5.0


def broken_event() -> bytes:
    """The event that ends a stream which is not whole."""
    error = {"message": BROKEN, "type": "server_error", "code": "broken_off"}
    return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"


class Streams:
    """The server's side: hands connections to the launcher; nothing where there is none."""

    def __init__(self) -> None:
        self.way = socket.socket(fileno=int(os.environ[KEEPER])) if KEEPER in os.environ else None
        self.last = 0

    def begin(self, receive: Any) -> Callable[[], None]:
        """The head of a stream has gone to the connection behind `receive`; what ends it.

        ASGI hides the connection, but the server that vLLM runs on has it there.
        """
        transport = getattr(getattr(receive, "__self__", None), "transport", None)
        connection = transport.get_extra_info("socket") if transport else None
        if self.way is None or connection is None or connection.fileno() < 0:
            return lambda: None
        self.last += 1
        number, way = self.last, self.way
        socket.send_fds(way, [NUMBER.pack(number)], [connection.fileno()])

        def end() -> None:
            way.send(NUMBER.pack(-number))

        return end


class Keeper:
    """The launcher's side, for one server: `theirs` is its end, which is handed to it."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.streams: dict[int, int] = {}
        self.thread = threading.Thread(target=self._keep, daemon=True)

    def started(self) -> None:
        """The server has its end."""
        self.theirs.close()
        self.thread.start()

    def ended(self) -> None:
        """Nothing of the server runs any more: tell those who still wait for something."""
        self.ours.shutdown(socket.SHUT_RD)  # what it has sent before is still read
        self.thread.join(JOIN_SECONDS)
        event = broken_event()
        for connection in self.streams.values():
            with socket.socket(fileno=connection) as open_one, suppress(OSError):
                open_one.setblocking(False)  # who does not read does not hold the others up
                open_one.send(b"%x\r\n%s\r\n" % (len(event), event))  # one chunk of HTTP/1.1
        self.ours.close()

    def _keep(self) -> None:
        while True:
            message, descriptors, _, _ = socket.recv_fds(self.ours, NUMBER.size, 1)
            if not message:
                return
            [number] = NUMBER.unpack(message)
            if number > 0:
                [self.streams[number]] = descriptors
            else:
                os.close(self.streams.pop(-number))
