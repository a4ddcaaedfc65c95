"""From settings to the records of a split: which reader and folder, several splits as one, the blind control.

Reading a split opens no picture: it finds them, and they are decoded later, when a batch needs them (``openmplug.data.loading``).
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from openmplug.batch import Sample
from openmplug.config import Settings
from openmplug.data.images import open_images
from openmplug.data.readers import READERS, Split
from openmplug.data.readers.joined import join_splits
from openmplug.data.readers.video_questions import read_answers
from openmplug.errors import DataError, UsageError


class FurtherData(Settings):
    """A data set that is trained on together with the first one; fields as in ``DataSettings``."""

    reader: str = "jsonl"
    root: Path
    train: list[str] = Field(default=["train"], min_length=1)
    columns: dict[str, str | None] = Field(default_factory=dict)
    images: str | None = None
    limit: int | None = Field(None, ge=1)


class DataSettings(Settings):
    """Which data a run reads.

    Args:
        reader: Format of the annotation files, a key of ``openmplug.data.readers.READERS``.
        root: Folder of the data set.
        train: Splits to train on, joined in this order.
        evaluate: Split to validate and evaluate on.
        columns: For your own data: role -> name of the column, such as ``{question: q, answer: a}``.
        images: Where the pictures lie (folder, tar or zip, relative to ``root``), if not where the format puts them.
        answers: File of candidate answers, relative to ``root``, for question answering by ranking (``settings.inference=rank``): a JSON
            list, a JSON object whose keys they are, or one per line.
        workers: Processes that decode pictures; 0 decodes in the main process.
        on_error: ``error`` stops at the first picture that cannot be read; ``skip`` counts and leaves it out.
        shuffle_images: Give every record the pictures of another one: the blind control, which shows what the words alone reach.
        limit: Keep the first this many records of each split; None keeps all.
        further: More data sets to train on together with this one. A batch is of words alone, of pictures or of clips; batches of all
            kinds come in random order, each kind as often as it has batches.
    """

    reader: str = "jsonl"
    root: Path | None = None
    train: list[str] = Field(default=["train"], min_length=1)
    evaluate: str = "dev"
    columns: dict[str, str | None] = Field(default_factory=dict)
    images: str | None = None
    answers: str | None = None
    workers: int = Field(0, ge=0)
    on_error: Literal["error", "skip"] = "error"
    shuffle_images: bool = False
    limit: int | None = Field(None, ge=1)
    further: list[FurtherData] = Field(default_factory=list)


def read_split(settings: DataSettings, split: str) -> Split:
    """Read the records of one split and find its pictures; none is opened.

    Raises:
        UsageError: If no ``root`` is set or the reader is unknown.
        DataError: If the folder or a file is missing, or a record is not in the reader's format.
    """
    if settings.root is None:
        raise UsageError("data.root is not set; give the folder of the data set: data.root=DIR")
    reader = READERS.get(settings.reader)
    if reader is None:
        near = difflib.get_close_matches(settings.reader, READERS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(READERS)}"
        raise UsageError(f"unknown reader '{settings.reader}' in data.reader; {hint}")
    root = settings.root.expanduser()
    if not root.is_dir():
        raise DataError(f"data.root {root} {'is not a folder' if root.exists() else 'does not exist'}; expected the folder of the data set")
    result = reader(root, split, settings.columns)
    if settings.images is not None:
        result = replace(result, images=open_images(root, split, folder=settings.images))
    if settings.limit is not None:
        result = replace(result, samples=result.samples[: settings.limit])
    return replace(result, samples=shuffle_images(result.samples)) if settings.shuffle_images else result


def read_candidates(settings: DataSettings) -> dict[str, tuple[str, ...]]:
    """Return the task setting that ``data.answers`` stands for: ``{"answers": ...}``, or nothing where it is not set.

    Raises:
        UsageError: If no ``root`` is set.
        DataError: If the file is missing or not a list of answers.
    """
    if settings.answers is None:
        return {}
    if settings.root is None:
        raise UsageError("data.root is not set; give the folder of the data set: data.root=DIR")
    return {"answers": read_answers(settings.root.expanduser() / settings.answers)}


def read_training(settings: DataSettings) -> Split:
    """Read all training splits as one, those of further data sets too; see ``read_split`` and ``join_splits``."""
    splits = [read_split(settings, name) for name in settings.train]
    for number, further in enumerate(settings.further, start=2):
        own = settings.model_copy(update={"further": [], **{name: getattr(further, name) for name in FurtherData.model_fields}})
        splits += [replace(split, name=f"{split.name}-{number}") for split in (read_split(own, name) for name in further.train)]
    return join_splits(splits)


def shuffle_images(samples: Sequence[Sample], seed: int = 0) -> list[Sample]:
    """Give each record the picture of another one, in a fixed way: the blind control.

    Pictures are permuted without fixed point, so records of one picture share another one. The pictures of a record that has several
    move together and keep their order. Words and ``image_index`` stay.

    Args:
        samples: Records of one split.
        seed: Chooses the permutation.

    Raises:
        DataError: If there are fewer than two different pictures (or groups of them).
    """
    groups = sorted({sample.pictures for sample in samples if sample.pictures})
    if len(groups) < 2:
        raise DataError(f"shuffle_images needs at least two different pictures, got {len(groups)}; raise data.limit or leave it out")
    random.Random(f"shuffle_images/{seed}").shuffle(groups)
    following = dict(zip(groups, groups[1:] + groups[:1], strict=True))  # one cycle through all: no picture stays
    shuffled = []
    for sample in samples:
        first, *rest = following[sample.pictures] if sample.pictures else (None,)
        shuffled.append(replace(sample, image=first, further_images=tuple(rest)))
    return shuffled
