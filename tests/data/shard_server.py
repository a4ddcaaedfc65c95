"""A server of shards on this machine, as good or bad as a test wants it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class ShardServer(ThreadingHTTPServer):
    """Serves a folder.

    Attributes:
        ranges: Whether parts of files are served.
        broken: So many of the next answers end in their middle.
        busy: So many of the next answers are 503.
        gone: Answer nothing any more: each connection is closed.
        asked: (method, path, range) of every request.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.ranges, self.broken, self.busy, self.gone = True, 0, 0, False
        self.asked: list[tuple[str, str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def gets(self) -> int:
        return sum(method == "GET" for method, _, _ in self.asked)


class _Handler(BaseHTTPRequestHandler):
    server: ShardServer

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        server, asked = self.server, self.headers.get("Range", "")
        server.asked.append((self.command, self.path, asked))
        if server.gone:
            self.close_connection = True
            self.connection.close()
            return
        place = server.folder / self.path.lstrip("/")
        if server.busy and body:
            server.busy -= 1
            self.send_error(503)
            return
        if not place.is_file():
            self.send_error(404)
            return
        data = place.read_bytes()
        if asked and server.ranges:
            first, last = (int(part) for part in asked.removeprefix("bytes=").split("-"))
            whole, data = len(data), data[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{first + len(data) - 1}/{whole}")
        else:
            self.send_response(200)
        if server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body and server.broken:
            server.broken -= 1
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        if body:
            self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        return


@contextmanager
def serve(folder: Path) -> Iterator[ShardServer]:
    server = ShardServer(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
