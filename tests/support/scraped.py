"""Pages of metrics as real servers have shown them, served again to a real Prometheus.

Of each page there are two recordings, with requests between them. A page that is asked for the
n-th time shows the first one and n times what came between.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LINE = re.compile(r"(\S+(?:\{.*\})?) (\S+)")


class Page:
    """One page, from the folder of its recordings where it has a name; `more` are lines to add."""

    def __init__(self, folder: Path, name: str = "", more: str = "") -> None:
        self.before, self.after = (
            dict(_values(((folder / f"{name}.{number}.txt").read_text() if name else "") + more))
            for number in (0, 1)
        )
        self.asked = 0

    def text(self) -> str:
        self.asked += 1
        found = []
        for name, value in self.after.items():
            first = self.before.get(name, 0.0)
            found.append(f"{name} {first + (value - first) * self.asked!r}\n")
        return "".join(found)


def _values(text: str) -> Iterator[tuple[str, float]]:
    for line in text.splitlines():
        if found := LINE.fullmatch(line):
            yield found[1], float(found[2])


@contextmanager
def served(page: Page) -> Iterator[int]:
    """A server on loopback that shows the page at any path; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = page.text().encode()
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *told: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
