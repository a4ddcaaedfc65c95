"""Parts of remote shards: one request for samples that follow each other, tried again where a connection breaks.

What can pass is tried ``ATTEMPTS`` times, with pauses that double: broken connections, timeouts, a server that is busy. What cannot is told
at once: a file that is not there, a refusal, a server that knows no ranges. Once a server stayed away through all attempts, further reads
try it once only, until it answers: then a run ends by its failures within seconds, not hours.
"""

from __future__ import annotations

import io
import os
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from openmplug.data.images import one_line
from openmplug.data.shard_places import file_system
from openmplug.errors import DataError, OpenmplugError

ATTEMPTS = 5
PAUSE_SECONDS = 0.5
"""Before the second attempt; it doubles before each further one, and is varied so that workers do not come back all at once."""

RUN = 16
"""So many samples that follow each other in a remote shard stay together in the order of a pass, so that one request reads them."""

MOST_BYTES = 16 << 20
"""Of one request, unless a single sample is larger."""

KEPT_BYTES = 64 << 20
"""Of what was read ahead, in each process."""

_BLOCK_BYTES = 4 << 20  # of a shard whose headers are read
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_FOR_GOOD = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError, ImportError)
_away: set[str] = set()  # servers that stayed away, as this process saw it
_Result = TypeVar("_Result")


def fetch(place: str, start: int, end: int) -> bytes:
    """Read bytes ``start`` to ``end`` (exclusive) of a remote shard.

    Raises:
        DataError: If they cannot be read, or the shard ends before.
        EnvironmentProblem: If the URL needs a part that is not installed.
    """
    expected = end - start

    def read() -> bytes:
        system, path = file_system(place)
        data = bytes(system.cat_file(path, start=start, end=end))
        if len(data) > expected:
            raise DataError(
                f"shard {place}: its server sends whole files only (asked for {expected:,} bytes, got {len(data):,}); "
                "copy the shards to a folder, or set OPENMPLUG_SHARD_COPIES to as many GB of disk as may hold copies"
            )
        if len(data) < expected:
            raise EOFError(f"{len(data):,} of {expected:,} bytes at {start:,}; cut short, or the shard has changed")
        return data

    return with_patience(place, read)


def with_patience(place: str, work: Callable[[], _Result]) -> _Result:
    """Do what asks a server for a shard, again where it fails in a way that can pass.

    Args:
        place: URL of the shard.
        work: Asks.

    Raises:
        DataError: If it fails for good, or ``ATTEMPTS`` times.
        EnvironmentProblem: As ``work`` does.
    """
    server = urlsplit(place.rpartition("::")[2]).netloc
    attempts = 1 if server in _away else ATTEMPTS
    for attempt in range(1, attempts + 1):
        try:
            result = work()
        except OpenmplugError:
            raise
        except Exception as error:  # each file system has errors of its own, few of them OSErrors
            # Of a shard that cannot be asked about, fsspec says "not found" whatever the cause.
            cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ is not None else error
            reason = f"{type(cause).__name__}: {one_line(cause)}"
            if _for_good(cause):
                raise DataError(f"shard {place} cannot be read: {reason}") from None
            if attempt == attempts:
                _away.add(server)
                tried = f"{ATTEMPTS} attempts" if attempts > 1 else "the attempts before, and one more"
                raise DataError(f"shard {place} cannot be read after {tried}: {reason}") from None
            time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1) * random.SystemRandom().uniform(0.75, 1.25))  # no chance of the run's is used
        else:
            _away.discard(server)
            return result
    raise AssertionError("unreachable")


def _for_good(error: BaseException) -> bool:
    status = getattr(error, "status", None)
    if isinstance(status, int) and status >= 400:
        return status not in _PASSING_STATUS
    return isinstance(error, _FOR_GOOD)


class ReadAhead:
    """What was read of remote shards and is asked for soon: the rest of a run of samples, with bounded memory.

    Args:
        most: Bytes to keep; the newest are kept whatever their size.
    """

    def __init__(self, most: int = KEPT_BYTES) -> None:
        self._most = most
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def read(self, place: str, start: int, end: int, span: Callable[[], tuple[int, int]]) -> bytes:
        """Return bytes ``start`` to ``end`` (exclusive) of a shard, from memory or with one request for ``span()`` around them.

        Raises:
            DataError: If they cannot be read.
        """
        for (shard, first), data in reversed(self._kept.items()):
            if shard == place and first <= start and end <= first + len(data):
                self._kept.move_to_end((shard, first))
                return data[start - first : end - first]
        first, until = span()
        first = min(start, first)
        data = self._kept[place, first] = fetch(place, first, max(end, until))
        self._kept.move_to_end((place, first))
        while len(self._kept) > 1 and sum(map(len, self._kept.values())) > self._most:
            self._kept.popitem(last=False)
        return data[start - first : end - first]


class RemoteFile(io.RawIOBase):
    """A remote shard as a file that is read from front to back, in large blocks, each with patience.

    Args:
        place: URL of the shard.
        size: Its length in bytes.
    """

    def __init__(self, place: str, size: int) -> None:
        self._place, self._size = place, size
        self._at, self._first, self._block = 0, 0, b""

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that any place in it can be read."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; nothing is asked for."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read what of the current block is left, or as much as fits; 0 at the end."""
        if self._at >= self._size:
            return 0
        if not self._first <= self._at < self._first + len(self._block):
            self._block = fetch(self._place, self._at, min(self._at + _BLOCK_BYTES, self._size))
            self._first = self._at
        part = self._block[self._at - self._first :][: len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)
