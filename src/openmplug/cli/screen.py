"""What is printed and where: results on stdout, everything else on stderr.

With ``--json`` stdout holds one JSON document and nothing else, so that it can be piped.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import typer

Item = TypeVar("Item")


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


def progress(items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
    """Pass items through and show how far they are: a bar on a terminal, nothing elsewhere.

    Args:
        items: What is worked on.
        total: How many there are.
        label: What is being done.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, description=label, total=total, console=Console(stderr=True), transient=True)
