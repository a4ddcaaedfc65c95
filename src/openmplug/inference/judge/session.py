"""One run of a judge: the model, the pictures, and the rows it has written so far."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from openmplug import __version__
from openmplug.checkpoints.folder import file_hash, find_folder
from openmplug.checkpoints.locating import find_checkpoint
from openmplug.data.images import PICTURE_SUFFIXES, decode_image
from openmplug.errors import DataError, UsageError
from openmplug.inference.journal import Journal
from openmplug.inference.judge.asking import Subject, ask, judge_task
from openmplug.inference.loading import load
from openmplug.inference.model import Model

JOURNAL = "asked.journal"
BATCH_SIZE = 32

Progress = Callable[[Iterable[int], int], Iterator[int]]
"""Wraps the counts of questions as they are answered, given their total; shows how far the run is."""


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """How a judge is run.

    Args:
        model: Folder or file of a model that answers questions.
        output: Folder for the report and the rows.
        device: ``auto`` (None), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: ``auto`` (None), ``fp32``, ``bf16`` or ``fp16``.
        batch_size: Questions worked on at once.
        restart: Throw away the rows that another run, or this one, has left in ``output``.
        progress: See ``Progress``; None shows nothing.
    """

    model: Path
    output: Path
    device: str | None = None
    dtype: str | None = None
    batch_size: int = BATCH_SIZE
    restart: bool = False
    progress: Progress | None = None


def ask_all(
    subjects: Sequence[Subject], options: JudgeOptions, about: Mapping[str, Any], skip_unreadable: bool = False
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Ask every question, going on where a run with the same inputs, model and settings was stopped.

    Args:
        subjects: What is asked about what.
        options: How.
        about: What makes the run this one: benchmark, questions, pictures.
        skip_unreadable: See ``ask``.

    Returns:
        A row per question, in order; and the judge's description for the report.

    Raises:
        UsageError: If the model does not answer questions, or ``output`` holds the rows of another run.
        ModelError: If the folder is no model.
        DataError: If a picture cannot be read and is not to be skipped.
    """
    total = sum(len(subject.questions) for subject in subjects)
    weights = weights_hash(options.model)
    model = load(options.model, options.device, options.dtype, options.batch_size)
    judge = describe_judge(model, weights, options)
    run = {**about, "judge": {name: value for name, value in judge.items() if name not in ("model", "device", "batch_size")}}
    with Journal(options.output / JOURNAL, run, options.restart) as journal:
        counts: Iterable[int] = ask(model, subjects, journal, options.batch_size, skip_unreadable)
        for _ in counts if options.progress is None else options.progress(counts, total):
            pass
        return list(journal.rows()), judge


def describe_judge(model: Model, weights: str, options: JudgeOptions) -> dict[str, Any]:
    """Say which model judged, with which settings."""
    settings = judge_task(model).settings
    return {
        "model": str(options.model),
        "weights_sha256": weights,
        "decoding": "open generation, beam search",
        "num_beams": settings.num_beams,
        "min_length": settings.min_length,
        "max_length": settings.max_length,
        "image_size": model.image.size,
        "precision": model.precision,
        "device": str(model.device),
        "batch_size": options.batch_size,
        "openmplug": __version__,
    }


def weights_hash(path: Path) -> str:
    """Return the SHA-256 of the file that holds a model's weights: in a folder of ours, of a run or of ModelScope's, or the file itself.

    Raises:
        ModelError: If there is no weights file.
    """
    return file_hash(find_checkpoint(find_folder(path)).file)


# ---------------------------------------------------------------------------------------------------------------- pictures


def pictures_in(folder: Path) -> dict[str, Path]:
    """List the pictures directly in a folder by stem, the part of the name before its first dot.

    Raises:
        DataError: If the folder is missing or holds no picture, or two pictures have the same stem.
    """
    if not folder.is_dir():
        raise DataError(f"picture folder '{folder}' does not exist; give the folder of generated pictures with --images")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in PICTURE_SUFFIXES or not path.is_file():
            continue
        stem = path.name.split(".")[0]
        if stem in found:
            raise DataError(f"'{folder}' has two pictures for item '{stem}', {found[stem].name} and {path.name}; remove one")
        found[stem] = path
    if not found:
        raise DataError(f"folder '{folder}' holds no pictures (looked for {', '.join(sorted(PICTURE_SUFFIXES))})")
    return found


def picture_size(path: Path) -> tuple[int, int] | None:
    """Read a picture's width and height from its header; None where that cannot be read, which is told when the picture is opened."""
    try:
        with Image.open(path) as picture:
            return picture.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


class PictureReader:
    """Reads pictures and remembers the last one, so that a grid is decoded once for all its tiles."""

    def __init__(self) -> None:
        self._last: tuple[Path, Image.Image] | None = None

    def __call__(self, path: Path) -> Image.Image:
        """Decode a picture to RGB.

        Raises:
            DataError: If it cannot be read.
        """
        if self._last is None or self._last[0] != path:
            try:
                data = path.read_bytes()
            except OSError as error:
                raise DataError(f"image '{path}' cannot be read: {error.strerror or error}") from None
            self._last = (path, decode_image(data, str(path)))
        return self._last[1]


def fingerprint(paths: Iterable[Path]) -> str:
    """Return a hash of pictures' names, sizes and times, by which a resumed run knows that they are still the same.

    Raises:
        DataError: If one of them is not there.
    """
    described = []
    for path in paths:
        try:
            state = path.stat()
        except OSError as error:
            raise DataError(f"image '{path}' cannot be read: {error.strerror or error}") from None
        described.append([path.name, state.st_size, state.st_mtime_ns])
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def need_inputs(images: Path | None, answers: Path | None, options: JudgeOptions | None) -> None:
    """Refuse a call that names no way to the answers, or two.

    Raises:
        UsageError: Unless there are either answers, or pictures and a judge.
    """
    if (images is None) == (answers is None):
        raise UsageError("give either --images with --model and --output, or --answers of an earlier judge")
    if images is not None and options is None:
        raise UsageError("--images needs a judge and a place for its report; give --model DIR and --output DIR")
