"""Receiving the body of a request: counted and timed piece by piece, before any of it is looked at."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

from openmplug.serving.limits import Limits
from openmplug.serving.refusals import Refusal, too_large

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientGone(Exception):
    """The client hung up; there is nobody to answer."""


class Held:
    """The bytes that one request holds in memory; see ``Uploads.holding``.

    Attributes:
        count: How many.
        given_up: Its room went to a later request while its body was still arriving.
    """

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._receiver: asyncio.Task[Any] | None = None
        self.count = 0
        self.given_up = False

    def add(self, count: int) -> None:
        """Take room for so many more, of those that have been arriving for longer where there is none left.

        Raises:
            Refusal: 429, if all requests together hold too much, and what arrives for longer than this one is not enough of it.
        """
        uploads = self._uploads
        needed = min(uploads.held + count - uploads.limit, uploads.held - self.count)  # alone, a body may be larger than the limit
        if needed > 0:
            # Insertion order is the order of their beginnings: whoever sends slowly makes room, and nobody can fill it by being slow.
            older = [one for one in takewhile(lambda one: one is not self, uploads.arriving) if one.count]
            if sum(one.count for one in older) < needed:
                raise uploads_full()  # to give some of them up would help nobody
            for one in older:
                if needed > 0:
                    needed -= one.count
                    one._give_up()
        uploads.held += count
        self.count += count

    @contextmanager
    def arriving(self) -> Iterator[None]:
        """Say that the body arrives while the block runs, in this task."""
        self._receiver = asyncio.current_task()
        self._uploads.arriving[self] = None
        try:
            yield
        except asyncio.CancelledError:
            if not self.given_up:
                raise
            getattr(self._receiver, "uncancel", int)()  # Python 3.11 counts
            raise uploads_full() from None
        finally:
            self._uploads.arriving.pop(self, None)

    def release(self) -> None:
        """Give all of it back."""
        self._uploads.held -= self.count
        self.count = 0

    def _give_up(self) -> None:
        self.given_up = True
        self._uploads.arriving.pop(self, None)
        self.release()
        if self._receiver is not None:
            self._receiver.cancel()


class Uploads:
    """The bytes of all bodies that are received or decoded at the moment.

    Args:
        limit: Of all together; a single body may be larger, and is then alone.

    Attributes:
        held: Of all together, now.
        arriving: Those whose bodies are not complete, the oldest first.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self.arriving: dict[Held, None] = {}

    @contextmanager
    def holding(self) -> Iterator[Held]:
        """Count the bytes of one request while the block runs."""
        held = Held(self)
        try:
            yield held
        finally:
            held.release()


async def read_body(receive: Receive, headers: Mapping[str, str], limits: Limits, held: Held) -> bytearray:
    """Receive a body.

    Args:
        receive: ASGI's.
        headers: Of the request, names in lower case.
        limits: How many bytes, and how long it may take.
        held: Counts them.

    Raises:
        Refusal: 413 if it is larger than allowed: at once if the header says so, else with the first byte too many. 408 if it comes too
            slowly. 429 if others hold too much.
        ClientGone: If the client hangs up.
    """
    declared = headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limits.body_bytes:
        raise _large(f"{int(declared[:20]):,} bytes", limits)
    with held.arriving():
        return await _receive_all(receive, limits, held)


async def _receive_all(receive: Receive, limits: Limits, held: Held) -> bytearray:
    body = bytearray()
    end = time.monotonic() + limits.body_seconds
    while True:
        left = end - time.monotonic()
        try:
            message = await asyncio.wait_for(receive(), max(0.0, min(left, limits.silence_seconds)))
        except asyncio.TimeoutError:
            raise Refusal(
                408,
                "too_slow",
                f"the body did not arrive: {len(body):,} bytes in time; expected all of it within {limits.body_seconds:g} seconds"
                f" and no pause above {limits.silence_seconds:g}",
                close=True,
            ) from None
        if held.given_up:
            raise uploads_full()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece = message.get("body", b"")
        if len(body) + len(piece) > limits.body_bytes:
            raise _large(f"more than {limits.body_bytes:,} bytes", limits)
        held.add(len(piece))
        body += piece
        if not message.get("more_body", False):
            return body


def uploads_full() -> Refusal:
    """Return the refusal of a body for which no memory is left."""
    return Refusal(429, "uploads_full", "too many bytes are being received at once; try again", retry_after=1, close=True)


def _large(what: str, limits: Limits) -> Refusal:
    return too_large(f"the body has {what}; expected at most {limits.body_bytes:,}: send a smaller picture or a shorter video", close=True)
