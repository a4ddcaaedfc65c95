"""What is printed and where: results on stdout, everything else on stderr.

With ``--json`` stdout holds one JSON document and nothing else, so that it can be piped.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import typer


def error(message: str) -> None:
    """Print one ``error: ...`` line on stderr, line breaks taken out of the message."""
    typer.echo(f"error: {' '.join(str(message).split())}", err=True)


def note(message: str) -> None:
    """Print a line for a person on stderr."""
    typer.echo(message, err=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"cannot write a {type(value).__name__} as JSON")


def _finite(value: Any) -> Any:
    # JSON has no NaN; a reader in another language would stop at it.
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def document(value: Any) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(_finite(value), indent=2, ensure_ascii=False, default=_plain) + "\n")


def number(value: Any) -> str:
    """Return a value as a table shows it: four significant digits for a float.

    Example:
        >>> number(0.123456), number(12), number(None)
        ('0.1235', '12', '-')
    """
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def width() -> int:
    """Return how many columns stdout has; 80 where it is no terminal and COLUMNS does not say."""
    from rich.console import Console

    return Console().width


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[str] = ()) -> None:
    """Print a table on stdout; words wrap and no column is cut.

    Args:
        title: Shown above the table.
        columns: Names of the columns.
        rows: Cells; floats are shortened.
        right: Names of the columns aligned to the right.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for position, column in enumerate(columns):
        # The first column names the row and is what people copy: it is never broken.
        shown.add_column(column, justify="right" if column in right else "left", overflow="fold", no_wrap=position == 0)
    for row in rows:
        shown.add_row(*(number(cell) for cell in row))
    # The console is made here, not at import, so that a redirected stdout is seen.
    Console(highlight=False, markup=False).print(shown)


def rate(items_per_second: float) -> str:
    """Return a speed with three significant digits.

    Example:
        >>> rate(1234.5), rate(35.21), rate(0.512)
        ('1,234 items/s', '35.2 items/s', '0.51 items/s')
    """
    digits = 0 if items_per_second >= 100 else 1 if items_per_second >= 10 else 2
    return f"{items_per_second:,.{digits}f} items/s"


class Meter:
    """How far a long run is, on stderr: a bar on a terminal, a plain line twice a minute elsewhere.

    Args:
        label: What is being done.
        total: How many items there are; None if unknown.
    """

    _EVERY_SECONDS = 30.0

    def __init__(self, label: str, total: int | None) -> None:
        self._label = label
        self._total = total
        self._bar: Any = None
        self._first = True
        self._said = time.monotonic()

    def __enter__(self) -> Meter:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = [TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[state]}"), TimeRemainingColumn()]
            self._bar = Progress(*columns, console=Console(stderr=True, highlight=False), transient=True)
            self._bar.add_task(self._label, total=self._total, state="")
            self._bar.start()
        return self

    def say(self, message: str) -> None:
        """Print a line; a bar stays below it."""
        if self._bar is not None:
            self._bar.console.print(message, markup=False)
        else:
            note(message)

    def show(self, done: int, items_per_second: float, remark: str = "") -> None:
        """Say how many items are done, and how fast it goes."""
        of = f"{done:,}" if self._total is None else f"{done:,}/{self._total:,}"
        state = ", ".join(part for part in (of, rate(items_per_second) if items_per_second else "", remark) if part)
        if self._bar is not None:
            if self._first:  # what was done before this run says nothing about the time that is left
                self._bar.reset(self._bar.task_ids[0], completed=done)
            self._bar.update(self._bar.task_ids[0], completed=done, state=state)
            self._first = False
        elif time.monotonic() - self._said >= self._EVERY_SECONDS:
            self._said = time.monotonic()
            note(f"{self._label} {state}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
