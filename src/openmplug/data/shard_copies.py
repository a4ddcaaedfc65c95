"""Copies of remote shards on this machine's disk, as many as it may hold; the one that was not used for longest goes first.

``OPENMPLUG_SHARD_COPIES`` says how many GB; without it there are none, and samples are read in runs (``openmplug.data.remote``). It is set
for a machine, not a run: what a run sees is the same with and without. Processes of a machine share the copies.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from openmplug.data.images import one_line
from openmplug.data.remote import with_patience
from openmplug.data.shard_places import cache_folder, file_system
from openmplug.errors import DataError, EnvironmentProblem, UsageError

try:
    import fcntl
except ImportError:  # Windows: two processes may copy the same shard at once
    fcntl = None  # type: ignore[assignment]

VARIABLE = "OPENMPLUG_SHARD_COPIES"


def most_bytes() -> int:
    """Return how many bytes copies may take on this machine; 0 = there are none.

    Raises:
        UsageError: If the variable is no number of GB.
    """
    value = os.environ.get(VARIABLE, "").strip()
    try:
        size = float(value or 0)
    except ValueError:
        size = -1.0
    if not 0 <= size < float("inf"):
        raise UsageError(f"{VARIABLE}='{value}'; expected a number of GB, such as 200")
    return int(size * 1e9)


def local_copy(place: str, size: int, stamp: str) -> Path:
    """Return a copy of a remote shard, fetched where there is none. It may be gone at any time: ask again then.

    Args:
        place: URL of the shard.
        size: Its length in bytes.
        stamp: What tells this version of it from another.

    Raises:
        DataError: If it cannot be fetched, or its length is another.
        EnvironmentProblem: If the copy cannot be written.
    """
    folder = cache_folder() / "copies"
    copy = folder / (hashlib.sha256(f"{place}\n{size}\n{stamp}".encode()).hexdigest()[:32] + ".tar")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not _touch(copy):
            with _alone(copy.with_suffix(".lock")):
                if not _touch(copy):  # another process may have fetched it meanwhile
                    _fetch(place, size, copy)
            _make_room(folder, copy)
    except OSError as error:
        reason = one_line(error)
        raise EnvironmentProblem(
            f"no copy of shard {place} can be kept in {folder}: {reason}; free some space, or unset {VARIABLE}"
        ) from None
    return copy


def _fetch(place: str, size: int, copy: Path) -> None:
    temporary = copy.with_suffix(f".{os.getpid()}.writing")

    def get() -> None:
        system, path = file_system(place)
        system.get_file(path, str(temporary))
        if (found := temporary.stat().st_size) != size:
            raise EOFError(f"{found:,} of {size:,} bytes came; cut short, or the shard has changed")

    try:
        with_patience(place, get)
        temporary.replace(copy)
    finally:
        temporary.unlink(missing_ok=True)


def _touch(copy: Path) -> bool:
    """Say whether there is a copy; it is now the one used last."""
    try:
        os.utime(copy)
    except FileNotFoundError:
        return False
    return True


def _make_room(folder: Path, newest: Path) -> None:
    copies = []
    for path in folder.glob("*.tar"):
        with contextlib.suppress(FileNotFoundError):  # another process makes room, too
            state = path.stat()
            copies.append((state.st_mtime_ns, state.st_size, path))
    total = sum(size for _, size, _ in copies)
    for _, size, path in sorted(copies):
        if total <= most_bytes():
            return
        if path != newest:
            path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)
            total -= size


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process fetches the same shard."""
    with path.open("ab") as file:
        if fcntl is not None:
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def check_room(place: str, largest: int, together: int) -> None:
    """Refuse room for fewer copies than the order of a pass reads at once, where each sample would fetch a whole shard.

    Args:
        place: A shard, for the message.
        largest: Bytes of the largest shard.
        together: How many shards are read at once.

    Raises:
        DataError: If there is less.
    """
    most, needed = most_bytes(), largest * together
    if 0 < most < needed:
        raise DataError(
            f"{VARIABLE} allows {most / 1e9:g} GB; expected {needed / 1e9:.3g} GB or more, "
            f"as {together} shards such as {place} are read at once"
        )
