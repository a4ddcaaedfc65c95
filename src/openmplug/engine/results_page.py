"""The results page: Markdown made of a folder's sections and result files, so that no number in it is typed twice.

A section is a file such as ``20_words_alone.md``; sections stand in the order of their names. Its lines are taken as they are, but for:

- ``<!-- results recipe, ours, control as majority -->``: a table of the results whose ``section`` is this one, in these columns, each
  with a head of its own if wanted; see ``COLUMNS``.
- ``<!-- table NAME -->``: the table in ``NAME.json``.
- ``<!-- commands -->`` and ``<!-- commands NAME -->``: the commands of the section's results, or of a table, as a block.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from openmplug.config import did_you_mean
from openmplug.engine.results import Cell, Control, Measured, Part, Tabled, read_results
from openmplug.errors import DataError

_DIRECTIVE = re.compile(r"<!-- (results|table|commands)\b ?(.*?) ?-->")
_FIRST_LINE = "<!-- Made by `openmplug results page` from the files in {folder}/. To change it, edit those. -->"


def render(folder: Path) -> str:
    """Put the page of a folder together.

    Raises:
        DataError: If a file is not in its form, a section asks for what is not there, or a result or table is in no section.
    """
    measured, tabled = read_results(folder)
    by_section: dict[str, list[Measured]] = {}
    for _, result in sorted(measured.items(), key=lambda pair: (pair[1].order, pair[0])):
        by_section.setdefault(result.section, []).append(result)
    unused = set(tabled)
    text, shown = [_FIRST_LINE.format(folder=folder.name)], set()
    for path in section_files(folder):
        name = section_name(path)
        lines = []
        for number, line in enumerate(path.read_text(encoding="utf-8").strip().splitlines(), start=1):
            directive = _DIRECTIVE.fullmatch(line.strip())
            if directive is None:
                lines.append(line)
                continue
            kind, words, where = directive[1], directive[2], f"{path} line {number}"
            if kind == "results":
                lines += _results(by_section.get(name, []), words, where)
                shown.add(name)
            elif kind == "table":
                lines += _table(_find(tabled, words, where))
                unused.discard(words)
            else:
                found = [_find(tabled, words, where)] if words else by_section.get(name, [])
                lines += ["```bash", *dict.fromkeys(command for one in found for command in one.commands), "```"]
        text.append("\n".join(lines))
    lost = [f"{stem}.json" for stem, result in measured.items() if result.section not in shown] + [
        f"{stem}.json" for stem in sorted(unused)
    ]
    if lost:
        raise DataError(
            f"{', '.join(lost)} in {folder}: in no section of the page; the sections with results are {', '.join(sorted(shown))}"
        )
    return "\n\n".join(text) + "\n"


def section_files(folder: Path) -> list[Path]:
    """Return the sections' files in order."""
    return sorted(folder.glob("*.md"))


def section_name(path: Path) -> str:
    """Return a section's name: its file's without number and suffix.

    Example:
        >>> section_name(Path("results/20_words_alone.md"))
        'words_alone'
    """
    return re.sub(r"^\d+_", "", path.stem)


def _find(tabled: dict[str, Tabled], name: str, where: str) -> Tabled:
    if name not in tabled:
        raise DataError(f"{where}: no table '{name}'{did_you_mean(name, tabled)}; tables are {', '.join(sorted(tabled))}")
    return tabled[name]


# ---------------------------------------------------------------------------------------------------------------- tables


def _lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_line(heads), "|" + "---|" * len(heads), *(_line(row) for row in rows)]


def _line(cells: Sequence[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def _table(table: Tabled) -> list[str]:
    return _lines(table.columns, [[_cell(cell) for cell in row] for row in table.rows])


def _cell(cell: Cell) -> str:
    if cell is None:
        return ""
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _score(value: float) -> str:
    return f"{value:.4g}"


def _with(value: float, also: dict[str, float], remark: str = "") -> str:
    more = [f"{name} {_score(other)}" for name, other in also.items()] + ([remark] if remark else [])
    return _score(value) + (f" ({', '.join(more)})" if more else "")


def _controls(controls: Sequence[Control], head: str) -> str:
    # A column that is called what the control is need not say it again.
    return "; ".join(_with(one.value, one.also) + ("" if one.name == head else f", {one.name}") for one in controls)


COLUMNS: dict[str, Callable[[Measured, str], str]] = {
    "recipe": lambda one, head: f"`{one.recipe}`" + (f", {one.trained}" if one.trained else ""),
    "split": lambda one, head: f"{one.split}, {one.count:,} {one.unit}",
    "metric": lambda one, head: one.metric,
    "ours": lambda one, head: _with(one.value, one.also, one.remark),
    "control": lambda one, head: _controls(one.controls, head),
    "minutes": lambda one, head: "" if one.minutes is None else f"{one.minutes:.4g}",
    "weights": lambda one, head: one.model_hash[:8],
    "commit": lambda one, head: one.commit,
    "date": lambda one, head: one.date[:10],
    "hardware": lambda one, head: one.hardware,
    "threads": lambda one, head: "" if one.threads is None else str(one.threads),
}
"""Columns of a table of results: what each shows of one, under its head."""


def _results(results: Sequence[Measured], words: str, where: str) -> list[str]:
    columns = [word.strip().partition(" as ") for word in words.split(",")]
    unknown = next((name for name, _, _ in columns if name not in COLUMNS), None)
    if unknown is not None:
        raise DataError(f"{where}: unknown column '{unknown}'{did_you_mean(unknown, COLUMNS)}; columns are {', '.join(COLUMNS)}")
    heads = [head or name for name, _, head in columns]
    rows = []
    for one in results:
        rows.append([COLUMNS[name](one, head) for (name, _, _), head in zip(columns, heads, strict=True)])
        for number, part in enumerate(one.parts):
            said = part.name if number else f"of these, {part.name}"
            cells = {"recipe": said, "ours": _score(part.value), "control": _part_controls(part, one)}
            rows.append([cells.get(name, "") for name, _, _ in columns])
    return _lines(heads, rows)


def _part_controls(part: Part, whole: Measured) -> str:
    names = [one.name for one in part.controls]
    # In the order of the row above, they need not be named again.
    same = names == [one.name for one in whole.controls]
    return "; ".join(_score(one.value) for one in part.controls) if same else _controls(part.controls, "")
