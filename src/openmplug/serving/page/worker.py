"""One thread for all models: what many people ask at once is worked on in batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any

from openmplug.errors import EnvironmentProblem
from openmplug.serving.batching import Batcher, Job, QueueFull

Compute = Callable[[Sequence[Any]], Sequence[Any]]


class ModelWorker:
    """Runs models, one batch at a time; any number of threads may ask.

    While a batch is computed, requests gather; those of one kind then make the next batch. Nothing waits on purpose.

    Args:
        batch_size: Most requests in a batch.
        most_waiting: Most requests that wait; beyond it, they are refused.
    """

    def __init__(self, batch_size: int, most_waiting: int = 64) -> None:
        self._line = Batcher(most_waiting, batch_size, max_wait_seconds=0.0)
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self._line.depth

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
        try:
            self._line.reserve(1)
        except QueueFull as full:
            said = f"{full.waiting} requests are waiting already; try again in {full.retry_after} seconds"
            raise EnvironmentProblem(said) from None
        result: Future[Any] = Future()
        self._line.submit(Job(key, (compute, item, result)))
        return result.result()

    def close(self) -> None:
        """End the thread once nothing waits."""
        self._line.close()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._line.take():
            began = time.monotonic()
            _compute([job.content for job in batch])
            self._line.finished(len(batch), time.monotonic() - began)


def _compute(batch: Sequence[tuple[Compute, Any, Future[Any]]]) -> None:
    """Compute a batch and hand out its results."""
    try:
        results = batch[0][0]([item for _, item, _ in batch])
    except Exception as error:
        if len(batch) == 1:
            batch[0][2].set_exception(error)
            return
        for one in batch:  # one's fault is not the others'
            _compute([one])
        return
    for (_, _, future), result in zip(batch, results, strict=True):
        future.set_result(result)
