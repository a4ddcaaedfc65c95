"""Annotation files on disk to plain records: JSON, JSONL and CSV, with errors that name the file and the place."""

from __future__ import annotations

import contextlib
import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from openmplug.batch import Coordinates
from openmplug.errors import DataError


def read_text(path: Path, encoding: str = "utf-8-sig") -> str:
    """Read a whole text file.

    Raises:
        DataError: If it is not there, or not of that encoding.
    """
    try:
        return path.read_text(encoding=encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start:,}); convert it to UTF-8") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def read_json(path: Path, expected: type[list[Any]] | type[dict[str, Any]] | tuple[type, ...]) -> Any:
    """Read a JSON file whose top level is a list or an object, or either.

    Raises:
        DataError: If it is not JSON, or the top level is of another kind.
    """
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} line {error.lineno}: not valid JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(value, expected):
        kinds = expected if isinstance(expected, tuple) else (expected,)
        wanted = " or ".join("a list" if kind is list else "an object" for kind in kinds)
        raise DataError(f"{path}: expected {wanted} at the top level, got {type(value).__name__}")
    return value


def read_records(path: Path, key: str | None = None) -> list[tuple[str, dict[str, Any]]]:
    """Read the records of a JSON file: a list of objects, at the top level or under ``key``.

    Returns:
        Pairs of where the record is ("FILE record 3", from 1) and the record.

    Raises:
        DataError: If the file is not of that form or holds no record.
    """
    value = read_json(path, list if key is None else dict)
    if key is not None:
        value = need(value, key, str(path))
    if not isinstance(value, list) or not value:
        raise DataError(f"{path}{f' {key!r}' if key else ''}: expected a list of records, got {_shape(value)}")
    records = [(f"{path} record {number}", record) for number, record in enumerate(value, start=1)]
    for where, record in records:
        if not isinstance(record, dict):
            raise DataError(f"{where}: expected an object, got {_shape(record)}")
    return records


def read_rows(path: Path, delimiter: str = ",") -> Iterator[tuple[str, dict[str, Any]]]:
    """Read a JSONL or CSV file row by row.

    Args:
        path: With suffix ``.csv``, else JSONL.
        delimiter: Between the cells of a CSV file; where it is a tab, quotes mean nothing.

    Yields:
        Pairs of where the row is ("FILE line 3") and its columns. Empty CSV cells are left out.

    Raises:
        DataError: If a line is not valid, or there is no row at all.
    """
    rows = _csv_rows(path, delimiter) if path.suffix == ".csv" else _jsonl_rows(path)
    empty = True
    for where, row in rows:
        empty = False
        yield where, row
    if empty:
        raise DataError(
            f"{path} has no records; expected one {'row' if path.suffix == '.csv' else 'JSON object per line'} for each picture or question"
        )


def _lines(path: Path) -> Iterator[str]:
    """Read a text file line by line; a table of millions of rows need not fit into memory."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from file
    except (UnicodeDecodeError, OSError) as error:
        read_text(path)  # says where in the file it is
        raise DataError(f"{path} cannot be read: {error}") from None


def _jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            row = json.loads(line.rstrip("\n"))
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: not valid JSON ({error.msg} at column {error.colno})") from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected a JSON object, got {_shape(row)}")
        yield where, row


def read_table(path: Path, delimiter: str, comment: str | None = None) -> Iterator[tuple[str, list[str]]]:
    r"""Read a text file without header line by line, empty lines left out.

    Args:
        path: UTF-8.
        delimiter: Between cells; a line break gives each line as one cell, a space any white space.
        comment: Lines that begin so are left out.

    Yields:
        Pairs of where the line is ("FILE line 3") and its cells.

    Raises:
        DataError: If it cannot be read or has no line.
    """
    empty = True
    for number, line in enumerate(_lines(path), start=1):
        line = line.rstrip("\r\n")
        if line.strip() and not (comment and line.startswith(comment)):
            empty = False
            yield f"{path} line {number}", line.split() if delimiter == " " else line.split(delimiter)
    if empty:
        raise DataError(f"{path} has no lines; expected one for each record")


def _csv_rows(path: Path, delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(1 << 24)
    reader = csv.DictReader(
        _lines(path), strict=True, delimiter=delimiter, quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    )
    try:
        for row in reader:
            where = f"{path} line {reader.line_num}"
            if None in row:
                raise DataError(
                    f"{where}: {len(row) - 1 + len(row[None])} cells, expected {len(row) - 1} as in the header; quote commas in texts"
                )
            yield where, {column: cell for column, cell in row.items() if cell not in (None, "")}
    except csv.Error as error:
        raise DataError(f"{path} line {reader.reader.line_num}: not valid CSV ({error})") from None


def need(record: Mapping[str, Any], field: str, where: str) -> Any:
    """Return a record's field.

    Raises:
        DataError: If it is missing; the message lists the fields found.
    """
    value = record.get(field)
    if value is None:
        raise DataError(f"{where}: no '{field}'; found {_names(record)}")
    return value


def read_box(value: Any, where: str, field: str, sized: bool = False) -> Coordinates:
    """Return a box as left, top, right, bottom.

    Args:
        value: A list of four numbers; text holds it as JSON.
        where: The record, for errors.
        field: Its name there.
        sized: The last two numbers are width and height.

    Raises:
        DataError: If it is none, or nothing is inside it.
    """
    given = value
    if isinstance(value, str):
        with contextlib.suppress(json.JSONDecodeError):
            given = json.loads(value)
    order = "[left, top, width, height]" if sized else "[left, top, right, bottom]"
    numbers = list(given) if isinstance(given, list | tuple) else []
    if len(numbers) != 4 or not all(isinstance(each, int | float) and math.isfinite(each) for each in numbers):
        raise DataError(f"{where}: '{field}' is {value!r:.60}, expected {order} in pixels")
    left, top, right, bottom = (float(each) for each in numbers)
    if sized:
        right, bottom = left + right, top + bottom
    if right <= left or bottom <= top:
        raise DataError(f"{where}: '{field}' is {value!r:.60}, a box without area; expected {order} in pixels")
    return left, top, right, bottom


def _names(record: Mapping[str, Any]) -> str:
    return ", ".join(sorted(record)) or "no columns"


def _shape(value: Any) -> str:
    if isinstance(value, list | dict):
        return "an empty list" if value == [] else f"{type(value).__name__} of {len(value)}"
    return f"{type(value).__name__} {value!r:.40}"


def find_file(root: Path, names: Sequence[str], what: str) -> Path:
    """Return the first of ``names`` that is a file below ``root``.

    Raises:
        DataError: If ``root`` is no folder or none is there; the message lists what was looked for and what lies there.
    """
    if not root.is_dir():
        raise DataError(f"data folder {root} does not exist; set data.root to the folder that holds the data set")
    for name in names:
        if (root / name).is_file():
            return root / name
    present = _some(path.name for path in sorted(root.iterdir()) if path.suffix in (".jsonl", ".csv", ".json", ".txt", ".p", ".pth"))
    raise DataError(f"{what} not found in {root}: expected {' or '.join(names)}; found {present or 'no .jsonl, .csv, .json or .txt file'}")


def _some(names: Iterable[str], most: int = 6) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
