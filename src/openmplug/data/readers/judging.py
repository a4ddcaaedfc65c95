"""Questions and answers of the text-to-image benchmarks DSG-1k and DPG-Bench: one row a question, in CSV (or JSONL)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openmplug.config import did_you_mean
from openmplug.data.readers.files import read_rows
from openmplug.errors import DataError

_QUESTION_COLUMNS = ("item_id", "proposition_id", "dependency", "tuple", "question_natural_language")
_ANSWER_COLUMNS = ("item_id", "proposition_id", "answer")


@dataclass(frozen=True, slots=True)
class Proposition:
    """One question about a prompt's picture.

    Args:
        number: Of the proposition within its item.
        question: As it is asked.
        tuple_text: What it is about, such as ``entity - whole (rocks)``.
        parents: Propositions it depends on, 0 = none.
    """

    number: int
    question: str
    tuple_text: str
    parents: tuple[int, ...]


@dataclass(slots=True)
class Questions:
    """A benchmark's questions.

    Args:
        items: Propositions of each item, in the file's order.
        first: Item and proposition of the file's first row.
        unusable: Items with a dependency that is not a number (shifted columns), with the reason. Their propositions have no parents.
        absent: Items with a dependency on a proposition that they do not have, with the reason.
    """

    items: dict[str, dict[int, Proposition]] = field(default_factory=dict)
    first: tuple[str, int] = ("", 0)
    unusable: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Count the questions."""
        return sum(len(item) for item in self.items.values())


def read_questions(path: Path) -> Questions:
    """Read the questions of DSG-1k (``dsg-1k-anns.csv``) or DPG-Bench (``dpg_bench.csv``).

    Raises:
        DataError: If the file cannot be read, a row lacks a column, a proposition's id is no number or stands there twice.
    """
    questions = Questions()
    for where, row in read_rows(path):
        item_id, number = _text(row, "item_id", where, _QUESTION_COLUMNS), _number(row, "proposition_id", where, _QUESTION_COLUMNS)
        item = questions.items.setdefault(item_id, {})
        if number in item:
            raise DataError(f"{where}: proposition {number} of item '{item_id}' stands there twice; remove one row")
        parents, reason = _parents(row)
        if reason:
            questions.unusable.setdefault(item_id, f"{where}: {reason}")
        question, about = (_text(row, column, where, _QUESTION_COLUMNS) for column in ("question_natural_language", "tuple"))
        item[number] = Proposition(number, question, about, parents)
        if not questions.first[0]:
            questions.first = (item_id, number)
    _settle_dependencies(questions)
    return questions


def _parents(row: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    given = str(row.get("dependency", ""))
    try:
        return tuple(int(part) for part in given.split(",")), ""
    except ValueError:
        return (), f"dependency {given!r} is not a list of numbers"


def _settle_dependencies(questions: Questions) -> None:
    for item_id, item in questions.items.items():
        if item_id in questions.unusable:
            questions.items[item_id] = {number: Proposition(number, each.question, each.tuple_text, (0,)) for number, each in item.items()}
            continue
        for each in item.values():
            for parent in each.parents:
                if parent and parent not in item:
                    reason = f"proposition {each.number} depends on {parent}, which the item does not have"
                    questions.absent.setdefault(item_id, reason)


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """An answer that a judge gave earlier.

    Args:
        where: Its place, for messages.
        model: The text-to-image model whose picture it is about; empty where the file has one model only.
        item_id: Of the question.
        tile: Of a grid, from 1.
        number: Of the proposition.
        answer: The judge's words.
        error: Why there is no answer; empty if there is one.
    """

    where: str
    model: str
    item_id: str
    tile: int
    number: int
    answer: str
    error: str = ""


def read_answers(path: Path) -> list[GivenAnswer]:
    """Read a judge's answers: columns ``item_id``, ``question_id`` or ``proposition_id``, ``answer``; optional ``t2i_model``, ``tile``.

    Both the answers that the authors of DSG released and ``answers.jsonl`` of an earlier run have this form.

    Raises:
        DataError: If the file cannot be read or has no such columns.
    """
    answers = []
    answered = False
    found: dict[str, None] = {}
    for where, row in read_rows(path):
        found |= dict.fromkeys(row)
        answered = answered or "answer" in row or "error" in row
        id_column = "question_id" if "question_id" in row else "proposition_id"
        answers.append(
            GivenAnswer(
                where,
                str(row.get("t2i_model", "")),
                _text(row, "item_id", where, _ANSWER_COLUMNS),
                _number(row, "tile", where, _ANSWER_COLUMNS) if "tile" in row else 1,
                _number(row, id_column, where, _ANSWER_COLUMNS),
                str(row.get("answer", "")),  # an empty cell of a CSV is left out of its row: the judge said nothing
                str(row.get("error", "")),
            )
        )
    if not answered:
        raise missing_column(str(path), "answer", list(found), _ANSWER_COLUMNS)
    return answers


def check_answers(answers: Sequence[GivenAnswer], questions: Questions) -> None:
    """Refuse answers that do not belong to the questions.

    Raises:
        DataError: If an answer is to an unknown item or proposition, or a question is answered twice.
    """
    seen: dict[tuple[str, str, int, int], str] = {}
    for each in answers:
        item = questions.items.get(each.item_id)
        if item is None:
            hint = did_you_mean(each.item_id, questions.items)
            raise DataError(f"{each.where}: answer to unknown item '{each.item_id}'{hint}; answers and questions must belong together")
        if each.number not in item:
            known = ", ".join(map(str, item))
            raise DataError(
                f"{each.where}: answer to unknown proposition {each.number} of item '{each.item_id}', which has {known};"
                " answers and questions must belong together"
            )
        key = (each.model, each.item_id, each.tile, each.number)
        if key in seen:
            raise DataError(f"{each.where}: proposition {each.number} of item '{each.item_id}' is answered twice, first at {seen[key]}")
        seen[key] = each.where


def missing_column(where: str, column: str, found: Sequence[str], expected: Sequence[str]) -> DataError:
    """Return the error for a row without a column."""
    hint = did_you_mean(column, found)
    return DataError(f"{where}: no '{column}'; found columns {', '.join(found) or 'none'}, expected {', '.join(expected)}{hint}")


def _text(row: Mapping[str, Any], column: str, where: str, expected: Sequence[str]) -> str:
    if column not in row:
        raise missing_column(where, column, list(row), expected)
    return str(row[column])


def _number(row: Mapping[str, Any], column: str, where: str, expected: Sequence[str]) -> int:
    text = _text(row, column, where, expected)
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{where}: '{column}' is {text!r}; expected a whole number") from None
