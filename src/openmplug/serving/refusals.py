"""What a request is refused with: a status, a type that programs read, one line that people read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openmplug.errors import DataError, TooLarge, UsageError

_LONGEST = 1_000  # characters; a message may repeat a part of what was sent


class Refusal(Exception):
    """A request that is not answered, and why.

    Args:
        status: HTTP status.
        kind: What programs tell refusals apart by, such as ``queue_full``.
        message: One line: what came, what was expected, what to do.
        retry_after: Whole seconds after which it is worth trying again; None where it is not.
        close: Close the connection: the rest of the request is not going to be read.
        headers: Further headers.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        retry_after: int | None = None,
        close: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        line = " ".join(message.split())
        self.message = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
        self.retry_after = retry_after
        self.close = close
        self.more_headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """What is sent, as plain values."""
        return error_body(self.kind, self.message)

    @property
    def headers(self) -> dict[str, str]:
        """The headers that belong to it."""
        headers = dict(self.more_headers)
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.close:
            headers["connection"] = "close"
        return headers


def error_body(kind: str, message: str) -> dict[str, Any]:
    """Return the form that every error of the service has."""
    return {"error": {"type": kind, "message": message}}


def invalid(message: str) -> Refusal:
    """Return the refusal of a request that is not formed as it must be."""
    return Refusal(400, "invalid_request", message)


def too_large(message: str, *, close: bool = False) -> Refusal:
    """Return the refusal of a request that is beyond a limit."""
    return Refusal(413, "too_large", message, close=close)


def of_error(error: Exception) -> Refusal:
    """Return the refusal that an error of the package means to a client; ``TypeError`` where it is no client's doing."""
    if isinstance(error, TooLarge):
        return too_large(str(error))
    if isinstance(error, DataError):
        return Refusal(422, "unreadable", str(error))
    if isinstance(error, UsageError):
        return Refusal(400, "invalid_request", str(error))
    raise TypeError(f"{type(error).__name__} is no refusal")


def internal() -> Refusal:
    """Return what a client is told of an error of ours; the log has the rest."""
    return Refusal(500, "internal", "the service failed on this request; its log has the trace under the request's id")


def worker_lost() -> Refusal:
    """Return what the requests of a batch are told whose model process ended."""
    return Refusal(503, "worker_lost", "the process of the model ended while it worked on this; it is being started again", retry_after=5)
