"""Video-text retrieval in its official files: MSR-VTT's splits of 9,000, 7,000 and 1,000 videos, DiDeMo, LSMDC, and plain lists."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from openmplug.data.readers.files import find_file, need, read_records, read_rows, read_table
from openmplug.data.readers.split import Split
from openmplug.data.readers.video_captions import caption_list, described, read_msrvtt_sentences
from openmplug.data.readers.video_files import VideoFiles
from openmplug.errors import DataError

_MSRVTT_TRAIN = {"train-9k": "MSRVTT_train.9k.csv", "train-7k": "MSRVTT_train.7k.csv"}


def read_msrvtt_retrieval(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read MSR-VTT's retrieval splits in the files that everybody shares.

    Args:
        root: Folder with ``MSRVTT_train.9k.csv`` or ``MSRVTT_train.7k.csv`` (column ``video_id``) and MSR-VTT's own file of sentences
            (``MSRVTT_data.json`` or as ``read_msrvtt`` finds it) for training; ``MSRVTT_JSFUSION_test.csv`` (columns ``video_id``,
            ``sentence``) for ``test-1ka``; and the videos in ``videos/`` or anywhere below ``root``.
        split: ``train-9k`` (180,000 sentences), ``train-7k``, or ``test-1ka`` (1,000 videos with one sentence each). The full test of 2,990
            videos is ``test`` of the reader ``msrvtt``.
        columns: Not used; the format is fixed.

    Returns:
        One sample per video with its sentences as targets and references.

    Raises:
        DataError: If a file is missing or not in this format, or a video has no sentence.
    """
    captions: dict[str, list[str]] = {}
    if split in _MSRVTT_TRAIN:
        path = find_file(root, (_MSRVTT_TRAIN[split],), f"MSR-VTT's list of the videos of '{split}'")
        sentences, _ = read_msrvtt_sentences(root)
        for where, record in read_rows(path):
            name = str(need(record, "video_id", where))
            captions[name] = sentences.get(name, [])
    elif split == "test-1ka":
        path = find_file(root, ("MSRVTT_JSFUSION_test.csv",), "MSR-VTT's test of 1,000 videos")
        for where, record in read_rows(path):
            captions.setdefault(str(need(record, "video_id", where)), []).extend(caption_list(record, "sentence", where))
    else:
        raise DataError(f"MSR-VTT retrieval has no split '{split}'; expected train-9k, train-7k or test-1ka")
    return described(split, VideoFiles(root, split, "MSRVTT_Videos"), captions)


def read_clip_captions(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read a retrieval list of the released mPLUG scripts (and ALPRO): one JSON object per line.

    Args:
        root: Folder with ``{split}.jsonl``, rows of ``{clip_name, caption}``, also in ``txt/``; and the videos.
        split: Stem of the file.
        columns: Not used; the format is fixed.

    Returns:
        One sample per video, in order of first appearance, with its captions as targets and references.

    Raises:
        DataError: If the file is missing or not in this format.
    """
    path = find_file(root, (f"{split}.jsonl", f"txt/{split}.jsonl"), f"retrieval list '{split}'")
    captions: dict[str, list[str]] = {}
    for where, record in read_rows(path):
        captions.setdefault(str(need(record, "clip_name", where)), []).extend(caption_list(record, "caption", where))
    return described(split, VideoFiles(root, split), captions)


def read_didemo(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read DiDeMo for retrieval by paragraphs: what was said about any moment of a video, one after the other, is its one text.

    Args:
        root: Folder with ``{split}_data.json``, a list of ``{video, description, annotation_id, ..}``, one per moment; ``description`` may
            be a list too; and the videos, whose files may have another suffix than ``video`` says.
        split: ``train``, ``val`` or ``test`` (1,004 videos).
        columns: Not used; the format is fixed.

    Returns:
        One sample per video, in order of first appearance, with one paragraph.

    Raises:
        DataError: If the file is missing or not in this format.
    """
    path = find_file(root, (f"{split}_data.json", f"{split}.json"), f"DiDeMo's moments of split '{split}'")
    moments: dict[str, list[str]] = {}
    for where, record in read_records(path):
        moments.setdefault(str(need(record, "video", where)), []).extend(caption_list(record, "description", where))
    paragraphs = {name: [" ".join(_sentence(text) for text in texts)] for name, texts in moments.items()}
    return described(split, VideoFiles(root, split), paragraphs)


def _sentence(text: str) -> str:
    return text if re.search(r"[.!?]$", text) else f"{text}."


_LSMDC = {
    "train": ("LSMDC16_annos_training.csv",),
    "val": ("LSMDC16_annos_val.csv",),
    "test": ("LSMDC16_challenge_1000_publictect.csv", "LSMDC16_challenge_1000_publictest.csv"),
}


def read_lsmdc(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read LSMDC 2016 for retrieval.

    Args:
        root: Folder with ``LSMDC16_annos_training.csv``, ``LSMDC16_annos_val.csv`` and ``LSMDC16_challenge_1000_publictect.csv`` (sic): no
            header, six cells separated by tabs, the first the clip's name and the last its sentence; and the clips
            ``{movie}/{name}.avi`` below ``root``.
        split: ``train``, ``val`` or ``test`` (1,000 clips).
        columns: Not used; the format is fixed.

    Returns:
        One sample per clip with its sentence.

    Raises:
        DataError: If the file is missing or not in this format.
    """
    if split not in _LSMDC:
        raise DataError(f"LSMDC has no split '{split}'; expected {', '.join(_LSMDC)}")
    path = find_file(root, _LSMDC[split], f"LSMDC's sentences of split '{split}'")
    captions: dict[str, list[str]] = {}
    for where, cells in read_table(path, "\t"):
        if len(cells) != 6 or not cells[-1].strip():
            raise DataError(f"{where}: {len(cells)} cells, expected six separated by tabs: name, four times, sentence")
        captions.setdefault(cells[0], []).append(cells[-1].strip())
    return described(split, VideoFiles(root, split), captions)
