"""Descriptions of videos in their official files: MSR-VTT, MSVD, VATEX, and the lists of the released mPLUG-2 captioners.

They serve captioning and, with all their sentences, retrieval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openmplug.batch import Sample
from openmplug.data.readers.files import find_file, need, read_records, read_rows, read_table
from openmplug.data.readers.split import Split
from openmplug.data.readers.video_files import VideoFiles
from openmplug.errors import DataError

_MSRVTT_FILES = ("train_val_videodatainfo.json", "test_videodatainfo.json", "videodatainfo_2017.json", "MSRVTT_data.json")
_MSRVTT_PLACES = {"train": "TrainValVideo", "validate": "TrainValVideo", "test": "TestVideo"}


def read_msrvtt(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read MSR-VTT's own file of videos and sentences.

    Args:
        root: Folder with ``train_val_videodatainfo.json`` and ``test_videodatainfo.json``, or one of ``videodatainfo_2017.json`` and
            ``MSRVTT_data.json`` with all splits, also in ``annotations/``; and the videos ``video0.mp4`` in ``TrainValVideo/``,
            ``TestVideo/``, ``videos/`` or anywhere below ``root``.
        split: ``train`` (6,513 videos), ``val`` or ``validate`` (497), ``test`` (2,990).
        columns: Not used; the format is fixed.

    Returns:
        One sample per video with its (twenty) sentences as targets and references.

    Raises:
        DataError: If the file is missing or not in this format, or a video of the split has no sentence.
    """
    wanted = "validate" if split == "val" else split
    captions, splits = read_msrvtt_sentences(root, prefer_test=wanted == "test")
    names = [name for name, own in splits.items() if own == wanted]
    if not names:
        raise DataError(
            f"MSR-VTT's file in {root} has no video of split '{split}'; its splits are {', '.join(sorted(set(splits.values())))}"
        )
    return described(split, VideoFiles(root, split, _MSRVTT_PLACES.get(wanted, "videos")), {name: captions.get(name, []) for name in names})


def read_msrvtt_sentences(root: Path, prefer_test: bool = False) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Read MSR-VTT's sentences.

    Args:
        root: As ``read_msrvtt``.
        prefer_test: Where the file of the test split and that of the others lie side by side, read the former.

    Returns:
        The sentences of each video, and the split of each.

    Raises:
        DataError: If the file is missing or not in this format.
    """
    names = sorted(_MSRVTT_FILES, key=lambda name: name.startswith("train") if prefer_test else name.startswith("test"))
    path = find_file(root, [f"{folder}{name}" for name in names for folder in ("", "annotations/")], "MSR-VTT's videos and sentences")
    splits = {need(record, "video_id", where): need(record, "split", where) for where, record in read_records(path, "videos")}
    captions: dict[str, list[str]] = {}
    for where, record in read_records(path, "sentences"):
        captions.setdefault(need(record, "video_id", where), []).append(_caption(need(record, "caption", where), where))
    return captions, splits


def read_msvd(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read MSVD's descriptions (Microsoft Research Video Description Corpus).

    Args:
        root: Folder with either ``{split}.json`` (also ``msvd_{split}.json``), a list of ``{id: "NAME.avi", caption: [..]}``, or
            ``AllVideoDescriptions.txt`` (a name and a sentence per line, ``#`` begins a comment) beside ``{split}_list.txt`` with one name
            per line (the usual parts have 1,200, 100 and 670); and the videos ``NAME.avi`` in ``YouTubeClips/``, ``videos/`` or
            anywhere below ``root``.
        split: ``train``, ``val`` or ``test``.
        columns: Not used; the format is fixed.

    Returns:
        One sample per video with its (about forty) sentences as targets and references.

    Raises:
        DataError: If the file is missing or not in this format, or a video has no sentence.
    """
    files = VideoFiles(root, split, "YouTubeClips")
    captions: dict[str, list[str]] = {}
    if (root / "AllVideoDescriptions.txt").is_file():
        names = find_file(root, (f"{split}_list.txt",), f"MSVD's list of the videos of split '{split}'")
        wanted = {cells[0] for _, cells in read_table(names, " ")}
        for where, cells in read_table(root / "AllVideoDescriptions.txt", " ", comment="#"):
            if len(cells) < 2:
                raise DataError(f"{where}: one word, expected a video's name and a sentence")
            if cells[0] in wanted:
                captions.setdefault(cells[0], []).append(" ".join(cells[1:]))
        captions = {name: captions.get(name, []) for name in sorted(wanted)}
    else:
        path = find_file(
            root, (f"{split}.json", f"msvd_{split}.json"), f"MSVD descriptions of split '{split}' (or AllVideoDescriptions.txt)"
        )
        for where, record in read_records(path):
            captions.setdefault(str(need(record, "id", where)), []).extend(caption_list(record, "caption", where))
    return described(split, files, captions)


