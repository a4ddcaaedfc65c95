"""From settings to the records of a split: which reader and folder, several splits as one, the blind control.

Reading a split opens no picture: it finds them, and they are decoded later, when a batch needs them (``openmplug.data.loading``).
"""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from openmplug.batch import Sample
from openmplug.config import Settings
from openmplug.data.images import open_images
from openmplug.data.readers import READERS, Split
from openmplug.data.readers.joined import JoinedImages, join_splits
from openmplug.data.readers.video_questions import read_answers
from openmplug.data.shard_places import is_remote
from openmplug.data.shards import open_shards
from openmplug.data.sources import Mixture, Source
from openmplug.errors import DataError, UsageError


class _Training(Settings):
    """What is read of a data set that is trained on beside others.

    Args:
        reader: Format of its annotation files, as ``data.reader``.
        train: Splits to train on, joined in this order.
        columns: For your own data: role -> name of the column.
        images: Where its pictures lie, relative to ``root``, if not where the format puts them.
        limit: Keep the first this many records of each split.
    """

    reader: str = "jsonl"
    train: list[str] = Field(default=["train"], min_length=1)
    columns: dict[str, str | None] = Field(default_factory=dict)
    images: str | None = None
    limit: int | None = Field(None, ge=1)


class FurtherData(_Training):
    """A data set that is trained on together with the first one; fields as in ``DataSettings``.

    Args:
        root: Folder of the data set.
    """

    root: Path


class SourceData(_Training):
    """One source of a mixture; fields as in ``DataSettings``, and its weight.

    Args:
        root: Folder of the data set; without one of its own it lies in ``data.root``.
        weight: How often it is drawn against the others.
    """

    root: Path | None = None
    weight: float | None = Field(None, gt=0)


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
        sources: Name -> data set, with a ``weight``: what is trained on, in the place of ``train``, drawn by weight. An epoch has as many
            examples as all together. Without weights each example is as likely as any other. ``null`` leaves out a source that a recipe
            has.
        mixed_steps: Let the micro-batches of an optimizer step (``optim.accumulation``) have the kinds of ``sources`` by their weights. A
            batch is of one kind; without this, steps have kinds as they come.
        epoch_examples: How many examples an epoch of ``sources`` has, whatever they hold.
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
    sources: dict[str, SourceData] = Field(default_factory=dict)
    mixed_steps: bool = False
    epoch_examples: int | None = Field(None, ge=1)

    @field_validator("sources", mode="before")
    @classmethod
    def _left_out(cls, value: object) -> object:
        if not isinstance(value, Mapping) or not value:
            return value
        kept = {name: source for name, source in value.items() if source is not None}
        if not kept:
            raise ValueError("every source is null; keep one")
        return kept

    @model_validator(mode="after")
    def _sources_agree(self) -> DataSettings:
        if self.sources and self.further:
            raise ValueError("sources and further at once; make each further data set a source")
        if wrong := [name for name in self.sources if not re.fullmatch(r"[\w.-]+", name)]:
            raise ValueError(f"source {wrong[0]!r}: expected a name of letters, digits, '_', '-' and '.'")
        weighted = [name for name, source in self.sources.items() if source.weight is not None]
        if weighted and len(weighted) < len(self.sources):
            without = next(name for name in self.sources if name not in weighted)
            raise ValueError(f"source {weighted[0]!r} has a weight and {without!r} has none; give one to every source, or to none")
        return self


def read_split(settings: DataSettings, split: str) -> Split:
    """Read the records of one split and find its pictures; none is opened.

    Raises:
        UsageError: If no ``root`` is set or the reader is unknown.
        DataError: If the folder or a file is missing, or a record is not in the reader's format.
    """
    remote = settings.reader == "shards" and is_remote(split)
    if settings.root is None and not remote:
        raise UsageError("data.root is not set; give the folder of the data set: data.root=DIR")
    reader = READERS.get(settings.reader)
    if reader is None:
        near = difflib.get_close_matches(settings.reader, READERS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(READERS)}"
        raise UsageError(f"unknown reader '{settings.reader}' in data.reader; {hint}")
    root = (settings.root or Path()).expanduser()
    if not root.is_dir() and not remote:
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
    """Read all training splits as one, those of further data sets too; see ``read_split`` and ``join_splits``.

    Sources, and shards even where they are the only data, come as a ``mixture``: what lies in shards is not held in memory.
    """
    if settings.sources:
        return _mixed([_source(settings, name, source) for name, source in settings.sources.items()])
    if settings.reader == "shards" and not settings.further:
        fields = {name: getattr(settings, name) for name in SourceData.model_fields if name != "weight"}
        return _mixed([_source(settings, "shards", SourceData(**fields))])
    if settings.epoch_examples is not None:
        raise UsageError("data.epoch_examples is for shards and data.sources; an epoch of other data is a pass through them")
    splits = [read_split(settings, name) for name in settings.train]
    for number, further in enumerate(settings.further, start=2):
        own = settings.model_copy(update={"further": [], **{name: getattr(further, name) for name in FurtherData.model_fields}})
        splits += [replace(split, name=f"{split.name}-{number}") for split in (read_split(own, name) for name in further.train)]
    return join_splits(splits)


def parts_of(settings: DataSettings) -> list[tuple[str, DataSettings, str]]:
    """List what a run reads: what each part is called, the settings to read it with, and its split.

    These are the training splits, or those of every source, then the split to evaluate on; of sources only where there is a ``root``.
    """
    parts = [(name, settings, name) for name in settings.train]
    if settings.sources:
        owns = [(name, _own(settings, source)) for name, source in settings.sources.items()]
        parts = [(f"{name}/{each}", own, each) for name, own in owns for each in own.train]
    held_out = [(settings.evaluate, settings, settings.evaluate)] if settings.root is not None or not settings.sources else []
    return list({part[0]: part for part in [*parts, *held_out]}.values())


def _own(settings: DataSettings, source: SourceData) -> DataSettings:
    fields = {field: getattr(source, field) for field in SourceData.model_fields if field != "weight"}
    fields["root"] = source.root or settings.root
    return settings.model_copy(update={"sources": {}, "further": [], **fields})


def _source(settings: DataSettings, name: str, source: SourceData) -> Source:
    own = _own(settings, source)
    try:
        if own.reader == "shards" and own.limit is None and not own.shuffle_images:
            read_split(own, own.train[0])  # says what is wrong with data.root
            samples = open_shards(own.root, own.train, own.columns)
            return Source(name, samples, samples.shards, source.weight)
        split = join_splits([read_split(own, each) for each in own.train])
    except (DataError, UsageError) as error:
        raise type(error)(f"source '{name}': {error}") from None
    return Source(name, split.samples, split.images, source.weight)


def _mixed(sources: Sequence[Source]) -> Split:
    mixture = Mixture(sources)
    images = JoinedImages({source.name: source.images for source in sources})
    return Split("+".join(source.name for source in sources), mixture.looked_at(), images, mixture)


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
