"""Folders and tables of pictures in, a table of results out.

Inputs are read a few batches at a time, so memory does not grow with their number. The result file appears whole or not at all.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from openmplug.config import did_you_mean
from openmplug.data.images import PICTURE_SUFFIXES, FolderImages, ImageSource, open_images
from openmplug.data.readers.files import read_rows
from openmplug.errors import DataError, EnvironmentProblem, UsageError
from openmplug.inference.model import Model
from openmplug.inference.pictures import read_image

TABLE_SUFFIXES = frozenset({".jsonl", ".csv"})
VERBS = {"vqa": "question", "caption": None, "match": "text"}
"""Verb of ``predict`` -> the column it needs beside ``image``."""
RESULTS = {"vqa": ("answer", "score"), "caption": ("caption", "score"), "match": ("probability", "similarity")}
"""Verb of ``predict`` -> what it finds out."""


@dataclass(frozen=True, slots=True)
class Row:
    """One input: a picture that is not read yet, and its words.

    Args:
        name: The picture as the user named it.
        open: Reads the picture of that name; raises ``DataError``.
        text: The question or the text to match; empty for captions.
        fields: Other columns of its row, carried into the result.
    """

    name: str
    open: Callable[[str], Image.Image]
    text: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Count:
    """How many inputs were read and how many could not be."""

    done: int = 0
    failed: int = 0


class _Beside(ImageSource):
    """Pictures of a table: files beside it, or members of its archive (``dev_images.tar`` beside ``dev.jsonl``)."""

    def __init__(self, table: Path) -> None:
        self.folder = FolderImages(table.parent)
        self.source = open_images(table.parent, table.stem)
        self.description = self.source.description

    def names(self) -> list[str]:
        return self.source.names()

    def read(self, name: str) -> bytes:
        return self.folder.read(name) if name in self.folder else self.source.read(name)

    def __contains__(self, name: object) -> bool:
        return name in self.folder or name in self.source


def collect(inputs: Sequence[str], verb: str, text: str | None = None) -> list[Row]:
    """List the inputs of a command.

    Args:
        inputs: Picture files, folders of pictures (searched to the bottom, in order of name), JSONL or CSV tables. A table has a column
            ``image``, relative to the table's own folder, and the verb's column (``question`` or ``text``).
        verb: A key of ``VERBS``.
        text: The words for pictures that come without a table; a table's own column comes first.

    Raises:
        UsageError: If words are needed and none are given.
        DataError: If an input does not exist or is empty, or a row lacks a column.
    """
    rows: list[Row] = []
    for given in inputs:
        path = Path(given)
        if path.suffix.lower() in TABLE_SUFFIXES and path.is_file():
            rows += _table(path, VERBS[verb], text)
            continue
        if VERBS[verb] is not None and text is None:
            raise UsageError(f"'{given}' comes without words; give --{VERBS[verb]}, or a JSONL or CSV with columns image and {VERBS[verb]}")
        if path.is_dir():
            names = FolderImages(path).names()
            if not names:
                raise DataError(f"folder '{given}' holds no pictures (looked for {', '.join(sorted(PICTURE_SUFFIXES))})")
            rows += [Row(str(path / name), read_image, text or "") for name in names]
        elif path.suffix.lower() in TABLE_SUFFIXES:
            raise DataError(f"table '{given}' does not exist; check the path")
        else:
            # Whether the file is there and readable is found when it is read, under the policy the user chose.
            rows.append(Row(str(given), read_image, text or ""))
    return rows


def _table(path: Path, column: str | None, text: str | None) -> list[Row]:
    source = _Beside(path)
    needed = ["image"] if column is None or text is not None else ["image", column]
    rows = []
    for where, record in read_rows(path):
        found = list(record)
        name = record.pop("image", None)
        if not isinstance(name, str) or not name:
            raise _no_column(where, "image", found, needed)
        words = record.pop(column, text) if column else ""
        if not isinstance(words, str) or (column and not words.strip()):
            raise _no_column(where, str(column), found, needed)
        rows.append(Row(name, source.open, words, record))
    return rows


def _no_column(where: str, column: str, found: Sequence[str], needed: Sequence[str]) -> DataError:
    hint = did_you_mean(column, found)
    return DataError(f"{where}: no '{column}'; found columns {', '.join(found) or 'none'}, expected {', '.join(needed)}{hint}")


def predict(
    pipeline: Model, verb: str, rows: Sequence[Row], on_error: str = "error", count: Count | None = None
) -> Iterator[dict[str, Any]]:
    """Predict rows in order.

    Args:
        pipeline: A loaded model of the verb's task.
        verb: A key of ``VERBS``.
        rows: From ``collect``.
        on_error: ``error`` stops at the first picture that cannot be read; ``skip`` gives a row with ``error`` instead of a result.
        count: Filled in as rows are done.

    Yields:
        One flat mapping per row: ``image``, the words, and the result or ``error``; then the table's other columns, one that has the
        name of a result (the right ``answer``, say) as ``given_answer``.

    Raises:
        UsageError: If the model is not one for this verb, or ``on_error`` is unknown.
        DataError: For an unreadable picture under ``error``, or if none of the pictures could be read.
    """
    if on_error not in ("error", "skip"):
        raise UsageError(f"unknown on-error policy '{on_error}'; one of error, skip")
    count = count if count is not None else Count()
    # Several batches at a time, so that the pipeline can sort them by length.
    chunk = 8 * pipeline.batch_size
    first: str | None = None
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        images: list[Image.Image] = []
        reasons: dict[int, str] = {}
        for position, row in enumerate(part):
            try:
                images.append(row.open(row.name))
            except DataError as error:
                if on_error == "error":
                    raise DataError(f"{error} (to go on without it: --on-error skip)") from error
                reasons[position] = str(error)
        results = _results(pipeline, verb, images, [row.text for position, row in enumerate(part) if position not in reasons])
        for position, row in enumerate(part):
            failed = position in reasons
            outcome = {"error": reasons[position]} if failed else next(results)
            count.failed, count.done = count.failed + failed, count.done + (not failed)
            word = VERBS[verb]
            words = {} if word is None else {word: row.text}
            yield {"image": row.name, **words, **outcome, **_carried(verb, row)}
        first = first or next(iter(reasons.values()), None)
    if rows and not count.done:
        raise DataError(f"none of the {len(rows):,} pictures could be read; the first: {first}")


def _carried(verb: str, row: Row) -> dict[str, Any]:
    own = {"image", VERBS[verb], *RESULTS[verb], "error"}
    return {f"given_{name}" if name in own else name: value for name, value in row.fields.items()}


def columns(verb: str, rows: Sequence[Row]) -> list[str]:
    """Return every column the results of these rows can have, in order."""
    words = [VERBS[verb]] if VERBS[verb] else []
    carried = dict.fromkeys(name for row in rows for name in _carried(verb, row))
    return ["image", *(word for word in words if word), *RESULTS[verb], "error", *carried]


def _results(pipeline: Model, verb: str, images: list[Image.Image], texts: list[str]) -> Iterator[dict[str, Any]]:
    if not images:
        return
    found: Any
    if verb == "caption":
        found = pipeline.caption(images)
    else:
        found = pipeline.answer(images, texts) if verb == "vqa" else pipeline.match(images, texts)
    for one in found:
        # (text, score) or (probability, similarity), in the order of the columns.
        yield dict(zip(RESULTS[verb], astuple(one), strict=False))


@contextmanager
def _whole(path: Path) -> Iterator[TextIO]:
    """Open a file for writing that takes the place of ``path`` only when it is complete."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8", newline="") as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise EnvironmentProblem(f"cannot write '{path}': {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # what could not be written is often not there to be removed
            part.unlink(missing_ok=True)


def write_results(path: Path, records: Iterable[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Write records as JSONL or CSV, by the file's ending; whole or not at all.

    Args:
        path: Ends in ``.jsonl`` or ``.csv``.
        records: From ``predict``.
        names: Columns of a CSV, from ``columns``.

    Raises:
        UsageError: If the ending is another one.
        EnvironmentProblem: If the file cannot be written.
    """
    check_output(path)
    with _whole(path) as file:
        if path.suffix.lower() == ".csv":
            writer = csv.DictWriter(file, names, restval="")
            writer.writeheader()
            writer.writerows(records)
        else:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def check_output(path: Path) -> None:
    """Refuse a result file whose ending names no format.

    Raises:
        UsageError: If it ends in neither ``.jsonl`` nor ``.csv``.
    """
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise UsageError(f"cannot write results to '{path}': the name must end in .jsonl or .csv")
