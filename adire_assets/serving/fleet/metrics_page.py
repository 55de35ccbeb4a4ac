"""The page of a local slot's metrics: what its server shows, and what stands behind it does.

A process of the slot that has something to show listens at a unix socket in /dev/shm, whose name
begins with the slot's mark and ends with .metrics, and sends lines in Prometheus' format to whoever
connects. (A model in Triton could show metrics on Triton's own page, but the server that does may
crash: it takes a lock in memory that the model has just given back, and of several processes with
a metric of one name the first that ends takes it from all.)
"""

import os
import socket
import struct
import threading
import urllib.request
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from adire_assets.core.errors import UserError
from adire_assets.serving.fleet.guard import SHARED_MEMORY

SECONDS = 2.0  # in which each must have answered


def serve(port: int, server: str, mark: str) -> None:
    """Show the page on loopback for as long as this process lives; `server` is the address of the
    server's own, without which there is none. UserError when the port is taken."""

    # Whatever proxy the environment names is for other machines.
    without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                with without_proxy.open(f"http://{server}{self.path}", timeout=SECONDS) as own:
                    kind, lines = own.headers["content-type"], own.read()
            except (OSError, HTTPException) as error:
                self.send_error(503, explain=f"the slot's server does not answer: {error}")
                return
            if self.path == "/metrics":
                lines += b"".join(_shown(place) for place in _places(mark))
            self.send_response(200)
            self.send_header("content-type", kind or "text/plain")
            self.send_header("content-length", str(len(lines)))
            self.end_headers()
            self.wfile.write(lines)

        def log_message(self, *told: object) -> None:
            """The slot's log is about the server."""

    try:
        page = ThreadingHTTPServer(("127.0.0.1", port), Page)
    except OSError as error:
        raise UserError(f"the metrics of a slot cannot be shown at port {port}: {error}") from None
    threading.Thread(target=page.serve_forever, daemon=True).start()


def _places(mark: str) -> list[Path]:
    return sorted(SHARED_MEMORY.glob(f"{mark}*.metrics"))


def _shown(place: Path) -> bytes:
    """The lines of a process; none when it has ended, or is another user's."""
    found = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(SECONDS)
            connection.connect(str(place))
            size = struct.calcsize("3i")
            sent = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
            if struct.unpack("3i", sent)[1] != os.getuid():
                return b""
            while more := connection.recv(1 << 16):
                found += more
    except OSError:
        return b""
    return found
