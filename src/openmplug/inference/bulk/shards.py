"""WebDataset shards: tar files whose members share a key, ``000123.jpg`` with ``000123.json`` or ``000123.txt``.

A shard's headers are walked once, member by member, when its turn comes; pictures and words are read at their offsets, by the workers.
No list of all members is ever held, and nothing is unpacked.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

from openmplug.data.images import PICTURE_SUFFIXES, VIDEO_SUFFIXES, Member, decode_image
from openmplug.data.video import open_video
from openmplug.errors import DataError
from openmplug.inference.bulk.sources import Loaded, Row, Source, state, walk_pictures

_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_BLOCK = 512
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand_braces(pattern: str) -> list[str]:
    """Expand ``{000..012}`` and ``{a,b}`` as a shell does; leading zeros give the width.

    Example:
        >>> expand_braces("s-{08..10}.tar")
        ['s-08.tar', 's-09.tar', 's-10.tar']
    """
    parts = _BRACES.split(pattern)
    choices = []
    for number, part in enumerate(parts):
        bounds = _RANGE.fullmatch(part) if number % 2 else None
        if bounds is not None:
            first, last = bounds.groups()
            choices.append([str(value).zfill(len(first)) for value in range(int(first), int(last) + 1)])
        else:
            choices.append(part.split(",") if number % 2 else [part])
    return ["".join(choice) for choice in product(*choices)]


def find_shards(given: str) -> list[str] | None:
    """Return the tar files that an argument names, or None if it names something else.

    Args:
        given: A ``.tar`` file, a pattern that ends in ``.tar``, or a folder that holds tar files and no pictures.

    Raises:
        DataError: If a shard that it names does not exist, a pattern fits no file, or the file is compressed.
    """
    if given.lower().endswith(_PACKED):
        raise DataError(f"'{given}' is compressed, so single pictures cannot be read from it; unpack it, or pack it again with: tar cf")
    if os.path.isdir(given):
        tars = sorted(str(path) for path in Path(given).glob("*.tar") if path.is_file())
        return tars if tars and next(walk_pictures(given), None) is None else None
    if not given.lower().endswith(".tar"):
        return None
    if os.path.isfile(given):
        return [given]
    found: list[str] = []
    for name in expand_braces(given):
        matches = sorted(glob(name)) if has_magic(name) else [name] if os.path.isfile(name) else []
        if not matches:
            raise DataError(f"shard '{name}' does not exist; check the path" + ("" if name == given else f" or the pattern '{given}'"))
        found += matches
    return found


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sample lies: its shard, its key, and its members by extension."""

    path: str
    key: str
    members: Mapping[str, Member]


def read_samples(path: str) -> Iterator[tuple[str, dict[str, tuple[str, Member]]]]:
    """Walk a shard's headers.

    Consecutive members with the same path up to the first dot of the file name belong together; keys that begin with two underscores
    are WebDataset's own and are left out.

    Yields:
        Key, and name and place of each of its members by extension (``jpg``, ``json``, ``seg.png``).

    Raises:
        DataError: If the file is no uncompressed tar file, or ends too early.
    """
    key, members = "", dict[str, tuple[str, Member]]()
    try:
        for full_name, member in read_members(path):
            name = full_name.removeprefix("./")
            folder, _, file = name.rpartition("/")
            stem, _, extension = file.partition(".")
            own = f"{folder}/{stem}" if folder else stem
            if own != key and members:
                yield key, members
                members = {}
            key = own
            if not stem.startswith("__"):
                members[extension.lower()] = (name, member)
    except DataError:
        if members:  # the last sample before the cut or the damage
            yield key, members
        raise
    if members:
        yield key, members


def read_members(path: str) -> Iterator[tuple[str, Member]]:
    """List a tar file's regular members, one header at a time.

    Plain headers are read here, several times as fast as ``tarfile`` reads them; any other kind is left to ``tarfile``.

    Raises:
        DataError: If the file is no uncompressed tar file, or ends too early.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            end, offset = os.fstat(file.fileno()).st_size, 0
            while offset < end:
                file.seek(offset)
                header = file.read(_BLOCK)
                if not any(header):
                    break
                found = _plain(header, offset)
                if found is None:
                    file.seek(offset)
                    with tarfile.open(fileobj=file, mode="r:") as archive:  # begins where the file stands
                        entry = archive.firstmember  # type: ignore[attr-defined]
                        found = (entry.name if entry.isreg() else "", Member(entry.offset_data, entry.size))
                        offset = archive.offset
                else:
                    offset = found[1].offset + -(-found[1].size // _BLOCK) * _BLOCK
                if offset > end:
                    raise EOFError(f"'{found[0]}' ends after the file's {end:,} bytes")
                if found[0]:
                    yield found
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"'{path}' is damaged or not an uncompressed tar file ({str(error) or type(error).__name__})") from None


def _plain(header: bytes, offset: int) -> tuple[str, Member] | None:
    """Read the header of a regular file with a short name; None for anything else, damaged headers among them."""
    if len(header) != _BLOCK:
        return None
    try:
        size, checksum = int(header[124:136].strip(b"\0 "), 8), int(header[148:156].strip(b"\0 "), 8)
        name = header[:100].rstrip(b"\0").decode()
    except ValueError:
        return None
    regular = header[156:157] in (b"0", b"\0") and header[257:262] == b"ustar" and not header[345] and not name.endswith("/")
    if not regular or checksum != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        return None
    return name, Member(offset + _BLOCK, size)


def _visual(members: Mapping[str, Any]) -> str | None:
    """Choose the extension of a sample's picture, ``jpg`` before ``seg.png``, or of its video where there is no picture."""
    for suffixes in (PICTURE_SUFFIXES, VIDEO_SUFFIXES):
        found = [extension for extension in members if "." + extension.rpartition(".")[2] in suffixes]
        if found:
            return min(found, key=lambda extension: extension.count("."))
    return None


