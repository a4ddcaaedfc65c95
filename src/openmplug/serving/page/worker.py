"""One thread for all models: what many people ask at once is worked on in batches."""

from __future__ import annotations

import queue
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

    While a batch is computed, requests gather; those of the same kind then make the next batch. Nothing waits on purpose.

    Args:
        batch_size: Most requests in a batch.
        waiting: Most requests that wait; beyond it, they are refused.
    """

    def __init__(self, batch_size: int, waiting: int = 64) -> None:
        self._batch_size = batch_size
        self._waiting: queue.Queue[_Job | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)
        self._thread.start()

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
        try:
            self._waiting.put_nowait(job)
        except queue.Full:
            raise EnvironmentProblem(f"{self._waiting.maxsize} requests are waiting already; try again in a minute") from None
        return job.result.result()

    def close(self) -> None:
        """End the thread after what waits now."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        held: list[_Job] = []  # taken from the queue, of other kinds than the batch in work
        open_ = True
        while open_ or held:
            if not held:
                job = self._waiting.get()
                held, open_ = ([], False) if job is None else ([job], open_)
            while True:
                try:
                    job = self._waiting.get_nowait()
                except queue.Empty:
                    break
                open_ = open_ and job is not None
                held += [] if job is None else [job]
            if held:
                batch = [job for job in held if job.key == held[0].key][: self._batch_size]
                held = [job for job in held if job not in batch]
                self._compute(batch)

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
