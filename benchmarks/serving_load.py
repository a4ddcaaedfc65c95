"""Clients of the service for its benchmark: many in one process, cheap enough to leave the machine to the service."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Ask:
    """A request, ready to be sent but for its id, and what a single request was answered with."""

    path: str
    content_type: str
    body: bytes
    expected: str = ""

    def sendable(self, identity: str) -> bytes:
        """Return the whole request, with its id."""
        head = f"POST {self.path} HTTP/1.1\r\nHost: h\r\nContent-Type: {self.content_type}\r\nContent-Length: {len(self.body)}\r\n"
        return f"{head}X-Request-ID: {identity}\r\n\r\n".encode() + self.body


@dataclass
class Outcome:
    """What became of the requests.

    ``lost`` are the ids of those that were sent and got nothing back; ``closed`` found the door shut; ``wrong`` got another answer than
    the same request got alone, ``mixed`` the answer to another request.
    """

    sent: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    closed: int = 0
    wrong: int = 0
    mixed: int = 0
    duration: float = 0.0

    @property
    def ok(self) -> int:
        """Answers that are ones."""
        return self.statuses.get(200, 0)

    @property
    def unanswered(self) -> int:
        """How many got nothing back."""
        return len(self.lost)

    @property
    def per_second(self) -> float:
        """Such answers per second."""
        return self.ok / self.duration if self.duration else 0.0

    def percentile(self, share: float) -> float:
        """Return the seconds that this share of the answers stayed below."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")

    def add(self, other: Outcome) -> None:
        """Count what another slice of the same load brought."""
        for status, count in other.statuses.items():
            self.statuses[status] = self.statuses.get(status, 0) + count
        for name in ("sent", "closed", "wrong", "mixed", "duration"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.seconds += other.seconds
        self.answered += other.answered
        self.lost += other.lost


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    writer.write(data)
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head[:-4].split(b"\r\n")
    headers = dict(line.lower().split(b": ", 1) for line in lines)
    return int(first.split()[1]), headers, await reader.readexactly(int(headers[b"content-length"]))


async def single(address: tuple[str, int], asks: Sequence[Ask]) -> list[str]:
    """Send requests one after the other and return their answers."""
    reader, writer = await asyncio.open_connection(*address)
    answers = []
    for number, ask in enumerate(asks):
        status, _, body = await _exchange(reader, writer, ask.sendable(f"single-{number}"))
        assert status == 200, body
        answers.append(words(body))
    writer.close()
    return answers


def words(body: bytes) -> str:
    """What must be equal of an answer: everything but its numbers, which differ in the last digits from batch to batch."""
    found = json.loads(body)
    return found.get("text") or ("vectors" if "embeddings" in found else "matches")


async def load(
    address: tuple[str, int], asks: Sequence[Ask], clients: int, seconds: float | None, name: str, requests: int | None = None
) -> Outcome:
    """Let clients send one request after the other.

    Args:
        address: Of the service.
        asks: What they send, in turn.
        clients: How many at once, each on a connection of its own.
        seconds: How long; requests under way are waited for.
        name: Of the load, for the ids of its requests.
        requests: How many in all, in the place of ``seconds``.
    """
    outcome, counter = Outcome(), itertools.count()
    begun = time.perf_counter()

    async def client() -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while True:
            number = next(counter)
            if (requests is not None and number >= requests) or (seconds is not None and time.perf_counter() - begun >= seconds):
                break
            ask, identity = asks[number % len(asks)], f"{name}-{number}"
            try:
                connection = connection or await asyncio.open_connection(*address)
            except OSError:
                outcome.closed += 1
                return
            start = time.perf_counter()
            outcome.sent += 1
            try:
                status, headers, body = await _exchange(*connection, ask.sendable(identity))
            except (OSError, asyncio.IncompleteReadError):
                outcome.lost.append(identity)
                connection = None
                continue
            outcome.seconds.append(time.perf_counter() - start)
            outcome.statuses[status] = outcome.statuses.get(status, 0) + 1
            outcome.mixed += headers.get(b"x-request-id", b"").decode() != identity
            if status == 200:
                outcome.answered.append(identity)
                outcome.wrong += bool(ask.expected) and words(body) != ask.expected
            if headers.get(b"connection") == b"close":
                connection[1].close()
                connection = None
        if connection is not None:
            connection[1].close()

    await asyncio.gather(*(client() for _ in range(clients)))
    outcome.duration = time.perf_counter() - begun
    return outcome
