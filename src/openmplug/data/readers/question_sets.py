"""Questions about pictures in their official files: CLEVR, GQA, OK-VQA, TextVQA, VizWiz, and Visual Genome's to train on besides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from openmplug.batch import Sample
from openmplug.data.images import PICTURE_SUFFIXES, ImageSource, open_images
from openmplug.data.readers.files import find_file, need, read_json, read_records
from openmplug.data.readers.questions import read_visualqa
from openmplug.data.readers.split import Numbering, Split
from openmplug.data.text import SINGLE_ANSWER_WEIGHT, weigh_answers
from openmplug.errors import DataError


def read_okvqa(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read OK-VQA from the files of okvqa.allenai.org, names unchanged.

    Args:
        root: Folder with ``OpenEnded_mscoco_{split}_questions.json``, ``mscoco_{split}_annotations.json`` and COCO's pictures in
            ``{split}/`` (or ``.zip``, ``.tar``).
        split: ``train2014`` or ``val2014``, or without the year; ``val`` is what papers call its test set.
        columns: Not used; the format is fixed.

    Returns:
        As VQA v2's reader; ten answers a question, those of five people twice, as the files have them.

    Raises:
        DataError: If a file is missing or not in this format, or a question has no annotation.
    """
    return read_visualqa(root, split, "OK-VQA", "OpenEnded_mscoco_{}_questions.json", "mscoco_{}_annotations.json")


