"""The other columns of an input's rows, as typed columns of the index, so that searches can be filtered by them.

A column is ``number`` (64-bit float), ``text`` or ``boolean``, as its values were when it was first met; lists and objects are kept as
JSON text. A later value of another kind is written as text into a text column; elsewhere it is left empty, counted and told.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from openmplug.inference.bulk.sources import Source, Table

OWN = (
    "id", "path", "stamp", "note", "kind", "start_seconds", "end_seconds", "caption", "thumbnail", "vector",
    "similarity", "score", "image", "video",
)  # fmt: skip
"""Names that are the index's own; a column of an input that has one of them is kept as ``given_NAME``."""


def column_name(name: str) -> str:
    """Return the name of a column in the index: dots would mean a field of a field there."""
    name = writable(name).strip().replace(".", "_").replace("`", "_") or "unnamed"
    return f"given_{name}" if name.lower() in OWN or name.startswith("_") else name


def tidy(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's metadata under the index's names: no caption, no empty values, lists and objects as JSON."""
    found = {column_name(name): _plain(value) for name, value in fields.items() if name != "caption"}
    return {name: value for name, value in found.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**53:
        return str(value)  # a number this long is a name, and a float would round it
    if isinstance(value, list | dict):
        value = json.dumps(value, ensure_ascii=False)
    return writable(value) if isinstance(value, str) else value


def writable(text: str) -> str:
    """Return a text without what UTF-8 cannot hold: halves of characters, which file names and JSON may contain."""
    return text.encode("utf-8", "replace").decode()


def kind_of(value: Any) -> str:
    """Return ``boolean``, ``number`` or ``text``."""
    return "boolean" if isinstance(value, bool) else "number" if isinstance(value, int | float) else "text"


class CellNumbers:
    """CSV cells as numbers, where all cells of a column are: a table says nothing about kinds.

    Args:
        sources: Each CSV table among them is read once.
    """

    def __init__(self, sources: Iterable[Source]) -> None:
        self._columns: dict[int, set[str]] = {}
        for place, source in enumerate(sources):
            if isinstance(source, Table) and source.path.suffix.lower() == ".csv":
                self._columns[place] = _number_columns(row.fields for row in source.rows())

    def convert(self, place: int, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns of a row of source number ``place``, cells of number columns as floats."""
        columns = self._columns.get(place, ())
        return {name: float(value) if name in columns else value for name, value in fields.items()}


def _number_columns(rows: Iterator[Mapping[str, Any]]) -> set[str]:
    kept: dict[str, bool] = {}
    for row in rows:
        for name, value in row.items():
            kept[name] = kept.get(name, True) and _is_number(value)
    return {name for name, numbers in kept.items() if numbers}


def _is_number(cell: Any) -> bool:
    """Say whether a cell is a number; ``007`` and ``nan`` are names."""
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return False
    digits = str(cell).strip().lstrip("+-")
    return math.isfinite(value) and "_" not in digits and not (len(digits) > 1 and digits[0] == "0" and digits[1].isdigit())


def fit(values: Mapping[str, Any], kinds: Mapping[str, str], misfits: Counter[str]) -> dict[str, Any]:
    """Bring a row's values to the kinds of their columns.

    Args:
        values: From ``tidy``.
        kinds: Of every column.
        misfits: Counts, by column, what had to be left empty.
    """
    found = {}
    for name, value in values.items():
        if kind_of(value) == kinds[name]:
            found[name] = float(value) if kinds[name] == "number" else value
        elif kinds[name] == "text":
            found[name] = str(value)
        else:
            misfits[name] += 1
    return found
