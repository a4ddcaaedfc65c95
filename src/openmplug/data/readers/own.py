"""Your own data: ``{split}.jsonl`` or ``{split}.csv`` with one row per question, caption, label or phrase.

Columns (rename them with ``data.columns``, role: column):

====================================  =================================================================================
``image`` + ``question`` + ``answer``  a question; ``answer`` is one text, ``answers`` the answers of several annotators
``image`` + ``caption``                a picture's caption, or ``captions``, a list; rows of one picture are put together
``image`` + ``label``                  a picture and its class, or a number to estimate
``text`` + ``label``                   a sentence and its class or number; ``text2`` is the second sentence of a pair
``image`` + ``text`` + ``label``       a statement about the picture and its class
``image`` + ``phrase`` + ``box``       a phrase and where it is: [left, top, right, bottom] in the picture's pixels
``text`` + ``summary``                 a text and what to write about it
``video`` in the place of ``image``    the same about a video: a file, a GIF or a folder of frames
====================================  =================================================================================

``id`` is optional; every other column is kept in ``Sample.extra``. A list in a CSV cell is written as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openmplug.batch import Sample
from openmplug.data.images import open_images
from openmplug.data.readers.files import find_file, read_box, read_rows
from openmplug.data.readers.split import Numbering, Split
from openmplug.data.text import sentence_pair, weigh_answers
from openmplug.errors import DataError, UsageError

_WORDS = ("question", "answer", "answers", "answer_set", "caption", "captions", "text", "text2", "label", "summary", "phrase", "box")
ROLES = ("id", "image", *_WORDS, "video")
# The kinds of data set, and the roles whose declaration in data.columns chooses one.
_KINDS = {
    "question": ("question", "answer", "answers", "answer_set"),
    "caption": ("caption", "captions"),
    "summary": ("summary",),
    "phrase": ("phrase", "box"),
    "label": ("text", "text2", "label"),
}
# Without a declaration the columns of the first row choose; an answer alone tells nothing.
_MARKS = {
    "question": ("question",),
    "caption": ("caption", "captions"),
    "summary": ("summary",),
    "phrase": ("phrase",),
    "label": ("text", "label"),
}


def read_own(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read your own JSONL or CSV file.

    Args:
        root: Folder with ``{split}.jsonl`` or ``{split}.csv`` and the pictures (see ``open_images``).
        split: Stem of the file.
        columns: Role -> name of its column, for columns that are called otherwise. ``answer: null`` declares that the questions
            have no answers (prediction only), ``label: null`` and ``box: null`` likewise, ``image: null`` that there is nothing to see.
            ``answer_set`` is a list whose members are all part of the one right answer.

    Raises:
        UsageError: If ``columns`` names an unknown role.
        DataError: If the file is missing or empty, a line is malformed, or a row lacks a column.
    """
    unknown = sorted(set(columns) - set(ROLES))
    if unknown:
        raise UsageError(f"unknown role '{unknown[0]}' in data.columns; expected some of {', '.join(ROLES)}")
    path = find_file(root, (f"{split}.jsonl", f"{split}.csv"), f"split '{split}'")
    rows = [_Row(where, values, columns) for where, values in read_rows(path)]
    kind = _kind(rows[0], columns)
    build = {"question": _questions, "caption": _captions, "label": _labels, "summary": _summaries, "phrase": _phrases}[kind]
    samples = build(rows)
    _refuse_repeated_ids(samples, path)
    _refuse_mixed_kinds(samples, path)
    return Split(split, samples, open_images(root, split, clips=samples[0].clip))


def read_daquar(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read DAQUAR: ``answers`` is one answer of several things, not several people's answers.

    The things are sorted, joined by ", ", and "_" becomes a space ("garbage bin, chair" of the file's ["chair", "garbage_bin"] reads
    "chair, garbage bin"): equality of these texts is DAQUAR's accuracy, exact match of the answer set.
    """
    return read_own(root, split, {"answer_set": "answers", **columns})


class _Row:
    """One row, its columns looked up by role."""

    def __init__(self, where: str, values: dict[str, Any], columns: Mapping[str, str | None]) -> None:
        self.where = where
        self.values = values
        self._columns = columns

    def column(self, role: str) -> str | None:
        return self._columns.get(role, role)

    def get(self, role: str) -> Any:
        name = self.column(role)
        return None if name is None else self.values.get(name)

    def text(self, role: str, *alternatives: str) -> str:
        value = self.get(role)
        if value is None or value == "" or value == []:
            expected = " or ".join(f"'{self.column(each)}'" for each in (role, *alternatives))
            raise DataError(
                f"{self.where}: no {expected}; found {', '.join(self.values)}. Rename columns with data.columns={{{role}: NAME}}"
            )
        return _text(value, self.where, role)

    def texts(self, role: str) -> list[str]:
        """Return a list column; a CSV cell may hold it as JSON, and a single text is a list of one."""
        value = self.get(role)
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except json.JSONDecodeError as error:
                raise DataError(f"{self.where}: '{self.column(role)}' is not a JSON list ({error.msg})") from None
        if value is None or value == "":
            return []
        return [_text(each, self.where, role) for each in (value if isinstance(value, list) else [value])]

    def visual(self) -> tuple[str, bool]:
        """Return the name of the row's picture or video, and whether it is a video."""
        clip = self.get("video") not in (None, "")
        if clip and self.get("image") not in (None, ""):
            raise DataError(f"{self.where}: '{self.column('image')}' and '{self.column('video')}' at once; expected one of them")
        return (self.text("video"), True) if clip else (self.text("image", "video"), False)

    def seen(self) -> tuple[str | None, bool]:
        """Return what ``visual`` does, or (None, False) where ``image: null`` declares that there is nothing to see."""
        return self.visual() if self.column("image") is not None or self.get("video") not in (None, "") else (None, False)

    def rest(self, *roles: str) -> dict[str, Any]:
        """Return the columns that no role took."""
        taken = {self.column(role) for role in roles}
        return {name: value for name, value in self.values.items() if name not in taken}


def _text(value: Any, where: str, role: str) -> str:
    if isinstance(value, bool):
        yes, no = ("true", "false") if role == "label" else ("yes", "no")
        return yes if value else no
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, dict) and isinstance(value.get("answer"), str):  # VQA v2's {"answer": "net", "answer_confidence": ...}
        return str(value["answer"])
    raise DataError(f"{where}: '{role}' must be text or a number, got {type(value).__name__}")


