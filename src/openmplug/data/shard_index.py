"""Which tar shards there are, and where in each of them every sample lies.

A shard is an uncompressed tar file in WebDataset's form, as img2dataset writes it: the files of a sample follow each other and share
their name up to its first dot (``000012.jpg``, ``000012.txt``, ``000012.json``). One pass over a shard's headers gives its index, a text
file of one line for each sample that is kept beside the shard, or in the cache folder where that is not possible, and made anew when the
shard's size or time of change is another. A shard may lie behind any URL that ``fsspec`` opens.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tarfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from openmplug.data.images import PICTURE_SUFFIXES, VIDEO_SUFFIXES, one_line
from openmplug.data.shard_places import file_system, is_remote
from openmplug.errors import DataError, EnvironmentProblem

ANIMATION = "video.gif"  # what a clip that is a GIF is called in a shard, where ``gif`` alone is a picture
INDEX_SUFFIX = ".index.jsonl"
KINDS = ("picture", "clip", "words")
_FORMAT = 1
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")  # key, suffix: split at the first dot of the last part
_END = bytes(512)
_BLOCK_BYTES = 1 << 22  # read ahead of a remote shard's headers


class Row(NamedTuple):
    """One sample of a shard: its key, and suffix -> (byte offset, size) of its files."""

    key: str
    files: dict[str, tuple[int, int]]

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
    """What is known of a shard without reading it: how many samples it has of which kind, and where the lines about them are."""

    path: Path
    counts: dict[str, int]

    def __len__(self) -> int:
        return sum(self.counts.values())

    def lines(self) -> list[bytes]:
        """Read the lines of the samples, to be parsed one by one by ``parse_row``: a shard's index costs a megabyte, not ten."""
        return self.path.read_bytes().splitlines()[1:]


def parse_row(line: bytes) -> Row:
    """Parse one line of an index."""
    key, files = json.loads(line)
    return Row(key, {suffix: (offset, size) for suffix, (offset, size) in files.items()})


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
            return ShardIndex(home, {kind: header[kind] for kind in KINDS})
    text, counts = _described(scan_shard(place, size), size, stamp)
    for home in homes:
        with contextlib.suppress(OSError):
            write_whole(home, text)
            return ShardIndex(home, counts)
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


def scan_shard(place: str, size: int) -> list[Row]:
    """Read the headers of a shard.

    Args:
        place: Path or URL.
        size: Its length in bytes.

    Raises:
        DataError: As ``open_index``.
    """
    try:
        with _opened(place) as file, tarfile.open(fileobj=file, mode="r:") as archive:
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
        row.files[suffix] = (entry.offset_data, entry.size)
    if row.files:
        yield row


def _described(rows: Sequence[Row], size: int, stamp: str) -> tuple[str, dict[str, int]]:
    kinds = [row.kind for row in rows]
    counts = {kind: kinds.count(kind) for kind in KINDS}
    lines: list[Any] = [{"format": _FORMAT, "size": size, "stamp": stamp, **counts}, *([row.key, row.files] for row in rows)]
    return "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines), counts


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
    try:
        if not is_remote(place):
            state = os.stat(place)
            return state.st_size, str(state.st_mtime_ns)
        system, path = file_system(place)
        facts = system.info(path)
    except OSError as error:
        raise DataError(f"shard {place} cannot be read: {one_line(error)}") from None
    size = facts.get("size")
    if size is None:
        raise DataError(f"shard {place}: the server does not say how long it is, so nothing in it can be found; copy it to a folder")
    return int(size), next((str(facts[name]) for name in ("ETag", "etag", "LastModified", "mtime", "updated") if facts.get(name)), "")


def _homes(place: str) -> list[Path]:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    known = place
    if is_remote(place):
        system, path = file_system(place)
        known = f"{system.protocol}{path}"  # one URL can be written in several ways
    name = hashlib.sha256(known.encode()).hexdigest()[:32] + INDEX_SUFFIX
    away = Path(os.environ.get("OPENMPLUG_CACHE") or caches / "openmplug") / "shards" / name
    return [away] if is_remote(place) else [index_beside(Path(place)), away]


def _opened(place: str) -> IO[bytes]:
    if not is_remote(place):
        return open(place, "rb")
    system, path = file_system(place)
    opened: IO[bytes] = system.open(path, "rb", block_size=_BLOCK_BYTES, cache_type="readahead")
    return opened
