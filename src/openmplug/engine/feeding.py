"""The micro-batches of an epoch as they come to the training loop: every process its part, all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from openmplug import distributed
from openmplug.batch import Batch, Failure
from openmplug.engine.guards import FailureCount
from openmplug.engine.resume import kept_random_state

Batches = Callable[[int, int], Iterable[Batch]]
"""``batches(epoch, start)``: the micro-batches of an epoch from number ``start`` on; of several processes, this one's parts."""


def stream(batches: Batches, epoch: int, start: int) -> Iterator[Batch]:
    """Give the micro-batches of an epoch from number ``start`` on, without touching the random generators.

    What a loader raises on one process all of them raise.
    """
    with kept_random_state(), distributed.agreed():
        iterator = iter(batches(epoch, start))
        batch = next(iterator, None)
    while batch is not None:
        yield batch
        with distributed.agreed():
            batch = next(iterator, None)


def grouped(batches: Iterator[Batch], size: Callable[[], int], look: Callable[[list[Batch]], None]) -> Iterator[Batch]:
    """Hand micro-batches on, showing those of each optimizer step to ``look`` first; ``size()`` says how many the next step has."""
    while group := list(islice(batches, size())):
        sizes = [distributed.everyone([len(batch)]) for batch in group]
        look([batch for batch, of_all in zip(group, sizes, strict=True) if all(count for (count,) in of_all)])
        yield from group


def count_batch(batch: Batch, count: FailureCount) -> tuple[list[int], list[Failure]]:
    """Count what could be read of a micro-batch and what could not, on all processes.

    Returns:
        How many samples each process has, nothing if one of them has none: all pass the micro-batch over then; and the failures of all.

    Raises:
        DataError: As ``FailureCount.note``.
    """
    numbers = distributed.everyone([len(batch), len(batch.failures)])
    counts, failed = ([int(number) for number in column] for column in zip(*numbers, strict=True))
    failures: list[Failure] = []
    if any(failed):
        failures = [failure for some in distributed.gather_objects(batch.failures) for failure in some]
    with distributed.alike():
        count.count(sum(counts) + sum(failed), failures)
    return (counts if all(counts) else []), failures
