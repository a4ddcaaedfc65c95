"""Files into an index: what is new or changed is read and embedded, and whole files are written in small transactions.

The table itself is the record of what is done: a run that was killed left whole files in it, and the next one passes over them.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from openmplug.data.workers import choose_workers
from openmplug.errors import DataError, UsageError
from openmplug.inference.abilities import embed_pixels
from openmplug.inference.bulk.decoding import decode
from openmplug.inference.bulk.inputs import Inputs
from openmplug.inference.bulk.run import Tally, check_failures
from openmplug.inference.bulk.sources import Key, state
from openmplug.inference.model import Model
from openmplug.inference.search.manifest import Manifest
from openmplug.inference.search.metadata import CellNumbers, fit, kind_of, tidy, writable
from openmplug.inference.search.places import Root
from openmplug.inference.search.reading import FileReader, Piece, ReadFile
from openmplug.inference.search.store import Store

COMMIT_ROWS = 256
COMMIT_SECONDS = 20.0
_READ_FILES = 8  # files a worker reads at a time: clips are large


@dataclass(slots=True)
class BuildTally(Tally):
    """How far a run is; ``done`` counts files that are in the index now, ``resumed`` those of them that were there before.

    Args:
        replaced: Files that had changed.
        repeated: Rows that named a file again; the first one counts.
        rows_added: Pictures and moments.
        misfits: Values left empty by column, because they are of another kind than the column's.
        total: Rows that the inputs name; None if unknown.
    """

    replaced: int = 0
    repeated: int = 0
    rows_added: int = 0
    misfits: Counter[str] = field(default_factory=Counter)
    total: int | None = None

    @property
    def added(self) -> int:
        """Files this run brought in, changed ones among them."""
        return self.done - self.resumed


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one row will be in the index."""

    key: Key
    name: str
    stamp: str
    note: str


@dataclass(slots=True)
class _File:
    """A file's rows as they are made."""

    plan: _Plan
    fields: dict[str, Any]
    pieces: list[Piece] = field(default_factory=list)
    vectors: list[Any] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)


def check_captions(model: Model) -> None:
    """Refuse a model that cannot write captions where the index is to have them.

    Raises:
        UsageError: With the way out.
    """
    try:
        model.require("caption")
    except UsageError as error:
        raise UsageError(f"{error}; leave --captions out, or give captions in a column 'caption' of the input") from None