def read_clevr(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read CLEVR v1.0 as downloaded.

    Args:
        root: Folder with ``questions/CLEVR_{split}_questions.json`` and the pictures in ``images/{split}/`` (or an archive of it).
        split: ``train``, ``val`` or ``test``; ``test`` has no answers.
        columns: Not used; the format is fixed.

    Returns:
        One sample per question, its index as id; ``extra`` has ``question_index`` and, where the question's program is known, ``kind``:
        exist, count, query, compare numbers or compare things, the five of the paper.

    Raises:
        DataError: If a file is missing or not in this format.
    """
    places = (f"questions/CLEVR_{split}_questions.json", f"CLEVR_{split}_questions.json")
    path = find_file(root, places, f"CLEVR questions of split '{split}'")
    number = Numbering()
    samples = []
    for where, record in read_records(path, "questions"):
        key, name = need(record, "question_index", where), need(record, "image_filename", where)
        answer = (str(record["answer"]),) if record.get("answer") is not None else ()
        program = record.get("program")
        extra = {"question_index": key} | ({"kind": _clevr_kind(str(need(program[-1], "function", where)))} if program else {})
        samples.append(Sample(str(key), name, need(record, "question", where), answer, (1.0,) * len(answer), answer, number(name), extra))
    return Split(split, samples, open_images(root, split, folder=f"images/{split}"))


def _clevr_kind(last: str) -> str:
    """Name the kind of a question by the last function of its program."""
    if last in ("equal_integer", "less_than", "greater_than"):
        return "compare numbers"
    return "compare things" if last.startswith("equal_") else last.partition("_")[0]


def read_gqa(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read GQA's questions as downloaded.

    Args:
        root: Folder with ``{split}_questions.json`` (or in ``questions/``) and the pictures in ``images/``, ``images.zip`` or
            ``images.tar``.
        split: ``train_balanced``, ``val_balanced``, ``testdev_balanced``, ``test_balanced`` or ``..._all``; without either, the balanced
            questions. ``train_all`` is a folder of files, ``train_all_questions/``.
        columns: Not used; the format is fixed.

    Returns:
        One sample per question, its key as id; ``extra`` has ``question_id``, ``structural`` and ``semantic``, its kinds.

    Raises:
        DataError: If a file is missing or not in this format.
    """
    number = Numbering()
    samples = []
    for path in _gqa_files(root, split):
        for key, record in read_json(path, dict).items():
            where = f"{path} question {key}"
            if not isinstance(record, dict):
                raise DataError(f"{where}: expected an object, got {type(record).__name__}")
            name = f"{need(record, 'imageId', where)}.jpg"
            answer = (str(record["answer"]),) if record.get("answer") is not None else ()
            kinds = {field: kind for field, kind in (record.get("types") or {}).items() if field != "detailed"}
            question = need(record, "question", where)
            samples.append(Sample(key, name, question, answer, (1.0,) * len(answer), answer, number(name), {"question_id": key, **kinds}))
    if not samples:
        raise DataError(f"GQA questions of split '{split}' in {root}: the files hold no question")
    return Split(split, samples, open_images(root, split))


def _gqa_files(root: Path, split: str) -> list[Path]:
    names = [split] if split.endswith(("_balanced", "_all")) else [f"{split}_balanced", split]
    for name in names:
        for folder in (root / f"{name}_questions", root / "questions" / f"{name}_questions"):
            if folder.is_dir() and (parts := sorted(folder.glob("*.json"))):
                return parts
    places = [f"{where}{name}_questions.json" for name in names for where in ("", "questions/")]
    return [find_file(root, places, f"GQA questions of split '{split}'")]


def read_textvqa(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read TextVQA from the files of textvqa.org, names unchanged.

    Args:
        root: Folder with ``TextVQA_0.5.1_{split}.json`` and the pictures in ``train_images/`` (of ``train`` and ``val``) and
            ``test_images/``, or archives of these. Where there is ``TextVQA_Rosetta_OCR_v0.2_{split}.json``, the words read in a picture
            are kept as ``extra["ocr"]``.
        split: ``train``, ``val`` or ``test``; ``test`` has no answers.
        columns: Not used; the format is fixed.

    Raises:
        DataError: If a file is missing or not in this format.
    """
    path = find_file(root, (f"TextVQA_0.5.1_{split}.json", f"TextVQA_0.5_{split}.json"), f"TextVQA questions of split '{split}'")
    words = _read_words(root / f"TextVQA_Rosetta_OCR_v0.2_{split}.json")
    number = Numbering()
    samples = []
    for where, record in read_records(path, "data"):
        key, picture = need(record, "question_id", where), need(record, "image_id", where)
        extra = {"question_id": key, "image_id": picture} | ({"ocr": words[picture]} if picture in words else {})
        samples.append(_answered(str(key), f"{picture}.jpg", record, where, number, extra))
    return Split(split, samples, open_images(root, split, folder="test_images" if split == "test" else "train_images"))


def _read_words(path: Path) -> dict[str, list[tuple[int, str]]]:
    """Return the words read in each picture, numbered as mPLUG's lists number them; nothing where there is no such file."""
    if not path.is_file():
        return {}
    return {need(record, "image_id", where): [*enumerate(record.get("ocr_tokens", ()))] for where, record in read_records(path, "data")}


def read_vizwiz(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read VizWiz-VQA from the files of vizwiz.org.

    Args:
        root: Folder with ``Annotations/{split}.json`` (or ``{split}.json``) and the pictures in ``{split}/`` or an archive of it.
        split: ``train``, ``val`` or ``test``; ``test`` has no answers.
        columns: Not used; the format is fixed.

    Returns:
        One sample per question, numbered from 0: there are no ids, and each picture has one question. ``extra`` has ``answer_type``.

    Raises:
        DataError: If a file is missing or not in this format.
    """
    path = find_file(root, (f"Annotations/{split}.json", f"{split}.json"), f"VizWiz questions of split '{split}'")
    number = Numbering()
    samples = []
    for index, (where, record) in enumerate(read_records(path)):
        name = need(record, "image", where)
        extra = {"question_id": index, "image": name} | {field: record[field] for field in ("answer_type",) if field in record}
        samples.append(_answered(str(index), name, record, where, number, extra))
    return Split(split, samples, open_images(root, split, folder=split))


def _answered(key: str, name: str, record: Mapping[str, Any], where: str, number: Numbering, extra: Mapping[str, Any]) -> Sample:
    """Make a sample of a record whose ``answers``, where it has some, are one of every person's: texts, or objects with ``answer``."""
    given = [str(one if isinstance(one, str) else need(one, "answer", where)) for one in record.get("answers") or ()]
    targets, weights = weigh_answers(given) if given else ((), ())
    return Sample(key, name, need(record, "question", where), targets, weights, tuple(given), number(name), extra)


def read_visual_genome(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read the questions of Visual Genome, which VQA v2 models train on besides.

    Args:
        root: Folder with ``question_answers.json`` and the pictures in ``VG_100K/`` and ``VG_100K_2/``, any other folders, or
            ``images.zip``.
        split: Not used: there is one.
        columns: Not used; the format is fixed.

    Returns:
        One sample per question; the answer in small letters without its full stop, of weight 0.5 as in mPLUG's lists.

    Raises:
        DataError: If the file is missing or not in this format.
    """
    path = find_file(root, ("question_answers.json",), "Visual Genome's questions")
    images = open_images(root, split)
    places = _by_number(images)
    number = Numbering()
    samples = []
    for where, record in read_records(path):
        for pair in need(record, "qas", where):
            picture = str(pair.get("image_id", record.get("id", record.get("image_id"))))
            name, key = places.get(picture, f"{picture}.jpg"), str(need(pair, "qa_id", where))
            answer = str(need(pair, "answer", where)).strip().rstrip(".").lower()
            extra = {"question_id": pair["qa_id"], "image_id": picture, "dataset": "vg"}
            samples.append(
                Sample(key, name, need(pair, "question", where), (answer,), (SINGLE_ANSWER_WEIGHT["vg"],), (answer,), number(name), extra)
            )
    return Split(split, samples, images)


def _by_number(images: ImageSource) -> dict[str, str]:
    return {PurePosixPath(name).stem: name for name in images.names() if PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES}
