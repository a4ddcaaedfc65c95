"""The order of an epoch of one data set, in batches that processes share.

Several sources drawn by weight have theirs in ``openmplug.data.mixing``.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Sampler

from openmplug.data.mixing import permutation
from openmplug.errors import UsageError

Key = tuple[int, int]  # (epoch, index)


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
