"""The files that a record has in a tar shard, read and verified by worker processes, in the order of the records."""

from __future__ import annotations

import io
import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from openmplug.batch import Failure, Sample
from openmplug.data.images import ImageSource, decode_image
from openmplug.data.shard_index import ANIMATION
from openmplug.data.video import open_clip
from openmplug.data.workers import from_workers, start_worker
from openmplug.errors import DataError, OpenmplugError

CHUNK = 16
"""Records that a worker reads at a time; of each worker at most two such chunks wait to be written."""

Packed = list[tuple[str, bytes]]
"""Suffix and content of each file of a record."""


@dataclass(frozen=True)
class Packer(Dataset["Packed | Failure | OpenmplugError"]):
    """Makes the files of single records; picklable, so that workers can be handed it.

    Args:
        samples: The records.
        images: Their pictures and videos.
        resize: Shorter side of larger pictures, px; None keeps the bytes.
        quality: Of the JPEG that a resized picture becomes.
    """

    samples: Sequence[Sample]
    images: ImageSource
    resize: int | None
    quality: int

    def __getitem__(self, number: int) -> Packed | Failure | OpenmplugError:
        """Return the files of a record, or why it has none; raises nothing that a user can cause."""
        sample = self.samples[number]
        try:
            return list(record_files(sample, self.images, self.resize, self.quality))
        except DataError as error:
            return Failure(sample.id, sample.image or "", str(error))
        except OpenmplugError as error:  # raised in a worker, torch would wrap it into a page of text
            return error


def pack(packer: Packer, numbers: Iterable[range], workers: int) -> Generator[Packed | Failure, None, None]:
    """Make the files of records, in their order.

    Args:
        packer: Of the records.
        numbers: Which of them, in ranges.
        workers: Processes that read; 0 reads in this one, with the same result.

    Raises:
        OpenmplugError: What a worker met that is no fault of a record, such as a missing video decoder.
        EnvironmentProblem: If a worker dies.
    """
    for packed in (packer[number] for part in numbers for number in part) if workers == 0 else _in_workers(packer, numbers, workers):
        if isinstance(packed, OpenmplugError):
            raise packed
        yield packed


def _in_workers(packer: Packer, numbers: Iterable[range], workers: int) -> Iterator[Packed | Failure | OpenmplugError]:
    loader: DataLoader[Any] = DataLoader(
        packer,
        batch_sampler=(list(part[first : first + CHUNK]) for part in numbers for first in range(0, len(part), CHUNK)),
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # without one a number would be drawn from torch's global state
    )
    for chunk in from_workers(loader, "lower --workers"):
        yield from chunk


def record_files(sample: Sample, images: ImageSource, resize: int | None, quality: int) -> Iterator[tuple[str, bytes]]:
    """Return a record's files: suffix and content.

    Args:
        sample: A picture or video with captions, or words alone.
        images: Where the picture or video lies.
        resize: Shorter side of larger pictures, px; None keeps the bytes.
        quality: Of the JPEG that a resized picture becomes.

    Raises:
        DataError: If its picture or video cannot be read, or it has no words.
    """
    texts = list(sample.targets) if sample.image is not None else [sample.text or " ".join(sample.targets)]
    if sample.text and sample.image is not None:
        texts = [sample.text]
    if not any(text.strip() for text in texts):
        raise DataError(f"record '{sample.id}' has no caption and no text")
    facts: dict[str, Any] = {"id": sample.id}
    if sample.image is not None:
        if sample.further_images:
            raise DataError(f"record '{sample.id}' is about {len(sample.pictures)} pictures; a sample of a shard has one")
        suffix, data, (width, height) = _clip(sample.image, images) if sample.clip else _picture(sample.image, images, resize, quality)
        yield suffix, data
        facts |= {"image": sample.image, "width": width, "height": height, "caption": texts[0], "captions": texts}
    yield "json", json.dumps(facts, ensure_ascii=False).encode()
    yield "txt", texts[0].encode()


def _picture(name: str, images: ImageSource, resize: int | None, quality: int) -> tuple[str, bytes, tuple[int, int]]:
    data = images.read(name)
    picture = decode_image(data, name)  # all of it: what cannot be read is found here, not in a training run
    suffix = PurePosixPath(name).suffix.lower().lstrip(".")
    if resize is None or min(picture.size) <= resize:
        return suffix, data, picture.size
    scale = resize / min(picture.size)
    width, height = (max(resize, round(side * scale)) for side in picture.size)
    buffer = io.BytesIO()
    picture.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=quality)
    return "jpg", buffer.getvalue(), (width, height)


def _clip(name: str, images: ImageSource) -> tuple[str, bytes, tuple[int, int]]:
    place = images.locate(name)
    if images.members(name) or (place is not None and place.is_dir()):
        raise DataError(f"video '{name}' is a folder of frames; a sample of a shard is one file: encode it first")
    with open_clip(images, name) as video:
        height, width = video.read([0]).shape[1:3]
    suffix = PurePosixPath(name).suffix.lower().lstrip(".")
    return ANIMATION if suffix == "gif" else suffix, images.read(name), (width, height)
