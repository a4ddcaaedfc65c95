"""Which tar shards there are, and where in each of them every sample lies.

A shard is an uncompressed tar file in WebDataset's form, as img2dataset writes it: the files of a sample follow each other and share
their name up to its first dot (``000012.jpg``, ``000012.txt``, ``000012.json``). One pass over a shard's headers gives its index, a text
file of one line for each sample that is kept beside the shard, or in the cache folder where that is not possible, and made anew when the
shard's size or time of change is another. A shard may lie behind any URL that ``fsspec`` opens.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import mmap
import os
import re
import tarfile
import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from openmplug.data.images import PICTURE_SUFFIXES, VIDEO_SUFFIXES, one_line
from openmplug.data.remote import RemoteFile, with_patience
from openmplug.data.shard_copies import local_copy, most_bytes
from openmplug.data.shard_places import cache_folder, file_system, is_remote
from openmplug.errors import DataError, EnvironmentProblem

ANIMATION = "video.gif"  # what a clip that is a GIF is called in a shard, where ``gif`` alone is a picture
INDEX_SUFFIX = ".index.jsonl"
KINDS = ("picture", "clip", "words")
_FORMAT = 2
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")  # key, suffix: split at the first dot of the last part
_END = bytes(512)


class Row(NamedTuple):
    """One sample of a shard: its key, suffix -> (byte offset, size) of its files, and its number among those of the shard."""

    key: str
    files: dict[str, tuple[int, int]]
    number: int = -1

    @property
    def visual(self) -> str | None:
        """Return the suffix of its picture or video; None for words alone."""
        return next((suffix for suffix in self.files if suffix == ANIMATION or f".{suffix}" in PICTURE_SUFFIXES | VIDEO_SUFFIXES), None)

    @property
    def kind(self) -> str:
        """Return one of ``KINDS``."""
        if self.visual is None:
            return "words"
        return "picture" if f".{self.visual}" in PICTURE_SUFFIXES else "clip"


class ShardIndex(NamedTuple):
    """What is known of a shard without reading it: how many samples it has of which kind, its version, where the lines about them are."""

    path: Path
    counts: dict[str, int]
    size: int
    stamp: str

    def __len__(self) -> int:
        return sum(self.counts.values())


class Rows:
    """The samples of one shard, each parsed when it is asked for.

    The index is mapped, not read: processes that look at the same one share its pages, and each keeps four bytes for a sample.

    Args:
        index: Of the shard.

    Raises:
        DataError: If it is gone or damaged.
    """

    def __init__(self, index: ShardIndex) -> None:
        self._path = index.path
        try:
            with index.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise DataError(f"the index {index.path} cannot be read ({one_line(error)}); start again to make it anew") from None
        self._ends = np.flatnonzero(np.frombuffer(self._map, np.uint8) == ord("\n")).astype(np.uint32)
        if len(self) != len(index):
            raise DataError(f"the index {index.path} has {len(self):,} of {len(index):,} lines; delete it and start again")

    def __len__(self) -> int:
        return len(self._ends) - 1  # the first line is the header

    def __getitem__(self, number: int) -> Row:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._row(number, int(self._ends[number]) + 1, int(self._ends[number + 1]))

    def find(self, key: str) -> Row | None:
        """Return the sample of a key; None where there is none."""
        place = self._map.find(f"\n[{json.dumps(key)},".encode())
        if place < 0:
            return None
        number = int(np.searchsorted(self._ends, place))
        return self[number]

    def _row(self, number: int, start: int, end: int) -> Row:
        try:
            key, files = json.loads(self._map[start:end])
            return Row(key, {suffix: (offset, size) for suffix, (offset, size) in files.items()}, number)
        except (ValueError, TypeError, AttributeError):
            raise DataError(f"line {number + 2:,} of the index {self._path} is damaged; delete it and start again") from None


def open_index(place: str) -> ShardIndex:
    """Return a shard's index, made where there is none or the shard has changed since.

    Args:
        place: Path or URL of the shard.

    Raises:
        DataError: If the shard is missing, is no whole uncompressed tar file, or has no sample.
        EnvironmentProblem: If the index can be written nowhere.
    """
    size, stamp = _state(place)
    homes = _homes(place)
    for home in homes:
        header = _header(home)
        if header is not None and (header["format"], header["size"], header["stamp"]) == (_FORMAT, size, stamp):
            return ShardIndex(home, {kind: header[kind] for kind in KINDS}, size, stamp)
    text, counts = _described(scan_shard(place, size, stamp), size, stamp)
    for home in homes:
        with contextlib.suppress(OSError):
            write_whole(home, text)
            return ShardIndex(home, counts, size, stamp)
    tried = " and ".join(map(str, homes))
    raise EnvironmentProblem(f"the index of {place} cannot be written, neither to {tried}; set OPENMPLUG_CACHE to a folder")


def write_index(shard: Path, rows: Sequence[Row], home: Path) -> None:
    """Write the index of a local shard whose rows are known, into the file ``home``."""
    state = shard.stat()
    home.write_text(_described(rows, state.st_size, str(state.st_mtime_ns))[0], encoding="utf-8")


def index_beside(shard: Path) -> Path:
    """Return where a local shard's index lies."""
    return shard.with_name(shard.name + INDEX_SUFFIX)


