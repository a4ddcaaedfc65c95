"""One thread for all models: what many people ask at once is worked on in batches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from openmplug.errors import EnvironmentProblem

Compute = Callable[[Sequence[Any]], Sequence[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    key: Hashable
    compute: Compute
    item: Any
    result: Future[Any] = field(default_factory=Future)


class ModelWorker:
    """Runs models, one batch at a time; any number of threads may ask.

    While a batch is computed, requests gather; those of the same kind as the oldest then make the next batch. Nothing waits on purpose.

    Args:
        batch_size: Most requests in a batch.
        most_waiting: Most requests that wait; beyond it, they are refused.
    """

    def __init__(self, batch_size: int, most_waiting: int = 64) -> None:
        self._batch_size = batch_size
        self._most_waiting = most_waiting
        self._jobs: list[_Job] = []
        self._open = True
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._jobs)

    def run(self, key: Hashable, compute: Compute, item: Any) -> Any:
        """Work on one item and wait for its result.

        Args:
            key: Items of equal keys may share a batch.
            compute: Makes the results of a batch, in order; equal for equal keys.
            item: What to work on.

        Raises:
            EnvironmentProblem: If too many are waiting.
            Exception: What ``compute`` raises for this item.
        """
        job = _Job(key, compute, item)
        with self._changed:
            if len(self._jobs) >= self._most_waiting:
                raise EnvironmentProblem(f"{len(self._jobs)} requests are waiting already; try again in a minute")
            self._jobs.append(job)
            self._changed.notify()
        return job.result.result()

    def close(self) -> None:
        """End the thread once nothing waits."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._take():
            self._compute(batch)

    def _take(self) -> list[_Job]:
        """Wait for a batch; empty when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or not self._open)
            batch = [job for job in self._jobs if job.key == self._jobs[0].key][: self._batch_size]
            self._jobs = [job for job in self._jobs if job not in batch]
            return batch

    def _compute(self, batch: Sequence[_Job]) -> None:
        try:
            results = batch[0].compute([job.item for job in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0].result.set_exception(error)
                return
            for job in batch:  # one's fault is not the others'
                self._compute([job])
            return
        for job, result in zip(batch, results, strict=True):
            job.result.set_result(result)
