"""From a split to batches: the data set that decodes, the order of an epoch, the loader.

What a training step sees is a function of (seed, epoch, position): the order comes from (seed, epoch), and each picture's
augmentation from a generator seeded by (seed, epoch, index). Workers change the speed, never the data, and the global random state
of torch, numpy and Python is neither read nor advanced.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from openmplug.batch import Batch, Failure, Item, Sample
from openmplug.data.clips import ClipTransform
from openmplug.data.images import ImageSource
from openmplug.data.mixing import MixtureSampler, permutation
from openmplug.data.sources import MixedExamples
from openmplug.data.transforms import TrainTransform
from openmplug.data.video import open_clip
from openmplug.errors import DataError, EnvironmentProblem, OpenmplugError, UsageError

Key = tuple[int, int]  # (epoch, index)


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


class EpochSampler(Sampler[list[Key]]):
    """Batches of (epoch, index) keys of one epoch; the order is a function of (seed, epoch).

    Several processes share each batch of ``batch_size * world_size`` examples: each yields its own part, and together they see what one
    process with batches of that size would.

    Args:
        size: Number of examples.
        batch_size: Examples per batch and process, >= 1.
        seed: Of the order.
        shuffle: False keeps the order of the examples.
        drop_last: Leave out a last batch that is not full.
        epoch: The epoch to begin with; ``set_epoch`` moves on.
        start_batch: Leave out this many batches of the first epoch iterated, to resume in its middle.
        groups: A group for each example; a batch holds examples of one group, and batches of all groups come in random order.
        rank: Number of this process, from 0.
        world_size: Number of processes.

    Raises:
        UsageError: If a batch would have no example, or there are fewer examples than processes.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        epoch: int = 0,
        start_batch: int = 0,
        groups: Sequence[str] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch size is {batch_size}; expected at least 1")
        fewest = min(Counter(groups).values(), default=size) if groups else size
        if world_size > 1 and fewest < world_size:
            raise UsageError(f"{fewest} examples{' of one kind' if groups else ''} for {world_size} processes; start fewer processes")
        self.size = size
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.epoch = epoch
        self.start_batch = start_batch
        self.groups = None if groups is None or len(set(groups)) < 2 else list(groups)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch that the next iteration yields, from batch number ``start_batch`` on."""
        self.epoch, self.start_batch = epoch, start_batch

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a whole epoch, wherever this one starts."""
        sizes = [self.size] if self.groups is None else Counter(self.groups).values()
        return sum(self._batches(size) for size in sizes)

    def _batches(self, size: int) -> int:
        """Count the batches of so many examples; of a group that fills none, its only one is kept."""
        shared = self.batch_size * self.world_size
        whole = self.drop_last and (self.groups is None or size >= shared)
        if whole or 0 < size % shared < self.world_size:  # a rest that cannot give every process an example is left out
            return size // shared
        return -(-size // shared)

    def __len__(self) -> int:
        """Count the batches that the next iteration yields."""
        return max(0, self.batches_per_epoch - self.start_batch)

    def order(self) -> Tensor:
        """Return the indices in the order of this epoch."""
        return permutation(self.size, f"order/{self.seed}/{self.epoch}") if self.shuffle else torch.arange(self.size)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, shared = self.epoch, self.batch_size * self.world_size
        parts = self._in_groups(self.order())
        # (part, number of a batch in it): those of several groups follow each other in an order of (seed, epoch) too
        batches = [(part, number) for part, members in enumerate(parts) for number in range(self._batches(len(members)))]
        if self.shuffle and self.groups is not None:
            random.Random(f"batches/{self.seed}/{epoch}").shuffle(batches)
        for part, number in batches[self.start_batch :]:
            batch = parts[part][number * shared : (number + 1) * shared].tolist()
            low, high = (len(batch) * rank // self.world_size for rank in (self.rank, self.rank + 1))
            yield [(epoch, index) for index in batch[low:high]]

    def _in_groups(self, order: Tensor) -> list[Tensor]:
        """Part the order of an epoch into that of each group."""
        if self.groups is None:
            return [order]
        names = sorted(set(self.groups))
        numbers = {name: number for number, name in enumerate(names)}
        group = torch.tensor([numbers[name] for name in self.groups], dtype=torch.int16)[order]
        return [order[group == number] for number in range(len(names))]


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


def start_worker(_: int) -> None:
    """Prepare a worker process: one thread each, as the processes are the parallelism."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends its workers


def from_workers(loader: DataLoader[Any], advice: str) -> Iterator[Any]:
    """Iterate a loader; a worker that dies is one line that says what to do.

    Args:
        loader: With workers.
        advice: What the user can do, such as "lower the batch size".

    Raises:
        EnvironmentProblem: If a worker dies.
    """
    try:
        yield from iter(loader)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or isinstance(error, OpenmplugError):
            raise
        raise EnvironmentProblem(f"a data worker died ({str(error).splitlines()[0]}), often for lack of memory; {advice}") from error


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
