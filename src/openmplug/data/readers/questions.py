"""Visual question answering in its official files: VQA v2 as downloaded, and the lists that the released mPLUG code reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openmplug.batch import Sample
from openmplug.data.images import open_images
from openmplug.data.readers.files import find_file, need, read_records
from openmplug.data.readers.split import Numbering, Split
from openmplug.data.text import unique_answers, weigh_answers
from openmplug.errors import DataError

_VQA_SPLITS = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test-dev2015"}


def read_vqa_v2(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read VQA v2 from the files of visualqa.org, names unchanged.

    Args:
        root: Folder with ``v2_OpenEnded_mscoco_{split}_questions.json``, ``v2_mscoco_{split}_annotations.json`` and the pictures in
            ``{split}/`` (or ``{split}.zip``, ``{split}.tar``), such as ``train2014/COCO_train2014_000000000009.jpg``.
        split: ``train2014``, ``val2014``, ``test2015``, ``test-dev2015``, or the same without the year. Test splits have no annotations.
        columns: Not used; the format is fixed.

    Returns:
        One sample per question: ``text`` the raw question, ``targets`` the different answers in order with their shares as weights,
        ``references`` all (ten) answers.

    Raises:
        DataError: If a file is missing or not in this format, or a question has no annotation.
    """
    return read_visualqa(root, split, "VQA v2", "v2_OpenEnded_mscoco_{}_questions.json", "v2_mscoco_{}_annotations.json")


def read_visualqa(root: Path, split: str, benchmark: str, questions: str, annotations: str) -> Split:
    """Read a benchmark about COCO's pictures in the layout of visualqa.org.

    Args:
        root: Holds both files and the pictures.
        split: With or without its year.
        benchmark: Its name, for messages.
        questions: Name of the questions' file, with ``{}`` in the place of the split.
        annotations: Name of the annotations' file, likewise.

    Raises:
        DataError: If a file is missing or not in this format, or a question has no annotation.
    """
    subset = _VQA_SPLITS.get(split, split)
    path = find_file(root, (questions.format(subset),), f"{benchmark} questions of split '{split}'")
    answers: dict[Any, tuple[dict[str, Any], list[str]]] = {}
    if not subset.startswith("test"):
        answers = _vqa_answers(find_file(root, (annotations.format(subset),), f"{benchmark} annotations of split '{split}'"))
    picture_set = subset.replace("-dev", "")  # test-dev's questions are about pictures of test2015
    number = Numbering()
    samples = []
    for where, record in read_records(path, "questions"):
        identifier, image_id = need(record, "question_id", where), need(record, "image_id", where)
        if answers and identifier not in answers:
            raise DataError(f"{where}: question {identifier} has no annotation; the questions and annotations files must belong together")
        extra, given = answers.get(identifier, ({}, ()))
        targets, weights = weigh_answers(given) if given else ((), ())
        name = f"COCO_{picture_set}_{int(image_id):012d}.jpg"
        extra = {"question_id": identifier, "image_id": image_id, **extra}
        samples.append(Sample(str(identifier), name, need(record, "question", where), targets, weights, tuple(given), number(name), extra))
    return Split(split, samples, open_images(root, split, folder=picture_set))


def _vqa_answers(path: Path) -> dict[Any, tuple[dict[str, Any], list[str]]]:
    answers: dict[Any, tuple[dict[str, Any], list[str]]] = {}
    for where, record in read_records(path, "annotations"):
        given = [str(need(each, "answer", where)) for each in need(record, "answers", where)]
        if not given:
            raise DataError(f"{where}: 'answers' is empty; expected one answer per annotator")
        kinds: dict[str, Any] = {field: record[field] for field in ("question_type", "answer_type") if field in record}
        answers[need(record, "question_id", where)] = (kinds, given)
    return answers


def read_mplug_vqa(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read the question lists of the released mPLUG code.

    Args:
        root: Folder with ``{split}.json`` (such as ``vqa_train.json``): a list of records with ``image`` (a path below ``root``),
            ``question``, ``answer`` (every annotator's for dataset ``vqa``, one text for ``vg`` and ``gqa``; absent in test files), and
            optionally ``dataset``, ``question_id``, ``ocr`` and ``object_label``.
        split: Stem of the file; ``train`` also finds ``vqa_train.json``.
        columns: Not used; the format is fixed.

    Returns:
        One sample per question; the one answer of a ``vg`` or ``gqa`` record weighs 0.5. ``ocr`` and ``object_label`` stay in ``extra``.

    Raises:
        DataError: If the file is missing or not in this format, or only some records have an answer.
    """
    path = find_file(root, (f"{split}.json", f"vqa_{split}.json"), f"mPLUG question list '{split}'")
    records = read_records(path)
    answered = "answer" in records[0][1]
    number = Numbering()
    samples = []
    for index, (where, record) in enumerate(records):
        name, question = need(record, "image", where), need(record, "question", where)
        targets: tuple[str, ...] = ()
        weights: tuple[float, ...] = ()
        references: tuple[str, ...] = ()
        if answered:
            answer = need(record, "answer", where)
            if not answer:
                raise DataError(f"{where}: 'answer' is empty; expected a text, or a list of annotators' answers")
            targets, weights = unique_answers(record)
            references = (answer,) if isinstance(answer, str) else tuple(answer)
        elif "answer" in record:
            raise DataError(f"{where}: has an 'answer' but the first record has none; a list has answers throughout or nowhere")
        extra = {field: value for field, value in record.items() if field not in ("image", "question", "answer")}
        # Lists that join several data sets repeat question ids, or have none: records are numbered.
        samples.append(Sample(str(index), name, question, targets, weights, references, number(name), extra))
    return Split(split, samples, open_images(root, split))