def _kind(row: _Row, columns: Mapping[str, str | None]) -> str:
    declared = [kind for kind, roles in _KINDS.items() if any(role in columns for role in roles)]
    present = [kind for kind, roles in _MARKS.items() if any(row.get(role) is not None for role in roles)]
    kinds = declared or present
    if kinds[-2:] == ["summary", "label"]:  # both have a text; only one has a summary
        kinds = kinds[:-1]
    if len(kinds) == 1:
        return kinds[0]
    found = ", ".join(row.values)
    if not kinds:
        raise DataError(f"{row.where}: no question, caption or text; found {found}. Name the columns: data.columns={{caption: NAME}}")
    raise DataError(
        f"{row.where}: columns for {' and '.join(kinds)} at once; choose by naming one: data.columns={{{kinds[0]}: {kinds[0]}}}"
    )


def _questions(rows: list[_Row]) -> list[Sample]:
    number = Numbering()
    samples = []
    for index, row in enumerate(rows):
        (name, clip), question = row.seen(), row.text("question")
        answers = _answers(row)
        targets, weights = weigh_answers(answers) if answers else ((), ())
        extra = row.rest("id", "image", "video", "question", "answer", "answers", "answer_set")
        identifier = row.get("id") if row.get("id") is not None else row.values.get("question_id", index)
        samples.append(
            Sample(
                str(identifier), name, question, targets, weights, tuple(answers), -1 if name is None else number(name), extra, clip=clip
            )
        )
    return samples


def _answers(row: _Row) -> list[str]:
    if row.column("answer") is None:
        return []
    if "answer_set" in row._columns:
        members = sorted({each.replace("_", " ") for each in row.texts("answer_set")})
        found = [", ".join(members)] if members else []
    else:
        found = row.texts("answers") or row.texts("answer")
    return found or [row.text("answer_set" if "answer_set" in row._columns else "answer", "answers")]


def _captions(rows: list[_Row]) -> list[Sample]:
    texts: dict[str, list[str]] = {}
    firsts: dict[str, _Row] = {}
    clips: dict[str, bool] = {}
    for row in rows:
        name, clips[name] = row.visual()
        found = row.texts("captions") or row.texts("caption") or [row.text("caption", "captions")]
        texts.setdefault(name, []).extend(found)
        firsts.setdefault(name, row)
    return [
        Sample(
            id=str(firsts[name].get("id") if firsts[name].get("id") is not None else name),
            image=name,
            targets=tuple(captions),
            references=tuple(captions),
            image_index=index,
            extra=firsts[name].rest("id", "image", "video", "caption", "captions"),
            clip=clips[name],
        )
        for index, (name, captions) in enumerate(texts.items())
    ]


def _labels(rows: list[_Row]) -> list[Sample]:
    number = Numbering()
    samples = []
    for index, row in enumerate(rows):
        seen = row.get("image") is not None or row.get("video") is not None
        name, clip = row.visual() if seen else (None, False)
        text = None if seen and row.get("text") is None else row.text("text", "image", "video")
        if text is not None and row.get("text2") is not None:
            text = sentence_pair(text, row.text("text2"))
        labels = () if row.column("label") is None else (row.text("label"),)
        identifier = str(row.get("id") if row.get("id") is not None else index)
        extra = row.rest("id", "image", "video", "text", "text2")
        numbered = -1 if name is None else number(name)
        samples.append(Sample(identifier, name, text, labels, (1.0,) * len(labels), labels, numbered, extra, clip=clip))
    return samples


def _summaries(rows: list[_Row]) -> list[Sample]:
    samples = []
    for index, row in enumerate(rows):
        summary = row.text("summary")
        identifier = str(row.get("id") if row.get("id") is not None else index)
        extra = row.rest("id", "text", "summary")
        samples.append(Sample(identifier, None, row.text("text"), (summary,), (1.0,), (summary,), extra=extra))
    return samples


def _phrases(rows: list[_Row]) -> list[Sample]:
    number = Numbering()
    samples = []
    for index, row in enumerate(rows):
        name, phrase, place = row.text("image"), row.text("phrase"), row.get("box")
        if place is None and row.column("box") is not None:
            row.text("box")  # says what is missing, and what is there
        box = None if place is None else read_box(place, row.where, row.column("box") or "box")
        identifier = str(row.get("id") if row.get("id") is not None else index)
        extra = row.rest("id", "image", "phrase", "box")
        samples.append(Sample(identifier, name, phrase, image_index=number(name), extra=extra, box=box))
    return samples


def _refuse_mixed_kinds(samples: list[Sample], path: Path) -> None:
    clips = sum(sample.clip for sample in samples)
    if 0 < clips < len(samples):
        raise DataError(f"{path}: {clips:,} of {len(samples):,} records are about videos, the others about pictures; make two splits")


def _refuse_repeated_ids(samples: list[Sample], path: Path) -> None:
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise DataError(
                f"{path}: id '{sample.id}' occurs twice; ids must differ within a split (leave the column out to number the rows)"
            )
        seen.add(sample.id)
