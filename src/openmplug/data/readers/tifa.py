"""TIFA v1.0: its questions, its list of pictures, and the result file its scorer writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmplug.config import did_you_mean
from openmplug.data.images import FolderImages
from openmplug.data.readers.files import read_json, read_records
from openmplug.data.readers.judging import missing_column
from openmplug.errors import DataError

_COLUMNS = ("id", "question", "choices", "answer", "element_type")


@dataclass(frozen=True, slots=True)
class ChoiceQuestion:
    """A multiple-choice question about a caption's picture.

    Args:
        caption_id: Of the caption.
        question: As it is asked.
        choices: The answers to choose from.
        answer: The right one.
        element_type: What kind of thing it is about, such as ``color``.
    """

    caption_id: str
    question: str
    choices: tuple[str, ...]
    answer: str
    element_type: str


@dataclass(frozen=True, slots=True)
class ChosenAnswer:
    """What a judge said freely, and which choice that was taken for."""

    free: str
    chosen: str


def read_choice_questions(path: Path) -> list[ChoiceQuestion]:
    """Read ``tifa_v1.0_question_answers.json`` or another list of that form.

    Raises:
        DataError: If the file cannot be read, a record lacks a field, or its choices are not a list of texts.
    """
    questions = []
    for where, record in read_records(path):
        for column in _COLUMNS:
            if record.get(column) is None:
                raise missing_column(where, column, list(record), _COLUMNS)
        choices = record["choices"]
        if not isinstance(choices, list) or not choices or not all(isinstance(choice, str) for choice in choices):
            raise DataError(f"{where}: 'choices' is {choices!r:.60}; expected a list of texts")
        caption, question, answer, kind = (str(record[column]) for column in ("id", "question", "answer", "element_type"))
        questions.append(ChoiceQuestion(caption, question, tuple(choices), answer, kind))
    return questions


def read_pictures(path: Path, captions: Iterable[str]) -> dict[str, Path]:
    """Find the picture of every caption.

    Args:
        path: JSON file ``{id: file}``, files relative to it; or a folder of pictures with the ids as stems.
        captions: Ids that need a picture; others are left out.

    Raises:
        DataError: If the list cannot be read, or a caption has no picture; the message names its id.
    """
    if path.is_dir():
        listed = {Path(name).stem: path / name for name in FolderImages(path).names() if "/" not in name}
    else:
        listed = {str(caption): path.parent / str(name) for caption, name in read_json(path, dict).items()}
    found = {}
    for caption in captions:
        if caption not in listed:
            raise DataError(
                f"no picture for caption '{caption}' in {path}{did_you_mean(caption, listed)}; every caption of the questions needs one"
            )
        if not listed[caption].is_file():
            raise DataError(f"the picture of caption '{caption}', '{listed[caption]}', does not exist; make it, or correct {path}")
        found[caption] = listed[caption]
    return found


def read_chosen_answers(path: Path, questions: Sequence[ChoiceQuestion]) -> list[ChosenAnswer]:
    """Read the answers in a result file of TIFA's own scorer: ``question_details`` by caption and question.

    Returns:
        An answer for each question, in order.

    Raises:
        DataError: If the file is not of that form, answers an unknown question, or leaves one without an answer.
    """
    result = read_json(path, dict)
    details = result.get("question_details")
    if not isinstance(details, dict):
        raise missing_column(str(path), "question_details", list(result), ("question_details",))
    known = {(each.caption_id, each.question) for each in questions}
    given: dict[tuple[str, str], ChosenAnswer] = {}
    for caption, asked in details.items():
        for question, record in (asked if isinstance(asked, dict) else {}).items():
            where = f"{path} caption '{caption}', question '{question}'"
            if (caption, question) not in known:
                raise DataError(f"{where}: answer to an unknown question; answers and questions must belong together")
            given[caption, question] = _chosen(record, where)
    for each in questions:
        if (each.caption_id, each.question) not in given:
            raise DataError(
                f"{path}: no answer to question '{each.question}' of caption '{each.caption_id}'; expected one for every question"
            )
    return [given[each.caption_id, each.question] for each in questions]


def _chosen(record: Any, where: str) -> ChosenAnswer:
    fields: Mapping[str, Any] = record if isinstance(record, dict) else {}
    if not isinstance(fields.get("multiple_choice_vqa"), str):
        raise missing_column(where, "multiple_choice_vqa", list(fields), ("free_form_vqa", "multiple_choice_vqa"))
    return ChosenAnswer(str(fields.get("free_form_vqa", "")), fields["multiple_choice_vqa"])
