"""Samples in tar shards, each read at its own offset: pictures, videos or words alone, with captions from their text files.

Nothing is held in memory but a few shards' indices: a sample is made when it is asked for. An order that stays within a window of shards
(``openmplug.data.mixing``) therefore reads millions of samples in the memory of some thousands.
"""

from __future__ import annotations

import contextlib
import json
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

from openmplug.batch import Sample
from openmplug.data.images import ImageSource, one_line
from openmplug.data.remote import MOST_BYTES, RUN, ReadAhead
from openmplug.data.shard_copies import VARIABLE, check_room, local_copy, most_bytes
from openmplug.data.shard_index import KINDS, Row, Rows, ShardIndex, open_index
from openmplug.data.shard_places import find_shards, is_remote
from openmplug.errors import DataError, UsageError

KEPT_SHARDS = 64
"""So many shards are kept open, with their indices mapped: in each process four bytes for each of their samples."""

COPIES_AT_ONCE = 10
"""Shards of a source that are read at about the same time: a window of the order of a pass, and what is read ahead of the next."""

_REQUESTS_AT_ONCE = 16
_RECENT_ROWS = 256
_HEADER_BYTES = 512  # of a file in a tar, right before its content
_NAME_BYTES = 100  # at the start of that header

_ROLES = ("caption",)
_MANY = {"picture": "pictures", "clip": "videos", "words": "texts alone"}


