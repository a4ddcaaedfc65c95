"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def cell(text: object) -> str:
    """Return a value as the text of a cell: one line, with no bar that would end it."""
    return "" if text is None else " ".join(str(text).split()).replace("|", "\\|")


def code(text: object) -> str:
    """Return a value as code in a cell; nothing for nothing."""
    words = cell(text)
    return f"`{words}`" if words else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; the cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
