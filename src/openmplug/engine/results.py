"""Kept results: one small JSON file each, from which the results page and the numbers in ``openmplug recipes list`` are made.

A folder of them holds measured scores (``Measured``), tables of anything else (``Tabled``) and the words of each section in Markdown;
``openmplug.engine.results_page`` puts them together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from openmplug.checkpoints.atomic import write_atomic
from openmplug.config import Settings, validate
from openmplug.data.readers.files import read_json
from openmplug.engine.catalog import recipes_root
from openmplug.errors import DataError, UsageError

SHIPPED = "results.json"
Cell = str | int | float | None


class Control(Settings):
    """What the same score is where it should be lower.

    Args:
        name: How it was made, such as "pictures shuffled".
        value: The score, in the result's metric.
        also: More of its scores by name.
    """

    name: str
    value: float
    also: dict[str, float] = Field(default_factory=dict)


class Part(Settings):
    """The score of some of the records, such as the questions of one kind.

    Args:
        name: Which ones.
        value: The score, in the result's metric.
        controls: Of the same records.
    """

    name: str
    value: float
    controls: list[Control] = Field(default_factory=list)


class Measured(Settings):
    """One score of one recipe: what ``openmplug results add`` writes.

    Args:
        section: Of the page: the name of its Markdown file without number and suffix.
        order: Place among the results of a section; equal ones are sorted by file.
        recipe: Its name.
        split: What was measured on.
        count: How many records.
        unit: What a record is.
        metric: Name and unit of the score.
        value: The score.
        also: More scores by name.
        remark: A few words behind the score.
        controls: What the score is where it should be lower.
        parts: The score by kind of record.
        trained: How long, in words, where that is not the recipe's own length.
        minutes: Of training, wall time.
        commands: What was typed, train and evaluate, with DIR for the data.
        model_hash: sha256 of the weights, whole or its beginning.
        date: Of the evaluation, ISO.
        commit: Of this repository.
        hardware: In words.
        threads: Of the CPU.
        precision: Of the evaluation.
    """

    section: str
    order: int = 0
    recipe: str
    split: str
    count: int = Field(ge=1)
    unit: str = "records"
    metric: str
    value: float
    also: dict[str, float] = Field(default_factory=dict)
    remark: str = ""
    controls: list[Control] = Field(default_factory=list)
    parts: list[Part] = Field(default_factory=list)
    trained: str = ""
    minutes: float | None = None
    commands: list[str] = Field(default_factory=list)
    model_hash: str = ""
    date: str = ""
    commit: str = ""
    hardware: str = ""
    threads: int | None = None
    precision: str = ""


class Tabled(Settings):
    """A table of measurements that are no scores of recipes: times, memory, comparisons.

    Args:
        columns: Heads.
        rows: As many cells each; numbers are written as they are, whole ones with commas.
        commands: What was typed.
    """

    columns: list[str] = Field(min_length=1)
    rows: list[list[Cell]]
    commands: list[str] = Field(default_factory=list)


def read_results(folder: Path) -> tuple[dict[str, Measured], dict[str, Tabled]]:
    """Read every JSON file of a folder.

    Returns:
        Scores and tables, by the files' names without suffix.

    Raises:
        DataError: If there is no such folder, or a file is neither of both; the message names it.
    """
    if not folder.is_dir():
        raise DataError(f"folder of results {folder} does not exist; give one that holds results as JSON and sections as Markdown")
    measured: dict[str, Measured] = {}
    tabled: dict[str, Tabled] = {}
    for path in sorted(folder.glob("*.json")):
        tree = read_json(path, dict)
        try:
            if "columns" in tree:
                tabled[path.stem] = table = validate(Tabled, tree, where="")
                if wrong := next((number for number, row in enumerate(table.rows, 1) if len(row) != len(table.columns)), None):
                    raise UsageError(f"row {wrong} has another number of cells than there are columns")
            else:
                measured[path.stem] = validate(Measured, tree, where="")
        except UsageError as error:
            raise DataError(f"{path}: {error}") from error
    return measured, tabled


def write_measured(path: Path, result: Measured) -> None:
    """Write a result, its empty fields left out.

    Raises:
        EnvironmentProblem: If it cannot be written.
    """
    tree = {name: value for name, value in result.model_dump(mode="json", exclude_defaults=True).items()}
    write_atomic(path, json.dumps(tree, indent=1, ensure_ascii=False) + "\n")


# ------------------------------------------------------------------------------------------------- the shipped summary


def summary(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return the newest result of each recipe in short, by recipe: what ships with the package."""
    newest: dict[str, Measured] = {}
    for result in measured:
        if result.recipe not in newest or result.date > newest[result.recipe].date:
            newest[result.recipe] = result
    fields = ("recipe", "metric", "value", "split", "count", "date", "commit", "model_hash", "hardware")
    return [{field: getattr(result, field) for field in fields} for _, result in sorted(newest.items())]


def summary_text(measured: Sequence[Measured]) -> str:
    """Return the content of the shipped file: one line a result."""
    lines = [json.dumps(row, ensure_ascii=False) for row in summary(measured)]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def shipped_results() -> dict[str, dict[str, Any]]:
    """Return what was measured with each shipped recipe, by its name."""
    path = recipes_root() / SHIPPED
    return {row["recipe"]: row for row in json.loads(path.read_text(encoding="utf-8"))} if path.is_file() else {}
