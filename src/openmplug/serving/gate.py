"""What every request passes first and last: its id, the keys, being counted, timed and logged, and how a refusal leaves."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from openmplug.serving.bodies import Receive
from openmplug.serving.logs import log
from openmplug.serving.refusals import Refusal, internal

if TYPE_CHECKING:
    from openmplug.serving.service import Service

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/openapi.json", "/docs"})
"""Paths that need no key."""

_QUIET = frozenset({"healthz", "readyz", "metrics"})
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SMALL_BODY = 64 * 1024  # so much of an unread body the HTTP server may throw away by itself
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 8 * 1024 * 1024


class Gate:
    """ASGI middleware around the whole application.

    Args:
        app: The application.
        service: What it serves.
        paths: Path -> name of the endpoint in logs and metrics; others are ``other``, so that no path of a client's making gets there.
    """

    def __init__(self, app: App, service: Service, paths: MutableMapping[str, str]) -> None:
        self.app = app
        self.service = service
        self.paths = paths

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        visit = Visit(scope, receive, send, self.paths.get(scope["path"], "other"))
        accepted = 0
        try:
            refusal = self._admit(scope, visit)
            if refusal is None:
                accepted = 1
                self.service.in_progress += 1
            await self._serve(scope, visit, refusal)
        finally:
            self.service.in_progress -= accepted
            self._note(visit)

    async def _serve(self, scope: MutableMapping[str, Any], visit: Visit, refusal: Refusal | None) -> None:
        try:
            if refusal is not None:
                raise refusal
            await self.app(scope, visit.receive, visit.send)
        except asyncio.CancelledError:  # the service ends before this request could
            visit.status = visit.status or 503
            raise
        except Exception as error:
            if isinstance(error, Refusal):
                refusal = error
            else:
                log("error", 40, error, id=visit.id, endpoint=visit.endpoint)
                refusal = internal()
            if visit.status:  # part of an answer is out: nothing can be said any more
                raise
            await visit.refuse(refusal)

    def _admit(self, scope: MutableMapping[str, Any], visit: Visit) -> Refusal | None:
        """Refuse whoever has no key, and everything new while the service drains."""
        path = scope["path"]
        if self.service.draining and path not in OPEN_PATHS and path != "/metrics":
            return Refusal(503, "draining", "the service is shutting down; ask another one", retry_after=5, close=True)
        if path not in OPEN_PATHS and not self.service.keys.admit(visit.headers):
            message = "no API key, or a wrong one; send it as 'Authorization: Bearer KEY'"
            return Refusal(401, "unauthorized", message, headers={"www-authenticate": "Bearer"})
        return None

    def _note(self, visit: Visit) -> None:
        seconds = time.perf_counter() - visit.begun
        metrics = self.service.metrics
        metrics.requests.add(1, visit.endpoint, str(visit.status))
        metrics.request_seconds.observe(seconds, visit.endpoint)
        metrics.received.add(visit.bytes)
        if visit.endpoint in _QUIET and visit.status != 500:
            return  # asked every few seconds by whoever watches the service
        fields = {**visit.noted, "bytes": visit.bytes, "ms": round(seconds * 1000, 1)}
        log("request", id=visit.id, endpoint=visit.endpoint, status=visit.status, error_type=visit.refused, **fields)


class Visit:
    """One request on its way through; stands in ``scope["visit"]``.

    Attributes:
        id: Of the request: the client's ``X-Request-ID`` if it is a plain one, else drawn.
        endpoint: Its name in logs and metrics.
        headers: Names in lower case; of repeated ones the last.
        noted: Further fields of its line in the log.
        status: Of the answer; 0 until it begins.
        bytes: Received.
    """

    def __init__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, endpoint: str) -> None:
        self.begun = time.perf_counter()
        self.endpoint = endpoint
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = self.headers.get("x-request-id", "")
        self.id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        self.noted: dict[str, Any] = {}
        self.status = 0
        self.bytes = 0
        self.refused: str | None = None
        self._unread = "transfer-encoding" in self.headers or self.headers.get("content-length", "0") not in ("", "0")
        self._receive, self._send = receive, send
        scope["visit"] = self

    async def receive(self) -> MutableMapping[str, Any]:
        """Receive, counting."""
        message = await self._receive()
        if message["type"] == "http.request":
            self.bytes += len(message.get("body", b""))
            self._unread = bool(message.get("more_body", False))
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Send, with the request's id among the headers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.id.encode())]
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Send a refusal. Where the request has not been read to its end, the connection is closed once the client could read why."""
        self.refused = refusal.kind
        content = json.dumps(refusal.body).encode()
        length = self.headers.get("content-length", "")
        small = length.isascii() and length.isdigit() and int(length[:20]) <= _SMALL_BODY
        closing = refusal.close or (self._unread and not small)
        headers = {**refusal.headers, "content-type": "application/json", "content-length": str(len(content))}
        if closing:
            headers["connection"] = "close"
        listed = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": listed})
        await self.send({"type": "http.response.body", "body": content, "more_body": closing and self._unread})
        if closing and self._unread:
            await self._linger()
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _linger(self) -> None:
        """Throw away what the client still sends, for a moment: closing at once would take the answer out of its hands."""
        end = time.monotonic() + _LINGER_SECONDS
        limit = self.bytes + _LINGER_BYTES
        while self._unread and self.bytes < limit and (left := end - time.monotonic()) > 0:
            try:
                message = await asyncio.wait_for(self.receive(), left)
            except asyncio.TimeoutError:
                return
            if message["type"] == "http.disconnect":
                return
