"""The order in which an epoch draws from several sources.

Every batch is of one kind: pictures, clips or words alone. Within a kind its sources share each batch by their weights. A source is
passed through again and again, each time in another order: its shards are shuffled, and samples are shuffled within windows of
``WINDOW_SHARDS`` of them, so that reading stays local and what an order takes in memory does not grow with the source. Passes go on from
one epoch to the next, so no sample is seen twice before all have been seen.

What a batch holds is a function of (seed, epoch, position), for any number of processes: batches are global, and a process takes its
part of each. It is computed from these three alone: no order of a whole epoch is ever laid out, and beginning anywhere costs nothing.
"""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler

from openmplug.data.sources import MixedExamples
from openmplug.errors import UsageError

WINDOW_SHARDS = 8

_BLOCK_PLACES = 1 << 18
"""So many places of a kind's batches, or a little less, are shared out among its sources at once."""


class PassOrder:
    """The order of one component: position -> (pass, index), for any position, with one window of shards in memory.

    Args:
        sizes: Examples of each shard, together at least one.
        name: Part of the seed, besides the seed.
        window: Shards that are shuffled together.
        run: Examples that follow each other in a shard and stay together, so that one request reads them.
    """

    def __init__(self, sizes: Sequence[int], name: str, window: int = WINDOW_SHARDS, run: int = 1) -> None:
        self.sizes = list(sizes)
        self.total = sum(sizes)
        self._starts = [0, *accumulate(sizes)][:-1]
        self._name = name
        self._window = window
        self._run = run
        self._plans: OrderedDict[int, tuple[list[int], list[int]]] = OrderedDict()  # pass -> (shards in order, ends of windows)
        self._opened: OrderedDict[tuple[int, int], Tensor] = OrderedDict()  # (pass, window) -> indices in order

    def __getitem__(self, position: int) -> tuple[int, int]:
        passed, rest = divmod(position, self.total)
        shards, ends = self._plan(passed)
        window = bisect_right(ends, rest)
        before = ends[window - 1] if window else 0
        return passed, int(self._indices(passed, window, shards)[rest - before])

    def _plan(self, passed: int) -> tuple[list[int], list[int]]:
        if passed not in self._plans:
            shards = permutation(len(self.sizes), f"shards/{self._name}/{passed}").tolist()
            sums = list(accumulate(self.sizes[shard] for shard in shards))
            self._plans[passed] = (shards, [*sums[self._window - 1 : -1 : self._window], sums[-1]])
            _keep(self._plans, 2)
        return self._plans[passed]

    def _indices(self, passed: int, window: int, shards: list[int]) -> Tensor:
        place = (passed, window)
        if place not in self._opened:
            chosen = shards[window * self._window : (window + 1) * self._window]
            inside = torch.cat([torch.arange(self._starts[shard], self._starts[shard] + self.sizes[shard]) for shard in chosen])
            seed = f"window/{self._name}/{passed}/{window}"
            self._opened[place] = inside[permutation(len(inside), seed)] if self._run == 1 else self._in_runs(chosen, seed)
            _keep(self._opened, 2)
        return self._opened[place]

    def _in_runs(self, chosen: list[int], seed: str) -> Tensor:
        """Return the indices of some shards cut into runs, the runs shuffled."""
        runs = [
            (self._starts[shard] + first, min(self._run, self.sizes[shard] - first))
            for shard in chosen
            for first in range(0, self.sizes[shard], self._run)
        ]
        order = permutation(len(runs), seed).tolist()
        return torch.cat([torch.arange(first, first + length) for first, length in (runs[number] for number in order)])


def _keep(kept: OrderedDict[Any, Any], most: int) -> None:
    while len(kept) > most:
        kept.popitem(last=False)