class TarShards(Source):
    """Samples of several tar files, shard after shard.

    The words of a sample are its ``KEY.json``'s column or its ``KEY.question`` (``KEY.text``), else those of the command, else its
    ``KEY.txt``: a ``.txt`` often holds a caption, so it gives way to a question that was asked on purpose.

    Args:
        paths: The shards.
        column: The column of words the verb needs, or None.
        text: The words of the command.

    Raises:
        DataError: If the first sample has no picture or no words, or the first shard cannot be read.
    """

    total = None

    def __init__(self, paths: Sequence[str], column: str | None, text: str | None) -> None:
        self.paths = list(paths)
        self.column = column
        self.text = text
        self._file: BinaryIO | None = None
        self._opened = ("", 0)
        first = next(self._shard(self.paths[0]), None)
        if first is None:
            raise DataError(f"shard '{self.paths[0]}' holds no samples; expected members such as 000.jpg and 000.json")
        if first.failure is not None:
            raise DataError(first.failure)
        self._words(first.place)

    def rows(self) -> Iterator[Row]:
        """Walk the shards; one that is damaged ends in a row that says so."""
        for path in self.paths:
            try:
                yield from self._shard(path)
            except DataError as error:
                yield Row(path, failure=f"{error}; its other samples are left out")

    def _shard(self, path: str) -> Iterator[Row]:
        for key, members in read_samples(path):
            extension = _visual(members)
            if extension is None:
                found = ", ".join(members)
                yield Row(
                    f"{path}/{key}",
                    failure=f"sample '{key}' in '{path}' has no picture or video; found {found}, expected jpg, png, mp4, ...",
                )
                continue
            places = {name: place for name, (_, place) in members.items()}
            yield Row(f"{path}/{members[extension][0]}", place=Place(path, key, places))

    def identity(self) -> Any:
        """Return size and time of change of each shard."""
        return [state(path) for path in self.paths]

    def load(self, row: Row) -> Loaded:
        """Read a sample's picture, or open its video, and read its words."""
        place: Place = row.place
        text, fields = self._words(place)
        extension = _visual(place.members)
        assert extension is not None  # a row without a picture is a failure from the start
        data = self._read(place, extension)
        is_video = "." + extension.rpartition(".")[2] not in PICTURE_SUFFIXES
        return Loaded(open_video(data, row.name) if is_video else decode_image(data, row.name), text, fields)

    def locate(self, row: Row) -> tuple[str, str]:
        """Return the member's path through its shard, and the shard."""
        return row.name, row.place.path

    def text_beside(self, row: Row, extension: str) -> str | None:
        """Return the words of a sample's ``KEY.{extension}``; None if it has none.

        Raises:
            DataError: If they cannot be read.
        """
        return self._text(row.place, extension)

    def _words(self, place: Place) -> tuple[str, Mapping[str, Any]]:
        fields: dict[str, Any] = {}
        if "json" in place.members:
            try:
                fields = json.loads(self._read(place, "json"))
            except ValueError as error:
                raise DataError(f"'{place.key}.json' in '{place.path}' is not valid JSON ({error})") from None
            if not isinstance(fields, dict):
                raise DataError(f"'{place.key}.json' in '{place.path}' is a {type(fields).__name__}, expected an object")
        if self.column is None:
            return "", fields
        candidates = (
            fields.pop(self.column, None),
            self._text(place, self.column),
            self.text,
            self._text(place, "txt"),
        )
        words = next((words for words in candidates if isinstance(words, str) and words.strip()), None)
        if words is None:
            expected = f"a column '{self.column}' in its .json, a .{self.column} or a .txt, or --{self.column}"
            raise DataError(f"sample '{place.key}' in '{place.path}' has no words; found {', '.join(place.members)}, expected {expected}")
        return words, fields

    def _text(self, place: Place, extension: str) -> str | None:
        if extension not in place.members:
            return None
        try:
            return self._read(place, extension).decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise DataError(f"'{place.key}.{extension}' in '{place.path}' is not UTF-8 text") from None

    def _read(self, place: Place, extension: str) -> bytes:
        member = place.members[extension]
        opened = (place.path, os.getpid())
        try:
            # A worker stays in one shard for long. A file that its parent opened would share the parent's position.
            if self._file is None or self._opened != opened:
                self._close()
                self._file, self._opened = open(place.path, "rb", buffering=0), opened  # noqa: SIM115 - kept for the next row
            self._file.seek(member.offset)
            data = self._file.read(member.size)
        except OSError as error:
            raise DataError(f"'{place.key}.{extension}' in '{place.path}' cannot be read: {error.strerror or error}") from None
        if len(data) != member.size:
            raise DataError(f"'{place.key}.{extension}' in '{place.path}' is cut short; copy the shard again")
        return data

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file behind: it means nothing in another process."""
        return {**self.__dict__, "_file": None, "_opened": ("", 0)}

    def __del__(self) -> None:
        """Close the file."""
        if getattr(self, "_file", None) is not None:
            self._close()