def write_whole(path: Path, text: str) -> None:
    """Write a file under another name, then rename it: several processes, on several machines, may do so at once.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.writing")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def scan_shard(place: str, size: int, stamp: str = "") -> list[Row]:
    """Read the headers of a shard.

    Args:
        place: Path or URL.
        size: Its length in bytes.
        stamp: What tells this version of it from another, where a copy is read.

    Raises:
        DataError: As ``open_index``.
    """
    try:
        with _opened(place, size, stamp) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            rows = list(_rows(archive, place))
            # tarfile takes a damaged header for the end; a whole archive ends with a block of zeros.
            file.seek(archive.offset)
            whole = archive.offset + 512 <= size and file.read(512) == _END
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"shard {place} is no whole, uncompressed tar file ({one_line(error)}); get it again") from None
    if not whole:
        raise DataError(f"shard {place} is cut short or damaged: it does not end as a tar file does; get it again")
    if not rows:
        raise DataError(f"shard {place} has no sample; expected files such as 000000.jpg and 000000.txt in it")
    return rows


def _rows(archive: tarfile.TarFile, place: str) -> Iterator[Row]:
    row, seen = Row("", {}), set()
    for entry in archive:
        found = _NAME.fullmatch(entry.name.removeprefix("./")) if entry.isreg() else None
        if found is None:
            continue
        key, suffix = found.group(1), found.group(2).lower()
        if key != row.key:
            if row.files:
                yield row
            if key in seen:
                raise DataError(f"shard {place}: the files of sample '{key}' do not follow each other; pack it in the order of names")
            seen.add(key)
            row = Row(key, {})
        if suffix in row.files:
            raise DataError(f"shard {place}: '{key}.{suffix}' is in it twice; pack it again, each sample under its own name")
        row.files[suffix] = (entry.offset_data, entry.size)
    if row.files:
        yield row


def _described(rows: Sequence[Row], size: int, stamp: str) -> tuple[str, dict[str, int]]:
    kinds = [row.kind for row in rows]
    counts = {kind: kinds.count(kind) for kind in KINDS}
    lines: list[Any] = [{"format": _FORMAT, "size": size, "stamp": stamp, **counts}, *([row.key, row.files] for row in rows)]
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines), counts


def _header(home: Path) -> dict[str, Any] | None:
    """Read the first line of an index; None where there is none, or it is not ours."""
    try:
        with home.open(encoding="utf-8") as file:
            header = json.loads(file.readline())
    except (OSError, ValueError):
        return None
    expected = {"format", "size", "stamp", *KINDS}
    return header if isinstance(header, dict) and header.keys() >= expected else None


def _state(place: str) -> tuple[int, str]:
    """Return a shard's size in bytes and what tells one version of it from another."""
    if not is_remote(place):
        try:
            state = os.stat(place)
        except OSError as error:
            raise DataError(f"shard {place} cannot be read: {one_line(error)}") from None
        return state.st_size, str(state.st_mtime_ns)
    facts = with_patience(place, partial(_ask, place))
    size = facts.get("size")
    if size is None:
        raise DataError(f"shard {place}: the server does not say how long it is, so nothing in it can be found; copy it to a folder")
    return int(size), next((str(facts[name]) for name in ("ETag", "etag", "LastModified", "mtime", "updated") if facts.get(name)), "")


def _ask(place: str) -> dict[str, Any]:
    system, path = file_system(place)
    facts: dict[str, Any] = system.info(path)
    return facts


def _homes(place: str) -> list[Path]:
    known = place
    if is_remote(place):
        system, path = file_system(place)
        known = f"{system.protocol}{path}"  # one URL can be written in several ways
    away = cache_folder() / (hashlib.sha256(known.encode()).hexdigest()[:32] + INDEX_SUFFIX)
    return [away] if is_remote(place) else [index_beside(Path(place)), away]


def _opened(place: str, size: int, stamp: str) -> IO[bytes]:
    if not is_remote(place):
        return open(place, "rb")
    if most_bytes():
        return local_copy(place, size, stamp).open("rb")
    return io.BufferedReader(RemoteFile(place, size))
