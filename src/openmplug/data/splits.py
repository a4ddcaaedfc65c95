"""From settings to the records of a split: which reader and folder, several splits as one, the blind control.

Reading a split opens no picture: it finds them, and they are decoded later, when a batch needs them (``openmplug.data.loading``).
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from openmplug.batch import Sample
from openmplug.config import Settings
from openmplug.data.images import ImageSource, open_images
from openmplug.data.readers import READERS, Split
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
        shuffle_images: Give every record the picture of another one: the blind control, which shows what the words alone reach.
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


def join_splits(splits: Sequence[Split]) -> Split:
    """Put several splits behind each other; ids and pictures of more than one are prefixed with ``{split}/``.

    Equal picture names in two splits are two pictures: ``image_index`` is renumbered so that splits do not overlap.
    """
    if len(splits) == 1:
        return splits[0]
    samples: list[Sample] = []
    first = 0
    for split in splits:
        for sample in split.samples:
            samples.append(
                replace(
                    sample,
                    id=f"{split.name}/{sample.id}",
                    image=None if sample.image is None else f"{split.name}/{sample.image}",
                    image_index=sample.image_index + first if sample.image_index >= 0 else -1,
                )
            )
        first += 1 + max((sample.image_index for sample in split.samples), default=-1)
    return Split("+".join(split.name for split in splits), samples, JoinedImages({split.name: split.images for split in splits}))


class JoinedImages(ImageSource):
    """Several sources behind one: the name's part before the first slash chooses."""

    def __init__(self, sources: Mapping[str, ImageSource]) -> None:
        self.sources = dict(sources)
        self.description = " and ".join(source.description for source in self.sources.values())

    def names(self) -> list[str]:
        """List all pictures, prefixed."""
        return sorted(f"{prefix}/{name}" for prefix, source in self.sources.items() for name in source.names())

    def read(self, name: str) -> bytes:
        """Return one picture's bytes."""
        prefix, _, rest = name.partition("/")
        if prefix not in self.sources:
            raise DataError(f"image '{name}' not found: its first part must be one of {', '.join(self.sources)}")
        return self.sources[prefix].read(rest)

    def locate(self, name: str) -> Path | None:
        """Return where one lies as a file of its own."""
        prefix, _, rest = name.partition("/")
        return self.sources[prefix].locate(rest) if prefix in self.sources else None

    def members(self, name: str) -> list[str]:
        """Return the pictures of a folder of frames in an archive, prefixed."""
        prefix, _, rest = name.partition("/")
        return [f"{prefix}/{each}" for each in self.sources[prefix].members(rest)] if prefix in self.sources else []

    def __contains__(self, name: object) -> bool:
        """Say whether the picture is there."""
        prefix, _, rest = str(name).partition("/")
        return prefix in self.sources and rest in self.sources[prefix]


def shuffle_images(samples: Sequence[Sample], seed: int = 0) -> list[Sample]:
    """Give each record another picture, in a fixed way: the blind control.

    Pictures are permuted without fixed point, so records of one picture share another one. Words and ``image_index`` stay.

    Args:
        samples: Records of one split.
        seed: Chooses the permutation.

    Raises:
        DataError: If there are fewer than two different pictures.
    """
    names = sorted({sample.image for sample in samples if sample.image is not None})
    if len(names) < 2:
        raise DataError(f"shuffle_images needs at least two different pictures, got {len(names)}; raise data.limit or leave it out")
    random.Random(f"shuffle_images/{seed}").shuffle(names)
    following = dict(zip(names, names[1:] + names[:1], strict=True))  # one cycle through all: no picture stays
    return [replace(sample, image=None if sample.image is None else following[sample.image]) for sample in samples]
