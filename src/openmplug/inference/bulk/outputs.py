"""The table of results: JSONL, CSV or parquet, by the ending of its name; whole or not at all.

Rows are streamed from the journal, twice where the columns must be known first, so memory does not grow with their number.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from openmplug.errors import EnvironmentProblem, UsageError, write_problem

Rows = Callable[[], Iterator[dict[str, Any]]]
"""Yields the finished rows, as often as it is called."""

_ROW_GROUP = 20_000


def check_output(path: Path) -> None:
    """Refuse a result file that cannot be written, as far as its name tells.

    Raises:
        UsageError: If the ending names no format.
        EnvironmentProblem: If the format needs a package that is not installed.
    """
    if path.suffix.lower() not in _WRITERS:
        raise UsageError(f"cannot write results to '{path}': the name must end in .jsonl, .csv or .parquet")
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            message = (
                "writing parquet files needs pyarrow, which is not installed: pip install 'openmplug[parquet]'; or name a .jsonl or .csv"
            )
            raise EnvironmentProblem(message) from None


def write_table(path: Path, rows: Rows, columns: Sequence[str]) -> None:
    """Write all rows to one file, which appears when it is complete.

    Args:
        path: Ends in ``.jsonl``, ``.csv`` or ``.parquet``.
        rows: Calls back for the rows.
        columns: Of every row, in order; the columns that rows have besides follow.

    Raises:
        UsageError: If the ending is another one.
        EnvironmentProblem: If the file cannot be written; what was there before stays.
    """
    check_output(path)
    with _whole(path) as part:
        _WRITERS[path.suffix.lower()](part, rows, columns)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Give a file name beside ``path``; when the block ends well that file takes its place."""
    part = path.with_name(f".{path.name}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise write_problem(error, path) from error
    finally:
        with suppress(OSError):  # what could not be written is often not there to be removed
            part.unlink(missing_ok=True)


def _write_jsonl(path: Path, rows: Rows, columns: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows())


def _write_csv(path: Path, rows: Rows, columns: Sequence[str]) -> None:
    names = list(dict.fromkeys([*columns, *(name for row in rows() for name in row)]))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        for row in rows():
            writer.writerow({name: _text(value) if isinstance(value, list | dict) else value for name, value in row.items()})


def _write_parquet(path: Path, rows: Rows, columns: Sequence[str]) -> None:
    import pyarrow
    import pyarrow.parquet

    kinds = _kinds(rows(), columns)
    types = {"text": pyarrow.string(), "integer": pyarrow.int64(), "number": pyarrow.float64(), "boolean": pyarrow.bool_()}
    types["vector"] = pyarrow.list_(pyarrow.float32())
    schema = pyarrow.schema([(name, types.get(kind, pyarrow.string())) for name, kind in kinds.items()])
    mixed = {name for name, kind in kinds.items() if kind == "mixed"}
    found = rows()
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while group := list(islice(found, _ROW_GROUP)):
            for row in group:
                row.update({name: _text(row[name]) for name in mixed & row.keys() if row[name] is not None})
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))


def _kinds(rows: Iterator[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, str]:
    """Find the kind of value each column holds; lists, objects and mixtures are written as JSON text."""
    kinds = dict.fromkeys(columns, "")
    for row in rows:
        for name, value in row.items():
            # A list of the verb's own is a vector; those of an input may hold anything from row to row.
            before, kind = kinds.get(name, ""), "vector" if name in columns and _is_vector(value) else _kind(value)
            if before in ("", kind) or not kind:
                kinds[name] = kind or before
            else:
                kinds[name] = "number" if {before, kind} == {"integer", "number"} else "mixed"
    return kinds


def _kind(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer" if -(2**63) <= value < 2**63 else "mixed"
    return "number" if isinstance(value, float) else "text" if isinstance(value, str) else "mixed"


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, float) for one in value)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


_WRITERS = {".jsonl": _write_jsonl, ".csv": _write_csv, ".parquet": _write_parquet}
