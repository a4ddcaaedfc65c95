"""Where rows come from: picture files, folders, JSONL and CSV tables; ``shards`` adds tar files.

A row says where a picture and its words are; nothing of it is read before a worker loads it. Rows are streamed from the disk each time
they are iterated, so memory does not grow with their number: a folder costs the names of its largest directory, a table the index of
the archive beside it.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from openmplug.config import did_you_mean
from openmplug.data.images import PICTURE_SUFFIXES, VIDEO_SUFFIXES, ArchiveImages, FolderImages, ImageSource, open_images
from openmplug.data.readers.files import read_rows
from openmplug.data.video import Video, open_clip
from openmplug.errors import DataError
from openmplug.inference.visuals import read_visual

VISUAL_SUFFIXES = PICTURE_SUFFIXES | VIDEO_SUFFIXES


@dataclass(frozen=True, slots=True)
class Row:
    """One input: where a picture and its words are.

    Args:
        name: The picture as the results name it.
        text: The question or the text to match; empty where there is none, or where it is read together with the picture.
        fields: Other columns of its row, carried into the results.
        place: Where the source finds it; None if the name says so.
        failure: Why it cannot be loaded, where that is known already.
    """

    name: str
    text: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    place: Any = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A row that was read: an upright RGB picture or an opened video, the words, the other columns."""

    image: Image.Image | Video
    text: str
    fields: Mapping[str, Any]


Key = tuple[int, Row]
"""A row, after the number of the source it belongs to."""


class Source(ABC):
    """One argument of the command. It is handed to worker processes, so it is cheap to pickle and holds no open file.

    Attributes:
        total: Number of rows; None where counting them would mean reading everything.
    """

    total: int | None

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """List the rows, in the same order each time."""

    @abstractmethod
    def identity(self) -> Any:
        """Return a JSON value that changes when the rows do."""

    def load(self, row: Row) -> Loaded:
        """Read a row's picture and words; runs in a worker.

        Raises:
            DataError: If they cannot be read.
        """
        return Loaded(self.picture(row), row.text, row.fields)

    def picture(self, row: Row) -> Image.Image | Video:
        """Read a row's picture or open its video."""
        return read_visual(row.name)

    def locate(self, row: Row) -> tuple[str, str]:
        """Return the path of a row's picture, and the file that holds it: the same, or an archive that the path goes on into."""
        return row.name, row.name


def state(path: str | Path) -> list[Any]:
    """Return what tells a file from another of its name: size and time of change; nothing where it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return [str(path)]
    return [str(path), found.st_size, found.st_mtime_ns]


class PictureFile(Source):
    """One picture. Whether it is there and readable is found when it is read, under the policy the user chose."""

    total = 1

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    def rows(self) -> Iterator[Row]:
        """Yield the one row."""
        yield Row(self.name, self.text)

    def identity(self) -> Any:
        """Return name, size and time of change."""
        return state(self.name)


class PictureFolder(Source):
    """Every picture and video below a folder, in order of name."""

    def __init__(self, root: str, text: str) -> None:
        self.root = root
        self.text = text
        digest, self.total = hashlib.sha256(), 0
        for name in walk_pictures(root):
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
            self.total += 1
        self._digest = digest.hexdigest()

    def rows(self) -> Iterator[Row]:
        """Walk the folder."""
        for name in walk_pictures(self.root):
            yield Row(str(Path(self.root) / name), self.text)

    def identity(self) -> Any:
        """Return the folder and a digest of its pictures' names."""
        return [self.root, self.total, self._digest]


def walk_pictures(folder: str) -> Iterator[str]:
    """Yield the pictures and videos below a folder, as paths relative to it and sorted as such.

    Args:
        folder: Searched to the bottom; linked folders are not entered, as ``Path.rglob`` does it.

    Raises:
        DataError: If a folder cannot be read.
    """
    names = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    # With its slash a folder sorts among its neighbours as the paths below it do.
                    names.append(entry.name + "/")
                elif os.path.splitext(entry.name)[1].lower() in VISUAL_SUFFIXES and entry.is_file():
                    names.append(entry.name)
    except OSError as error:
        raise DataError(f"folder '{folder}' cannot be read: {error.strerror or error}") from None
    for name in sorted(names):
        if name.endswith("/"):
            yield from (name + below for below in walk_pictures(os.path.join(folder, name[:-1])))
        else:
            yield name


class _Beside(ImageSource):
    """Pictures of a table: files beside it, or members of its archive (``dev_images.tar`` beside ``dev.jsonl``)."""

    def __init__(self, table: Path, clips: bool) -> None:
        self.folder = FolderImages(table.parent)
        self.source = open_images(table.parent, table.stem, clips=clips)
        self.description = self.source.description

    def names(self) -> list[str]:
        return self.source.names()

    def read(self, name: str) -> bytes:
        return self.folder.read(name) if name in self.folder else self.source.read(name)

    def locate(self, name: str) -> Path | None:
        return self.folder.locate(name) if name in self.folder else self.source.locate(name)

    def members(self, name: str) -> list[str]:
        return [] if name in self.folder else self.source.members(name)

    def __contains__(self, name: object) -> bool:
        return name in self.folder or name in self.source


class Table(Source):
    """A JSONL or CSV table with a column ``image`` or ``video``; every row is checked, and none is kept.

    Args:
        path: The table; pictures are named relative to its folder.
        column: The column of words the verb needs, or None.
        text: The words of rows that have none.

    Raises:
        DataError: If a row lacks a column, or the table cannot be read.
    """

    def __init__(self, path: Path, column: str | None, text: str | None) -> None:
        self.path = path
        self.column = column
        self.text = text
        clips = [row.place is not None for row in self.rows()]
        self.total = len(clips)
        self.pictures = _Beside(path, any(clips))

    def rows(self) -> Iterator[Row]:
        """Read the table."""
        needed = ["image"] if self.column is None or self.text is not None else ["image", self.column]
        for where, record in read_rows(self.path):
            found = list(record)
            clip = "video" in record and "image" not in record
            name = record.pop("video" if clip else "image", None)
            if not isinstance(name, str) or not name:
                raise _no_column(where, "image", found, needed)
            words = record.pop(self.column, self.text) if self.column else ""
            if not isinstance(words, str) or (self.column and not words.strip()):
                raise _no_column(where, str(self.column), found, needed)
            yield Row(name, words, record, place=clip or None)

    def picture(self, row: Row) -> Image.Image | Video:
        """Read the picture beside the table or in its archive, or open the video."""
        return open_clip(self.pictures, row.name) if row.place else self.pictures.open(row.name)

    def locate(self, row: Row) -> tuple[str, str]:
        """Return the path beside the table, or through its archive."""
        place, archive = self.pictures.locate(row.name), self.pictures.source
        if place is None and isinstance(archive, ArchiveImages):
            return f"{archive.path}/{row.name}", str(archive.path)
        return str(place), str(place)

    def identity(self) -> Any:
        """Return size and time of change of the table and of its archive."""
        archive = self.pictures.source
        return [state(self.path), *([state(archive.path)] if isinstance(archive, ArchiveImages) else [])]


def _no_column(where: str, column: str, found: Sequence[str], needed: Sequence[str]) -> DataError:
    hint = did_you_mean(column, found)
    return DataError(f"{where}: no '{column}'; found columns {', '.join(found) or 'none'}, expected {', '.join(needed)}{hint}")
