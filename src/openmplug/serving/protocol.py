"""The HTTP server's connection, with the time-outs and bounds it lacks.

Slow headers, endless headers, what is neither header nor body, clients that read no answer, and more connections than are allowed: of
these the one that has asked for nothing yet and for longest is closed, so that whoever opens connections and is silent shuts nobody out.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from openmplug.serving.limits import Limits
from openmplug.serving.logs import log
from openmplug.serving.refusals import error_body

_HEADER_BYTES = 64 * 1024
_LEFTOVER_BYTES = 1024 * 1024
_WRAPPING_BYTES = 64 * 1024
"""Between two pieces of a body: sizes of chunks; what follows the last one is nothing anybody needs."""


def build_protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """Return the class of connections that keeps to limits."""

    class Connection(HttpToolsProtocol):
        """One connection.

        A timer runs from the first moment, and again from the first byte of each further request, until the headers are complete; another
        while there is something to send that the client does not take.
        """

        _timer: asyncio.TimerHandle | None = None
        _unread_timer: asyncio.TimerHandle | None = None
        _in_headers = True
        _header_bytes = 0
        _wrapping = 0
        _leftover = 0
        _quiet_since = 0.0
        _untaken = 0
        _taken_by = 0.0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            # Every byte that the system does not take at once counts as waiting: nobody may leave even a few lying for ever.
            transport.set_write_buffer_limits(high=0)
            self._quiet_since = time.monotonic()
            if len(self.connections) > limits.connections and not self._make_room():
                self._end(503, "too_many_connections", f"{limits.connections} connections are open; try again", "connections_full")
                return
            self._start_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            self._stop_unread_timer()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._unread_timer is None:
                self._untaken, self._taken_by = self.transport.get_write_buffer_size(), time.monotonic() + limits.body_seconds
                self._unread_timer = self.loop.call_later(limits.silence_seconds, self._look_whether_read)

        def resume_writing(self) -> None:
            self._stop_unread_timer()
            super().resume_writing()

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            self._wrapping += len(data)
            if self._in_headers:
                self._header_bytes += len(data)
                if self._timer is None:  # a further request on this connection
                    self._start_timer()
            super().data_received(data)
            if self.transport.is_closing():
                return
            if self._in_headers and self._header_bytes > _HEADER_BYTES:
                self._end(431, "headers_too_large", f"the headers have more than {_HEADER_BYTES:,} bytes", "headers_too_large")
            elif not self._in_headers and self._wrapping > _WRAPPING_BYTES:
                log("endless_chunk")
                self.transport.abort()  # an answer may be under way already: another one would only confuse

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._in_headers:  # what comes behind a body in chunks would be added to headers that were read long ago
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._stop_timer()
            self._in_headers = False
            self._header_bytes = 0
            self._leftover = 0
            self._wrapping = 0
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._wrapping = 0
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
            self._quiet_since = time.monotonic()
            super().on_message_complete()

        def send_400_response(self, msg: str) -> None:
            self._end(400, "invalid_http", "this is not HTTP/1.1 as it must be", None)

        def _unsupported_upgrade_warning(self) -> None:
            # The request is answered as if it had not asked for another protocol, as HTTP allows. But the parser reads nothing more of
            # this connection, not even a body.
            self.cycle.keep_alive = False
            if any(name in (b"content-length", b"transfer-encoding") and value != b"0" for name, value in self.headers):
                self._end(400, "invalid_http", "another protocol is not offered; send it without Upgrade, as plain HTTP/1.1", None)

        def _make_room(self) -> bool:
            """Close the connection that has asked for nothing for longest."""
            idle = [one for one in self.connections if isinstance(one, Connection) and one is not self and one._idle]
            if not idle:
                return False
            longest = min(idle, key=lambda one: one._quiet_since)
            longest._end(408, "too_slow", "the connection asked for nothing, and others need its place", "made_room")
            self.connections.discard(longest)
            return True

        @property
        def _idle(self) -> bool:
            return self._in_headers and (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing()

        def _look_whether_read(self) -> None:
            """Give up a client that takes nothing of its answer; to close in good order would wait until it does."""
            left = self.transport.get_write_buffer_size()
            if left < self._untaken and time.monotonic() < self._taken_by:
                self._untaken = left
                self._unread_timer = self.loop.call_later(limits.silence_seconds, self._look_whether_read)
                return
            self._unread_timer = None
            log("unread_answer")
            self.transport.abort()

        def _stop_unread_timer(self) -> None:
            if self._unread_timer is not None:
                self._unread_timer.cancel()
                self._unread_timer = None

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
