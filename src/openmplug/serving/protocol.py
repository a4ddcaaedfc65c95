"""The HTTP server's connection, with the time-outs and bounds it lacks: slow headers, endless headers, too many connections."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from openmplug.serving.limits import Limits
from openmplug.serving.logs import log
from openmplug.serving.refusals import error_body

_HEADER_BYTES = 64 * 1024
_LEFTOVER_BYTES = 1024 * 1024


def build_protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """Return the class of connections that keeps to limits."""

    class Connection(HttpToolsProtocol):
        """One connection.

        A timer runs from the first moment, and again from the first byte of each further request, until the headers are complete.
        """

        _timer: asyncio.TimerHandle | None = None
        _in_headers = True
        _header_bytes = 0
        _leftover = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self._end(503, "too_many_connections", f"{limits.connections} connections are open; try again", "connections_full")
                return
            self._start_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            if self._in_headers:
                self._header_bytes += len(data)
                if self._timer is None:  # a further request on this connection
                    self._start_timer()
            super().data_received(data)
            if self._in_headers and self._header_bytes > _HEADER_BYTES and not self.transport.is_closing():
                self._end(431, "headers_too_large", f"the headers have more than {_HEADER_BYTES:,} bytes", "headers_too_large")

        def on_headers_complete(self) -> None:
            self._stop_timer()
            self._in_headers = False
            self._header_bytes = 0
            self._leftover = 0
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if self.cycle.response_complete:
                # What comes after the answer is thrown away; not for ever.
                self._leftover += len(body)
                if self._leftover > _LEFTOVER_BYTES:
                    self.transport.close()
                elif self._timer is None:
                    self._start_timer()
                return
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._stop_timer()
            self._in_headers = True
            super().on_message_complete()

        def send_400_response(self, msg: str) -> None:
            self._end(400, "invalid_http", "this is not HTTP/1.1 as it must be", None)

        def _start_timer(self) -> None:
            self._timer = self.loop.call_later(limits.header_seconds, self._too_slow)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            self._timer = None
            if not self.transport.is_closing():
                self._end(408, "too_slow", f"the headers did not arrive within {limits.header_seconds:g} seconds", "slow_headers")

        def _end(self, status: int, kind: str, message: str, event: str | None) -> None:
            """Say why, and close."""
            if event is not None:
                log(event)
            content = json.dumps(error_body(kind, message)).encode()
            head = (
                f"HTTP/1.1 {status} {kind}\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + content)
            self.transport.close()

    return Connection


def protocol_options(limits: Limits) -> dict[str, Any]:
    """Return what the HTTP server is configured with besides."""
    return {
        "http": build_protocol(limits),
        "ws": "none",
        "lifespan": "off",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "timeout_keep_alive": 30,
        "timeout_graceful_shutdown": 5,
        "backlog": 1024,
    }
