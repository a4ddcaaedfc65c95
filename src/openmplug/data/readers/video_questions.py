"""Video question answering in its official files: MSRVTT-QA and MSVD-QA, TGIF's frame questions, and the lists of released video models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openmplug.batch import Sample
from openmplug.data.readers.files import find_file, need, read_json, read_records, read_rows, read_table
from openmplug.data.readers.split import Numbering, Split
from openmplug.data.readers.video_files import VideoFiles
from openmplug.errors import DataError


def read_msrvtt_qa(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read MSRVTT-QA as its authors publish it.

    Args:
        root: Folder with ``{split}_qa.json``, a list of ``{video_id: 6513, question, answer, id}``, and the videos ``video6513.mp4`` in
            ``TrainValVideo/``, ``TestVideo/``, ``video/`` or ``videos/``, or anywhere below ``root``.
        split: ``train``, ``val`` or ``test``.
        columns: Not used; the format is fixed.

    Returns:
        One sample per question, known by its ``id``.

    Raises:
        DataError: If the file is missing or not in this format.
    """
    return _questions_of_numbers(root, split, lambda number: f"video{number}", "MSRVTT-QA", ("video", "videos"))


def read_msvd_qa(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read MSVD-QA as its authors publish it.

    Args:
        root: Folder with ``{split}_qa.json``, a list of ``{video_id: 1, question, answer, id}``; optionally ``youtube_mapping.txt``, lines
            of "-4wsuPCjDBc_5_15 vid1", for videos under their YouTube names; and the videos in ``YouTubeClips/``, ``video/`` or
            ``videos/``, or anywhere below ``root``.
        split: ``train``, ``val`` or ``test``.
        columns: Not used; the format is fixed.

    Returns:
        One sample per question, known by its ``id``.

    Raises:
        DataError: If a file is missing or not in this format.
    """
    mapping: dict[str, str] = {}
    if (root / "youtube_mapping.txt").is_file():
        for where, cells in read_table(root / "youtube_mapping.txt", " "):
            if len(cells) != 2:
                raise DataError(
                    f"{where}: {len(cells)} words, expected two: the YouTube name and the number, as in '-4wsuPCjDBc_5_15 vid1'"
                )
            mapping[cells[1]] = cells[0]
    return _questions_of_numbers(
        root, split, lambda number: mapping.get(f"vid{number}", f"vid{number}"), "MSVD-QA", ("YouTubeClips", "video", "videos")
    )


def _questions_of_numbers(root: Path, split: str, name_of: Any, what: str, places: tuple[str, ...]) -> Split:
    path = find_file(root, (f"{split}_qa.json", f"{split}.json"), f"{what} questions of split '{split}'")
    files, number = VideoFiles(root, split, *places), Numbering()
    samples = []
    for index, (where, record) in enumerate(read_records(path)):
        name = files(name_of(need(record, "video_id", where)))
        extra = {"question_id": record.get("id", index), "video_id": record["video_id"]}
        samples.append(_question(str(extra["question_id"]), name, record, where, number, extra))
    return Split(split, samples, files.source)


def read_video_qa(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read the question lists of the released mPLUG and mPLUG-2 scripts (and ALPRO): one JSON object per line.

    Args:
        root: Folder with ``{split}.jsonl``, rows of ``{video_id, question, answer}`` (``clip_name`` does for ``video_id``), also in
            ``txt/``; and the videos in ``videos/``, or anywhere below ``root``. A JSON list in ``{split}.json`` is read too.
        split: Stem of the file.
        columns: Not used; the format is fixed.

    Returns:
        One sample per question, numbered by line as the released scripts do.

    Raises:
        DataError: If the file is missing or not in this format.
    """
    path = find_file(root, (f"{split}.jsonl", f"txt/{split}.jsonl", f"{split}.json"), f"question list '{split}'")
    files, number = VideoFiles(root, split), Numbering()
    samples = []
    for index, (where, record) in enumerate(read_records(path) if path.suffix == ".json" else read_rows(path)):
        name = files(str(record.get("clip_name") or need(record, "video_id", where)))
        extra = {key: value for key, value in record.items() if key not in ("question", "answer")}
        samples.append(_question(str(index), name, record, where, number, {"question_id": index, **extra}))
    return Split(split, samples, files.source)


_TGIF = {"train": "Train", "test": "Test", "total": "Total"}


def read_tgif_frameqa(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read TGIF-QA's frame questions.

    Args:
        root: Folder with ``{Train,Test}_frameqa_question.csv`` (cells separated by tabs), also in ``dataset/``; and the animations
            ``{gif_name}.gif`` in ``gifs/``, or anywhere below ``root``.
        split: ``train`` or ``test``; the authors publish no third part.
        columns: Not used; the format is fixed.

    Returns:
        One sample per question, known by its ``vid_id``; ``extra`` keeps ``type`` (0 object, 1 number, 2 colour, 3 location).

    Raises:
        DataError: If the file is missing or not in this format.
    """
    stem = f"{_TGIF.get(split, split)}_frameqa_question.csv"
    path = find_file(root, (stem, f"dataset/{stem}"), f"TGIF frame questions of split '{split}'")
    files, number = VideoFiles(root, split, "gifs"), Numbering()
    samples = []
    for where, record in read_rows(path, "\t"):
        name = files(str(need(record, "gif_name", where)) + ".gif")
        extra: dict[str, Any] = {key: record[key] for key in ("vid_id", "type") if key in record}
        samples.append(_question(str(need(record, "vid_id", where)), name, record, where, number, extra))
    return Split(split, samples, files.source)


def _question(identifier: str, name: str, record: Mapping[str, Any], where: str, number: Numbering, extra: dict[str, Any]) -> Sample:
    question, answer = need(record, "question", where), record.get("answer")
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{where}: 'question' must be a text, got {question!r:.60}")
    if answer is None:  # test questions of which the answers are kept back
        return Sample(identifier, name, question, (), (), (), number(name), extra, clip=True)
    text = str(answer).strip()
    if not text or isinstance(answer, list | dict):
        raise DataError(f"{where}: 'answer' must be one text, got {answer!r:.60}")
    return Sample(identifier, name, question, (text,), (1.0,), (text,), number(name), extra, clip=True)


def read_answers(path: Path) -> tuple[str, ...]:
    """Read a list of candidate answers: a JSON list, the keys of a JSON object in their order (``train_ans2label.json``), or one per line.

    A line of a ``.jsonl`` file is an object with ``answer``, of a ``.txt`` file plain text.

    Raises:
        DataError: If the file is missing, in none of these forms or empty.
    """
    if not path.is_file():
        raise DataError(f"list of answers {path} does not exist; give a .json, .jsonl or .txt file, relative to data.root")
    if path.suffix == ".json":
        value = read_json(path, (list, dict))
        answers = [_answer(each, f"{path} record {number}") for number, each in enumerate(value, start=1)]
    elif path.suffix == ".jsonl":
        answers = [_answer(row, where) for where, row in read_rows(path)]
    else:
        answers = [" ".join(cells) for _, cells in read_table(path, "\n")]
    if not answers:
        raise DataError(f"{path} holds no answer; expected a list of texts")
    return tuple(dict.fromkeys(answers))


def _answer(value: Any, where: str) -> str:
    answer = need(value, "answer", where) if isinstance(value, dict) else value
    if not isinstance(answer, str | int | float):
        raise DataError(f"{where}: an answer must be a text, got {answer!r:.60}")
    return str(answer)
