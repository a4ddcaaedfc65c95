"""The inputs of a command: which sources its arguments name, and which rows are this machine's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from openmplug.errors import DataError, UsageError
from openmplug.inference.bulk.shards import TarShards, find_shards
from openmplug.inference.bulk.sources import VISUAL_SUFFIXES, Key, Loaded, PictureFile, PictureFolder, Source, Table

TABLE_SUFFIXES = frozenset({".jsonl", ".csv"})


class Inputs:
    """All inputs of a command, or one machine's part of them: rows ``shard``, ``shard + num_shards``, and so on.

    Args:
        sources: In the order of the command.
        shard: Which part, from 0.
        num_shards: How many parts there are.
        text: The words for rows that come without.

    Attributes:
        total: Number of rows of this part; None where a source does not know its own.
    """

    def __init__(self, sources: Sequence[Source], shard: int = 0, num_shards: int = 1, text: str | None = None) -> None:
        self.sources = list(sources)
        self.shard = shard
        self.num_shards = num_shards
        self.text = text
        totals = [source.total for source in self.sources]
        known = [total for total in totals if total is not None]
        self.total = len(range(shard, sum(known), num_shards)) if len(known) == len(totals) else None

    def rows(self, start: int = 0) -> Iterator[Key]:
        """List this part's rows, without the first ``start``."""
        rows = ((number, row) for number, source in enumerate(self.sources) for row in source.rows())
        return islice(rows, self.shard + start * self.num_shards, None, self.num_shards)

    def load(self, key: Key) -> Loaded:
        """Read one row's picture and words.

        Raises:
            DataError: If they cannot be read.
        """
        number, row = key
        if row.failure is not None:
            raise DataError(row.failure)
        return self.sources[number].load(row)

    def identity(self) -> dict[str, Any]:
        """Return a JSON value that changes when the rows do."""
        return {"inputs": [source.identity() for source in self.sources], "text": self.text, "shard": [self.shard, self.num_shards]}


def open_inputs(inputs: Sequence[str], column: str | None, text: str | None = None, shard: int = 0, num_shards: int = 1) -> Inputs:
    """Find the inputs of a command and check them, as far as that goes without reading every picture.

    Args:
        inputs: Picture and video files, folders of them (searched to the bottom) or of tar shards, JSONL or CSV tables, tar shards and
            patterns of them (``train-{000..012}.tar``, ``train-*.tar``).
        column: The column of words the verb needs (``question``, ``text``), or None.
        text: The words for pictures that come without; a table's or a shard's own column comes first.
        shard: Which part of the rows, from 0.
        num_shards: How many parts.

    Raises:
        UsageError: If words are needed and none are given, or the shard numbers make no sense.
        DataError: If an input does not exist or is empty, or a row lacks a column.
    """
    if num_shards < 1 or not 0 <= shard < num_shards:
        raise UsageError(f"--shard is {shard} of --num-shards {num_shards}; expected a shard from 0 to {max(num_shards - 1, 0)}")
    sources: list[Source] = []
    for given in inputs:
        path = Path(given)
        if path.suffix.lower() in TABLE_SUFFIXES and path.is_file():
            sources.append(Table(path, column, text))
            continue
        if (shards := find_shards(given)) is not None:
            sources.append(TarShards(shards, column, text))
            continue
        if column is not None and text is None:
            raise UsageError(f"'{given}' comes without words; give --{column}, or a JSONL or CSV with columns image and {column}")
        if path.is_dir():
            folder = PictureFolder(given, text or "")
            if not folder.total:
                raise DataError(
                    f"folder '{given}' holds no pictures or videos (looked for {', '.join(sorted(VISUAL_SUFFIXES))}) and no .tar shards"
                )
            sources.append(folder)
        elif path.suffix.lower() in TABLE_SUFFIXES:
            raise DataError(f"table '{given}' does not exist; check the path")
        else:
            sources.append(PictureFile(given, text or ""))
    return Inputs(sources, shard, num_shards, text)
