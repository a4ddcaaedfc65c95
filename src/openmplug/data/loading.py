"""From a split to batches: the data set that decodes, and the loader.

What a training step sees is a function of (seed, epoch, position): the order comes from (seed, epoch), and each picture's
augmentation from a generator seeded by (seed, epoch, index). Workers change the speed, never the data, and the global random state
of torch, numpy and Python is neither read nor advanced.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from openmplug.batch import Batch, Failure, Item, Sample
from openmplug.data.clips import ClipTransform
from openmplug.data.epochs import EpochSampler, Key
from openmplug.data.images import ImageSource
from openmplug.data.mixing import MixtureSampler
from openmplug.data.sources import MixedExamples
from openmplug.data.transforms import TrainTransform
from openmplug.data.video import open_clip
from openmplug.data.workers import from_workers, start_worker
from openmplug.errors import DataError, OpenmplugError, UsageError


class ImageTransform(Protocol):
    """What ``TrainTransform`` and ``EvalTransform`` are: picture and generator in, (C, H, W) float32 out."""

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        """Transform one RGB picture."""
        ...


class SampleTransform(Protocol):
    """Words and pixels that must change together: record, its RGB picture and generator in, item out."""

    def __call__(self, sample: Sample, image: Image.Image, rng: random.Random) -> Item:
        """Transform one record and its picture."""
        ...


class ImageTextDataset(Dataset[Item]):
    """Examples whose picture or video is decoded and transformed when asked for.

    Args:
        examples: What a task made of a split's records, or what is drawn from several sources: then an epoch is a pass through one.
        images: The split's pictures and videos.
        transform: From picture to tensor.
        clip: From video to tensor; needed where a record is about one.
        together: From record and picture to item, in the place of ``transform``, for tasks whose words and pixels change together.
        seed: Of the augmentation.
        on_error: The policy for unreadable pictures, kept here for the loader's consumer.
    """

    def __init__(
        self,
        examples: Sequence[Sample] | MixedExamples,
        images: ImageSource,
        transform: ImageTransform,
        seed: int = 0,
        on_error: str = "error",
        clip: ClipTransform | None = None,
        together: SampleTransform | None = None,
    ) -> None:
        self.examples = examples if isinstance(examples, MixedExamples) else list(examples)
        self.images = images
        self.transform = transform
        self.clip = clip
        self.together = together
        self.seed = seed
        self.on_error = on_error

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, key: Key) -> Item:
        """Return an example with the pixels of its pictures; an unreadable one gives an item with ``failure`` set, never an exception."""
        epoch, index = key
        if isinstance(self.examples, MixedExamples):
            try:
                sample = self.examples.example(key)
            except DataError as error:
                place = self.examples.place(index)
                return Item(place, failure=Failure(place.id, place.id, str(error), place.source))
        else:
            sample = self.examples[index]
        if sample.image is None:
            return Item(sample)
        # A string seed is hashed with SHA-512: the same numbers in every process, unlike hash().
        rng = random.Random(f"{self.seed}/{epoch}/{index}")
        try:
            if not sample.clip:
                if self.together is not None:
                    return self.together(sample, self.images.open(sample.image), rng)
                return self._pictures(sample, rng)
            if self.clip is None:
                raise UsageError(f"record '{sample.id}' is about a video, and this data set was built for pictures")
            with open_clip(self.images, sample.image) as video:
                return Item(sample, self.clip(video, rng))
        except DataError as error:
            return Item(sample, failure=Failure(sample.id, sample.image, str(error), sample.source))

    def _pictures(self, sample: Sample, rng: random.Random) -> Item:
        """Decode and transform all pictures of a record, one after the other; of several that cannot be read the first is the failure."""
        pixels = []
        for name in sample.pictures:
            try:
                if isinstance(self.transform, TrainTransform):  # it decodes no more than it needs
                    pixels.append(self.transform.read(self.images.read(name), name, rng))
                else:
                    pixels.append(self.transform(self.images.open(name), rng))
            except DataError as error:
                return Item(sample, failure=Failure(sample.id, name, str(error), sample.source))
        return Item(sample, pixels[0], further_pixels=tuple(pixels[1:]))


class _Collate:
    """Runs in the loader's worker: leaves failed items out and hands errors over as values, so their one line survives."""

    def __init__(self, collator: Callable[[list[Item]], Batch]) -> None:
        self.collator = collator

    def __call__(self, items: list[Item]) -> Batch | OpenmplugError:
        good = [item for item in items if item.failure is None]
        failures = tuple(item.failure for item in items if item.failure is not None)
        if not good:
            return Batch([], failures=failures)
        try:
            batch = self.collator(good)
        except OpenmplugError as error:  # raised in a worker, torch would wrap it into a page of text
            return error
        return replace(batch, failures=batch.failures + failures) if failures else batch


class BatchLoader:
    """Batches of a data set in a sampler's order; made by ``build_loader``. Each iteration asks the sampler anew."""

    def __init__(
        self, dataset: ImageTextDataset, sampler: EpochSampler | MixtureSampler, collator: Callable[[list[Item]], Batch], workers: int = 0
    ) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self._collate = _Collate(collator)
        self._loader: DataLoader[Any] | None = None
        if workers > 0:
            # The tokenizers library warns on every fork unless this is decided; workers are the parallelism here.
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            self._loader = DataLoader(
                dataset,
                batch_sampler=sampler,
                num_workers=workers,
                collate_fn=self._collate,
                worker_init_fn=start_worker,
                persistent_workers=True,
                # An own generator: without one every epoch would draw a number from torch's global state.
                generator=torch.Generator().manual_seed(dataset.seed),
            )

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._in_workers() if self._loader is not None else self._in_process():
            if isinstance(batch, OpenmplugError):
                try:
                    raise batch
                finally:
                    del batch  # error -> traceback -> this frame -> error: the circle would keep the workers alive
            yield batch

    def _in_process(self) -> Iterator[Batch | OpenmplugError]:
        for keys in self.sampler:
            yield self._collate([self.dataset[key] for key in keys])

    def _in_workers(self) -> Iterator[Batch | OpenmplugError]:
        assert self._loader is not None
        return from_workers(self._loader, "lower data.workers or the batch size")


def build_loader(
    dataset: ImageTextDataset, sampler: EpochSampler | MixtureSampler, collator: Callable[[list[Item]], Batch], workers: int = 0
) -> BatchLoader:
    """Build the loader of one data set.

    Items whose picture cannot be read are left out and listed in ``Batch.failures``; a batch of failures only has no samples.

    Args:
        dataset: Examples and their pictures.
        sampler: Order and batches.
        collator: The task's; it gets items with pixels only.
        workers: Processes that decode; 0 decodes in this one, with the same result.
    """
    return BatchLoader(dataset, sampler, collator, workers)