def permutation(size: int, seed: str) -> Tensor:
    """Return 0 .. size - 1 in an order that a text chooses, the same in every process."""
    digest = hashlib.sha256(seed.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    return torch.randperm(size, generator=generator)


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """Divide a number by weights, largest rest first.

    Example:
        >>> shares(10, [1, 1, 1]), shares(7, [0.5, 0.25, 0.25])
        ([4, 3, 3], [3, 2, 2])
    """
    exact = [total * weight / sum(weights) for weight in weights]
    parts = [int(each) for each in exact]
    rests = sorted(range(len(parts)), key=lambda number: (parts[number] - exact[number], number))
    for number in rests[: total - sum(parts)]:
        parts[number] += 1
    return parts


class _Block(NamedTuple):
    """Some batches of a kind: which member each of their places is for, and how many of each member the blocks before have."""

    places: Tensor
    before: list[int]


class PlaceOrder:
    """Which member of a kind each place of its batches is for, for any batch, with one block of batches in memory.

    Every block has its members in proportion to what is left of them; within a block their places are shuffled.

    Args:
        batches: Of the kind in an epoch.
        size: Places of a batch.
        weights: Of the members.
        most: Places of a block, a batch at least.
    """

    def __init__(self, batches: int, size: int, weights: Sequence[float], most: int = _BLOCK_PLACES) -> None:
        self.size = size
        self.counts = shares(batches * size, weights)
        self._batches = max(1, most // size)  # of a block
        left, self._parts, self._before = self.counts, [], []
        for first in range(0, batches, self._batches):
            part = shares(min(self._batches, batches - first) * size, left)
            self._before.append([count - rest for count, rest in zip(self.counts, left, strict=True)])
            self._parts.append(part)
            left = [rest - own for rest, own in zip(left, part, strict=True)]
        self._opened: tuple[str, int, _Block] | None = None

    def batch(self, number: int, seed: str) -> tuple[list[int], list[int]]:
        """Return the member of each place of a batch, and how many of each member the batches before it have."""
        block, inside = divmod(number, self._batches)
        if self._opened is None or self._opened[:2] != (seed, block):
            part = torch.tensor(self._parts[block])
            members = torch.arange(len(part), dtype=torch.int16).repeat_interleave(part)
            self._opened = seed, block, _Block(members[permutation(len(members), f"{seed}/{block}")], self._before[block])
        places, before = self._opened[2]
        here = places[inside * self.size : (inside + 1) * self.size]
        earlier = torch.bincount(places[: inside * self.size], minlength=len(before)).tolist()
        return here.tolist(), [one + other for one, other in zip(before, earlier, strict=True)]


class MixtureSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (pass, index) keys of an epoch; what each holds is a function of (seed, epoch, position).

    An epoch has as many examples as all sources together, or as many as are asked for. Each batch is full, of one kind, and divided
    among the processes as ``EpochSampler`` does it.

    Args:
        examples: What is drawn from.
        batch_size: Examples of one process's part of a batch, >= 1.
        seed: Of the order.
        epoch: The epoch to begin with.
        start_batch: Leave out this many batches of the first epoch iterated.
        rank: Number of this process, from 0.
        world_size: Number of processes.
        window: Shards that are shuffled together.
        together: So many batches in a row have the kinds by their shares, as even as whole batches allow; 1 draws each by itself.
        epoch_examples: Of an epoch, rounded down to whole batches, one of each kind at least; None takes as many as there are.

    Raises:
        UsageError: If a batch would have no example.
    """

    def __init__(
        self,
        examples: MixedExamples,
        batch_size: int,
        seed: int = 0,
        epoch: int = 0,
        start_batch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        window: int = WINDOW_SHARDS,
        together: int = 1,
        epoch_examples: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch size is {batch_size}; expected at least 1")
        self.size = epoch_examples or len(examples)
        self.batch_size, self.seed = batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch, self.start_batch, self.together = epoch, start_batch, together
        components = examples.components
        self._starts = examples.starts
        self._orders = [
            PassOrder(component.sizes, f"{seed}/{component.source}/{component.kind}", window, component.run) for component in components
        ]
        kinds = list(dict.fromkeys(component.kind for component in components))
        self._members = {kind: [number for number, each in enumerate(components) if each.kind == kind] for kind in kinds}
        weights = {kind: [components[number].weight for number in self._members[kind]] for kind in kinds}
        counts = shares(self.size // self.global_batch, [sum(weights[kind]) for kind in kinds])
        counts = [max(1, count) for count in counts]  # however small its weight: what was asked for is never left out
        self._batches = dict(zip(kinds, counts, strict=True))
        self._places = {kind: PlaceOrder(self._batches[kind], self.global_batch, weights[kind]) for kind in kinds}

    @property
    def global_batch(self) -> int:
        """Examples of a batch of all processes."""
        return self.batch_size * self.world_size

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a whole epoch, wherever this one starts."""
        return sum(self._batches.values())

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch that the next iteration yields, from batch number ``start_batch`` on."""
        self.epoch, self.start_batch = epoch, start_batch

    def __len__(self) -> int:
        """Count the batches that the next iteration yields."""
        return max(0, self.batches_per_epoch - self.start_batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, start = self.epoch, self.start_batch
        order = self._kinds(epoch)
        done = {kind: order[:start].count(kind) for kind in self._batches}
        low, high = (self.global_batch * part // self.world_size for part in (self.rank, self.rank + 1))
        for kind in order[start:]:
            places, before = self._places[kind].batch(done[kind], f"places/{self.seed}/{epoch}/{kind}")
            done[kind] += 1
            # Passes go on where the epoch before left them.
            taken = [epoch * whole + part for whole, part in zip(self._places[kind].counts, before, strict=True)]
            keys = []
            for place, member in enumerate(places):
                if low <= place < high:
                    keys.append(self._key(self._members[kind][member], taken[member]))
                taken[member] += 1
            yield keys

    def _kinds(self, epoch: int) -> list[str]:
        """Return the kind of every batch of the epoch."""
        rng = random.Random(f"batches/{self.seed}/{epoch}")
        if self.together == 1:
            order = [kind for kind, count in self._batches.items() for _ in range(count)]
            rng.shuffle(order)
            return order
        # Each kind's batches at even distances from a random start, then the batches of each group in random order.
        places = []
        for kind, count in self._batches.items():
            start = rng.random()
            places += [((number + start) / count, kind) for number in range(count)]
        order = [kind for _, kind in sorted(places)]
        groups = [order[first : first + self.together] for first in range(0, len(order), self.together)]
        for group in groups:
            rng.shuffle(group)
        return [kind for group in groups for kind in group]

    def _key(self, number: int, position: int) -> tuple[int, int]:
        passed, index = self._orders[number][position]
        return passed, self._starts[number] + index