_VATEX = {"train": "training", "val": "validation", "test": "public_test_english"}


def read_vatex(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read VATEX's descriptions in English.

    Args:
        root: Folder with ``vatex_training_v1.0.json``, ``vatex_validation_v1.0.json`` or ``vatex_public_test_english_v1.1.json`` (any
            version), a list of ``{videoID: "Ptf_2VRj-V0_000122_000132", enCap: [..]}``; and the videos ``{videoID}.mp4``.
        split: ``train``, ``val`` or ``test`` (the public one), or a file's whole stem. ``private_test`` has no sentences.
        columns: Not used; the format is fixed.

    Returns:
        One sample per video with its (ten) sentences as targets and references; none for the private test.

    Raises:
        DataError: If the file is missing or not in this format.
    """
    stem = _VATEX.get(split, split)
    names = [path.name for path in sorted(root.glob(f"vatex_{stem}*.json"))] or [f"vatex_{stem}_v1.0.json"]
    path = find_file(root, (*names, f"{split}.json"), f"VATEX descriptions of split '{split}'")
    captions: dict[str, list[str]] = {}
    for where, record in read_records(path):
        captions[str(need(record, "videoID", where))] = caption_list(record, "enCap", where) if "enCap" in record else []
    return described(split, VideoFiles(root, split), captions, may_be_silent=not any(captions.values()))


def read_mplug2_captions(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read the caption lists of the released mPLUG-2 scripts: one JSON object per line.

    Args:
        root: Folder with ``{split}.jsonl``: for training rows of ``{video_id, caption}``, one per sentence; for evaluation rows of
            ``{video_id, golden_captions: [..]}``. The released lists cover MSRVTT and MSVD.
        split: Stem of the file.
        columns: Not used; the format is fixed.

    Returns:
        One sample per video, in order of first appearance.

    Raises:
        DataError: If the file is missing or not in this format.
    """
    path = find_file(root, (f"{split}.jsonl", f"txt/{split}.jsonl"), f"caption list '{split}'")
    captions: dict[str, list[str]] = {}
    for where, record in read_rows(path):
        field = "golden_captions" if "golden_captions" in record else "caption"
        captions.setdefault(str(need(record, "video_id", where)), []).extend(caption_list(record, field, where))
    return described(split, VideoFiles(root, split), captions)


# --------------------------------------------------------------------------------------------------- of all such files


def described(
    split: str,
    files: VideoFiles,
    captions: Mapping[str, Sequence[str]],
    may_be_silent: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> Split:
    """Make one sample of each video and its sentences.

    Args:
        split: Name.
        files: Where the videos lie.
        captions: Video's id -> sentences.
        may_be_silent: Videos without a sentence are for prediction.
        extra: Of every sample, besides ``video_id``.

    Raises:
        DataError: If a video has no sentence.
    """
    samples = []
    for index, (identifier, texts) in enumerate(captions.items()):
        if not texts and not may_be_silent:
            raise DataError(
                f"video '{identifier}' of split '{split}' has no sentence; the lists of videos and sentences must belong together"
            )
        own = {"video_id": identifier, **(extra or {})}
        samples.append(Sample(identifier, files(identifier), None, tuple(texts), (), tuple(texts), index, own, clip=True))
    return Split(split, samples, files.source)


def caption_list(record: Mapping[str, Any], field: str, where: str) -> list[str]:
    """Return a field that is one text or a list of texts.

    Raises:
        DataError: If it is missing, empty or something else.
    """
    value = need(record, field, where)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise DataError(f"{where}: '{field}' must be a text or a list of texts, got {value!r:.60}")
    return [_caption(text, where) for text in texts]


def _caption(text: Any, where: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: a caption must be a text, got {text!r:.60}")
    return text.strip()