class _Shard:
    """What is in memory of one shard: its rows as a map of their file, and those asked for last."""

    def __init__(self, place: str, index: ShardIndex, ahead: ReadAhead) -> None:
        self.place = place
        self.rows = Rows(index)
        self._index = index
        self._ahead = ahead
        self._recent: OrderedDict[str, Row] = OrderedDict()  # key -> row: a picture is asked for after its words
        self._file: int | None = None

    def row(self, number: int) -> Row:
        row = self.rows[number]
        self._recent[row.key] = row
        if len(self._recent) > _RECENT_ROWS:
            self._recent.popitem(last=False)
        return row

    def find(self, key: str) -> Row | None:
        return self._recent.get(key) or self.rows.find(key)

    def read(self, row: Row, suffix: str) -> bytes:
        """Return the content of a file of a sample; the header before it says that it is that file."""
        offset, size = row.files[suffix]
        start, end = offset - _HEADER_BYTES, offset + size
        if not is_remote(self.place):
            data = self._read_local(start, end - start)
        elif most_bytes():
            data = self._read_copy(start, end - start)
        else:
            data = self._ahead.read(self.place, start, end, lambda: self._run(row))
        if len(data) != end - start:
            given = max(0, len(data) - _HEADER_BYTES)
            raise DataError(f"shard {self.place} has changed: {given:,} of {size:,} bytes at {offset:,}; start again to index it anew")
        name = data[:_NAME_BYTES].partition(b"\0")[0]
        expected = f"{row.key}.{suffix}"
        # Of longer names and other letters, the header of the older forms says less.
        if len(name) < _NAME_BYTES and expected.isascii() and _last(name).lower() != _last(expected.encode()).lower():
            found = _last(name).decode("ascii", "backslashreplace")[:40]
            raise DataError(f"shard {self.place} has changed: at {offset:,} is '{found}', not '{expected}'; delete {self._index.path}")
        return data[_HEADER_BYTES:]

    def _read_local(self, start: int, size: int) -> bytes:
        try:
            if hasattr(os, "pread"):
                if self._file is None:
                    self._file = os.open(self.place, os.O_RDONLY)
                return os.pread(self._file, size, start)
            return _part(self.place, start, size)  # Windows
        except OSError as error:
            raise DataError(f"shard {self.place} cannot be read: {one_line(error)}") from None

    def _read_copy(self, start: int, size: int) -> bytes:
        # Never kept open: a copy that another process throws away would take room for as long.
        for _ in range(3):
            with contextlib.suppress(FileNotFoundError):
                return _part(local_copy(self.place, self._index.size, self._index.stamp), start, size)
        raise DataError(f"copies of shard {self.place} are thrown away before they are read; let {VARIABLE} allow more GB")

    def _run(self, row: Row) -> tuple[int, int]:
        """Return where the files of a sample begin, and where those of its run end, or of the last that one request may read."""
        start = end = min(offset for offset, _ in row.files.values()) - _HEADER_BYTES
        for number in range(row.number, min(row.number // RUN * RUN + RUN, len(self.rows))):
            further = max(offset + size for offset, size in self.rows[number].files.values())
            if further - start > MOST_BYTES:
                break
            end = further
        return start, end

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)  # type: ignore[arg-type]


def _part(path: str | Path, start: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(size)


def _last(name: bytes) -> bytes:
    return name.rpartition(b"/")[2]


class ShardSet(ImageSource):
    """Several shards as one row of samples, and as the source of their pictures and videos.

    A picture is called ``{shard}/{key}.{suffix}``, such as ``00000.tar/000000012.jpg``. Cheap to pickle; each process opens its own files.

    Args:
        places: Paths or URLs of the shards, see ``find_shards``.

    Raises:
        DataError: If one cannot be indexed, or they hold samples of several kinds.
        EnvironmentProblem: If an index can be written nowhere.

    Attributes:
        sizes: Samples of each shard.
        kind: "picture", "clip" or "words": what all its samples are about.
        remote: Whether some are behind URLs, where each read is a request.
    """

    def __init__(self, places: Sequence[str]) -> None:
        self.places = list(places)
        self._indices = _open_indices(self.places)
        self.sizes = [len(index) for index in self._indices]
        self._ends = list(accumulate(self.sizes))
        self._labels = _short_names(self.places)
        self._numbers = {label: number for number, label in enumerate(self._labels)}
        counts = {kind: sum(index.counts[kind] for index in self._indices) for kind in KINDS}
        kinds = [kind for kind, count in counts.items() if count]
        if len(kinds) != 1:
            found = " and ".join(f"{counts[kind]:,} {_MANY[kind]}" for kind in kinds)
            raise DataError(f"{self.places[0]} and the shards beside it hold {found}; put each kind into shards of its own")
        self.kind = kinds[0]
        self.description = f"{len(places):,} shards such as {self.places[0]} ({len(self):,} samples)"
        self.remote = any(map(is_remote, self.places))
        if self.remote:
            check_room(self.places[0], max(index.size for index in self._indices), min(len(self.places), COPIES_AT_ONCE))
        self._kept: OrderedDict[int, _Shard] = OrderedDict()
        self._ahead = ReadAhead()
        self._process = os.getpid()

    def __len__(self) -> int:
        return self._ends[-1]

    def row(self, index: int) -> tuple[int, Row]:
        """Return the number of the shard that sample ``index`` lies in, and where its files are."""
        number = bisect_right(self._ends, index)
        return number, self._shard(number).row(index - (self._ends[number] - self.sizes[number]))

    def file(self, number: int, row: Row, suffix: str) -> bytes:
        """Read one file of a sample.

        Raises:
            DataError: If the shard cannot be read.
        """
        return self._shard(number).read(row, suffix)

    def label(self, number: int) -> str:
        """Return what a shard is called in the names of its pictures."""
        return self._labels[number]

    def _shard(self, number: int) -> _Shard:
        if self._process != os.getpid():  # forked: file numbers are shared with the parent, and may be closed there
            self._kept, self._ahead, self._process = OrderedDict(), ReadAhead(), os.getpid()
        shard = self._kept.get(number)
        if shard is None:
            shard = self._kept[number] = _Shard(self.places[number], self._indices[number], self._ahead)
            if len(self._kept) > KEPT_SHARDS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return shard

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open files behind: a file number means nothing in another process."""
        return {**self.__dict__, "_kept": OrderedDict(), "_ahead": ReadAhead(), "_process": 0}

    # ------------------------------------------------------------------------------------------------------- as ImageSource

    def names(self) -> list[str]:
        """List all pictures and videos; this reads every index."""
        found = []
        for index in range(len(self)):
            number, row = self.row(index)
            found += [] if row.visual is None else [self.name(number, row)]
        return sorted(found)

    def name(self, number: int, row: Row) -> str:
        """Return what the picture or video of a sample is called."""
        return f"{self._labels[number]}/{row.key}.{row.visual}"

    def read(self, name: str) -> bytes:
        """Return the bytes of a picture or video."""
        found = self._found(name)
        if found is None:
            raise DataError(f"image '{name}' not found in {self.description}; expected SHARD.tar/KEY.SUFFIX")
        number, row, suffix = found
        return self._shard(number).read(row, suffix)

    def _found(self, name: str) -> tuple[int, Row, str] | None:
        shard, mark, rest = name.partition(".tar/")
        number = self._numbers.get(f"{shard}.tar") if mark else None
        folder, slash, last = rest.rpartition("/")
        stem, _, suffix = last.partition(".")
        row = None if number is None else self._shard(number).find(f"{folder}{slash}{stem}")
        return None if number is None or row is None or suffix not in row.files else (number, row, suffix)

    def __contains__(self, name: object) -> bool:
        """Say whether there is such a picture; only its shard's index is looked at."""
        return isinstance(name, str) and self._found(name) is not None


def _open_indices(places: Sequence[str]) -> list[ShardIndex]:
    """Open indices in order; those of remote shards several at a time, as each is a request at least."""
    if not any(map(is_remote, places)):
        return [open_index(place) for place in places]
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        return list(pool.map(open_index, places))


def _short_names(places: Sequence[str]) -> list[str]:
    """Name shards by what their paths do not share; the last part always stays."""
    parts = [place.replace("\\", "/").split("/") for place in places]
    shared = 0
    while all(len(part) - 1 > shared and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    return ["/".join(part[shared:]) for part in parts]


class ShardSamples(Sequence[Sample]):
    """The records of a set of shards, each made when it is asked for.

    A picture's captions are ``captions``, a list, of its ``.json`` file; else its ``.txt`` file; else ``caption`` of its ``.json``. Of
    words alone they are the ``text``, one record for each sample.

    Args:
        shards: Where they lie.
        columns: ``{caption: NAME}`` takes the captions from that field of the ``.json`` file; ``{caption: null}`` reads none.

    Raises:
        UsageError: If ``columns`` names an unknown role.
    """

    def __init__(self, shards: ShardSet, columns: Mapping[str, str | None]) -> None:
        if unknown := sorted(set(columns) - set(_ROLES)):
            raise UsageError(f"unknown role '{unknown[0]}' in data.columns; shards have {', '.join(_ROLES)}")
        self.shards = shards
        self._reads = columns.get("caption", "") is not None
        self._field = columns.get("caption")

    def __len__(self) -> int:
        return len(self.shards)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """Return a record, or a list of those of a slice.

        Raises:
            DataError: If its texts cannot be read.
        """
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        number, row = self.shards.row(index)
        key = f"{self.shards.label(number).removesuffix('.tar')}/{row.key}"
        texts = self._texts(number, row) if self._reads else ()
        if row.visual is None:
            if not texts and self._reads:
                raise DataError(f"record '{key}' in {self.shards.places[number]} has no words")
            return Sample(key, text=" ".join(texts) or None)
        name, clip = self.shards.name(number, row), row.kind == "clip"
        if not texts and self._reads:
            raise DataError(f"record '{key}' in {self.shards.places[number]} has no caption; expected one in its .txt or .json file")
        return Sample(key, name, None, texts, (), texts, index, clip=clip)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def _texts(self, number: int, row: Row) -> tuple[str, ...]:
        facts = self._facts(number, row) if "json" in row.files else {}
        found: Any = facts.get(self._field) if self._field else facts.get("captions")
        if found is None and not self._field:
            found = self._text(number, row) if "txt" in row.files else facts.get("caption")
        texts = found if isinstance(found, list) else [found]
        return tuple(text.strip() for text in texts if isinstance(text, str) and text.strip())

    def _text(self, number: int, row: Row) -> str:
        try:
            return self.shards.file(number, row, "txt").decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{row.key}.txt in {self.shards.places[number]} is not UTF-8 text (byte {error.start:,})") from None

    def _facts(self, number: int, row: Row) -> dict[str, Any]:
        data = self.shards.file(number, row, "json")
        try:
            facts = json.loads(data)
        except ValueError as error:
            raise DataError(f"{row.key}.json in {self.shards.places[number]} is not JSON ({one_line(error)})") from None
        return facts if isinstance(facts, dict) else {}


def open_shards(root: Path | None, patterns: Sequence[str], columns: Mapping[str, str | None]) -> ShardSamples:
    """Find, index and open shards; see ``find_shards``, ``ShardSet`` and ``ShardSamples`` for arguments and errors."""
    return ShardSamples(ShardSet(find_shards(root, patterns)), columns)