class Builder:
    """Brings inputs into an index.

    Args:
        store: The rows.
        manifest: What was decided for the whole index.
        root: Names files.
        model: The one that made the index.
    """

    def __init__(self, store: Store, manifest: Manifest, root: Root, model: Model) -> None:
        self.store = store
        self.manifest = manifest
        self.root = root
        self.model = model
        self._files = store.files()
        self._columns = store.columns()

    def add(
        self,
        inputs: Inputs,
        on_error: str = "skip",
        max_failures: int | float | None = None,
        workers: int | None = None,
        report: Callable[[BuildTally], None] = lambda tally: None,
    ) -> BuildTally:
        """Add what is new and replace what has changed.

        Args:
            inputs: Pictures and videos.
            on_error: ``error`` stops at the first file that cannot be read; ``skip`` counts and names it.
            max_failures: Under ``skip``: stop when more files than this (or this fraction of them, of at least 100) cannot be read.
            workers: Processes that decode; None chooses.
            report: Called after each transaction.

        Raises:
            DataError: For unreadable files, as the policy says; if none could be read.
            EnvironmentProblem: If something cannot be written, or a worker dies.
        """
        tally = BuildTally(total=inputs.total)
        began = time.perf_counter()
        waiting: list[_File] = []
        committed = time.monotonic()
        for found in self._read(inputs, tally, workers):
            if isinstance(found, str):
                if on_error == "error":
                    self._commit(waiting, tally)
                    raise DataError(f"{found} (to go on without it: --on-error skip; what came before it is in the index)")
                tally.add({"error": found})
                check_failures(tally, max_failures)
                continue
            waiting.append(found)
            if sum(len(one.pieces) for one in waiting) >= COMMIT_ROWS or time.monotonic() - committed > COMMIT_SECONDS:
                self._commit(waiting, tally)
                committed = time.monotonic()
                tally.seconds = time.perf_counter() - began
                report(tally)
        self._commit(waiting, tally)
        tally.seconds = time.perf_counter() - began
        report(tally)
        if tally.failed and not tally.done:
            raise DataError(f"none of the {tally.failed:,} files could be read; the first: {tally.failures[0]}")
        return tally

    # ------------------------------------------------------------------------------------------------------------------ reading

    def _read(self, inputs: Inputs, tally: BuildTally, workers: int | None) -> Iterator[_File | str]:
        """Yield the files that are new or changed, embedded, or why one cannot be."""
        reader = FileReader(inputs, self.model.visuals, self.manifest.segment_seconds)
        plans: list[_Plan] = []  # of the files that workers are at, in order
        numbers = CellNumbers(inputs.sources)

        def keys() -> Iterator[Key]:
            for plan in self._plans(inputs, tally):
                plans.append(plan)
                yield plan.key

        size = min(self.model.batch_size, _READ_FILES)
        count = choose_workers(inputs.total, size) if workers is None else workers
        with closing(decode(reader, keys(), size, count)) as batches:
            for batch in batches:
                here, plans[: len(batch)] = plans[: len(batch)], []
                read: list[tuple[_Plan, ReadFile]] = []
                for plan, one in zip(here, batch, strict=True):
                    assert isinstance(one, ReadFile)
                    if one.failure is not None:
                        yield one.failure
                    else:
                        read.append((plan, one))
                yield from self._embed_batch(reader, numbers, read)

    def _plans(self, inputs: Inputs, tally: BuildTally) -> Iterator[_Plan]:
        """List what is to be read: what the index does not have as it is now."""
        met: set[str] = set()
        for key in inputs.rows():
            number, row = key
            if row.failure is not None:
                yield _Plan(key, row.name, "", "")
                continue
            path, holder = inputs.sources[number].locate(row)
            name = self.root.name(path)
            if name != writable(name):
                failed = replace(row, failure=f"the name '{writable(name)}' is not UTF-8, so an index cannot keep it; rename the file")
                yield _Plan((number, failed), name, "", "")
                continue
            if name in met:
                tally.repeated += 1
                continue
            met.add(name)
            stamp = ":".join(map(str, state(holder)[1:]))
            note = hashlib.sha1(json.dumps(dict(row.fields), sort_keys=True, default=str).encode()).hexdigest()[:16] if row.fields else ""
            known = self._files.get(name)
            # A folder says nothing about a file but that it is there: what a table said of it stays.
            if known is not None and stamp and known[0] == stamp and note in ("", known[1]):
                tally.done += 1
                tally.resumed += 1
                continue
            yield _Plan(key, name, stamp, note)

    # ---------------------------------------------------------------------------------------------------------------- embedding

    def _embed_batch(self, reader: FileReader, numbers: CellNumbers, read: list[tuple[_Plan, ReadFile]]) -> Iterator[_File | str]:
        """Embed what the workers read of some files; of long videos the rest, too."""
        files = [_File(plan, numbers.convert(plan.key[0], one.fields or {})) for plan, one in read]
        pixels: list[Tensor] = []
        for file, (_, one) in zip(files, read, strict=True):
            assert one.pixels is not None
            file.pieces += one.pieces
            pixels += one.pixels.unbind(0)
        vectors, captions = self._embed(pixels, [file for file in files for _ in file.pieces])
        done = 0
        for file, (_, one) in zip(files, read, strict=True):
            file.vectors += vectors[done : done + len(one.pieces)]
            file.captions += captions[done : done + len(one.pieces)]
            done += len(one.pieces)
            try:
                self._embed_rest(reader, file, one.total)
            except DataError as error:
                yield str(error)
            else:
                yield file

    def _embed_rest(self, reader: FileReader, file: _File, total: int) -> None:
        """Embed the moments of a long video that its worker left to this process, a batch at a time."""
        if len(file.pieces) == total:
            return
        size = max(1, self.model.batch_size // self.model.video.frames)
        pixels: list[Tensor] = []
        for piece, one in reader.rest(file.plan.key, len(file.pieces)):
            file.pieces.append(piece)
            pixels.append(one)
            if len(pixels) == size or len(file.pieces) == total:
                vectors, captions = self._embed(pixels, [file] * len(pixels))
                file.vectors += vectors
                file.captions += captions
                pixels = []

    def _embed(self, pixels: list[Tensor], files: list[_File]) -> tuple[list[Any], list[str | None]]:
        """Return the vectors and captions of pictures and clips of these files."""
        clips = [one.ndim == 4 for one in pixels]
        vectors = embed_pixels(self.model, clips, pixels.__getitem__, self.model.batch_size)
        captions: list[str | None] = [writable(str(file.fields["caption"])) if file.fields.get("caption") else None for file in files]
        if self.manifest.captions:
            bare = [position for position, caption in enumerate(captions) if caption is None]
            written = self.model.results("caption", [(pixels[position], None) for position in bare])
            for position, one in zip(bare, written, strict=True):
                captions[position] = one.text
        return list(vectors), captions

    # ------------------------------------------------------------------------------------------------------------------ writing

    def _commit(self, files: list[_File], tally: BuildTally) -> None:
        """Write whole files and empty the list."""
        if not files:
            return
        metadata = [tidy(file.fields) for file in files]
        kinds = {name: kind_of(value) for values in reversed(metadata) for name, value in values.items()}
        new = {name: kind for name, kind in kinds.items() if name not in self._columns}
        if new:
            self.store.add_columns(new)
            self._columns |= new
        rows: list[dict[str, Any]] = []
        for file, values in zip(files, metadata, strict=True):
            own = {"path": file.plan.name, "stamp": file.plan.stamp, "note": file.plan.note}
            fitted = fit(values, self._columns, tally.misfits)
            for number, (piece, vector, caption) in enumerate(zip(file.pieces, file.vectors, file.captions, strict=True)):
                times = {"start_seconds": piece.start_seconds, "end_seconds": piece.end_seconds}
                kind = "picture" if piece.start_seconds is None else "video"
                content = {"kind": kind, **times, "caption": caption, "thumbnail": piece.thumbnail, "vector": vector}
                rows.append({"id": f"{file.plan.name}#{number}", **own, **content, **fitted})
        replaced = {file.plan.name for file in files if file.plan.name in self._files}
        self.store.write(rows, replaced)
        self._files.update((file.plan.name, (file.plan.stamp, file.plan.note)) for file in files)
        tally.done += len(files)
        tally.replaced += len(replaced)
        tally.rows_added += len(rows)
        files.clear()


def disk_bytes(folder: str) -> int:
    """Return the size of everything below a folder."""
    return sum(os.path.getsize(os.path.join(place, name)) for place, _, names in os.walk(folder) for name in names)
