"""Requests of many clients into batches of one model: a bounded queue that hands out jobs which can share a batch.

A model process that is free takes what waits. Where fewer wait than fit, it gives later ones ``max_wait_seconds`` to arrive, counted
from the oldest; while it is busy, jobs gather by themselves, so a loaded service never waits on purpose.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any


class QueueFull(Exception):
    """No room for so many more; ``retry_after`` says in how many seconds there may be."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"{waiting} are waiting")
        self.waiting = waiting
        self.retry_after = retry_after


@dataclass(eq=False, slots=True)
class Job:
    """One picture or text to work on.

    Args:
        key: Jobs of one key can share a batch.
        content: What the model gets.
        weight: How many pictures it counts as: a video, its frames.
        reply: Where the answer goes; the queue does not look at it.
        arrived: When it was made (``time.monotonic()``).
        batch_size: Jobs of the batch it went into; 0 until then.
    """

    key: Hashable
    content: Any
    weight: int = 1
    reply: Any = None
    arrived: float = field(default_factory=time.monotonic)
    batch_size: int = 0


class Batcher:
    """The queue between the requests and the model processes; every method may be called from any thread.

    Places are taken before a picture is decoded (``reserve``), so that the queue bounds decoded pictures too, and freed when a model
    takes the job or ``release`` is called.

    Args:
        capacity: Weight that may wait. One job heavier than that is let in when nothing else waits.
        max_batch: Weight of a batch; one job may be heavier, and is then alone.
        max_wait_seconds: How long the oldest job waits for others, if a model is free.
    """

    def __init__(self, capacity: int, max_batch: int, max_wait_seconds: float) -> None:
        self.capacity = capacity
        self.max_batch = max_batch
        self.max_wait_seconds = max_wait_seconds
        self._condition = threading.Condition()
        self._waiting: dict[Hashable, deque[Job]] = {}
        self._reserved = 0
        self._closed = False
        self._seconds_each = 0.05  # of one unit of weight; learned from the batches

    @property
    def depth(self) -> int:
        """The weight that waits, reserved places included."""
        return self._reserved

    def retry_after(self) -> int:
        """Estimate in how many whole seconds what waits now is worked off, 1 to 60."""
        return max(1, min(60, round(self._reserved * self._seconds_each + 0.5)))

    def reserve(self, weight: int) -> None:
        """Take places.

        Raises:
            QueueFull: If there are not so many.
        """
        with self._condition:
            if self._reserved and self._reserved + weight > self.capacity:
                raise QueueFull(self._reserved, self.retry_after())
            self._reserved += weight

    def release(self, weight: int) -> None:
        """Give back places for which no job is going to come."""
        with self._condition:
            self._reserved -= weight

    def submit(self, job: Job) -> None:
        """Hand in a job whose places are reserved."""
        with self._condition:
            self._waiting.setdefault(job.key, deque()).append(job)
            self._condition.notify()

    def withdraw(self, job: Job) -> bool:
        """Take a job back and free its places; False if a model has it already."""
        with self._condition:
            line = self._waiting.get(job.key)
            if line is None or job not in line:
                return False
            line.remove(job)
            if not line:
                del self._waiting[job.key]
            self._reserved -= job.weight
            return True

    def take(self, patience_seconds: float | None = None) -> list[Job] | None:
        """Wait for a batch: jobs of one key, oldest first.

        Args:
            patience_seconds: Return an empty list when nothing came for so long; None waits.

        Returns:
            The batch; None when the queue is closed and empty.
        """
        end = None if patience_seconds is None else time.monotonic() + patience_seconds
        with self._condition:
            while True:
                now = time.monotonic()
                key, pause = self._choose(now)
                if key is not None:
                    return self._pop(key)
                if self._closed and not self._waiting:
                    return None
                if pause is None and end is not None:
                    if now >= end:
                        return []
                    pause = end - now
                self._condition.wait(pause)

    def finished(self, weight: int, seconds: float) -> None:
        """Learn how long a batch took."""
        with self._condition:
            self._seconds_each += 0.1 * (seconds / max(1, weight) - self._seconds_each)

    def close(self) -> None:
        """Let ``take`` end once nothing waits."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def abandon(self) -> list[Job]:
        """Empty the queue; return the jobs that no model is going to take."""
        with self._condition:
            left = [job for line in self._waiting.values() for job in line]
            self._waiting.clear()
            self._reserved -= sum(job.weight for job in left)
            return left

    def _choose(self, now: float) -> tuple[Hashable | None, float | None]:
        """Return the key to work on; else how many seconds to wait, None = until something comes."""
        oldest: tuple[float, Hashable] | None = None
        ready: tuple[float, Hashable] | None = None
        for key, line in self._waiting.items():
            place = (line[0].arrived, key)
            if oldest is None or place[0] < oldest[0]:
                oldest = place
            full = sum(job.weight for job in line) >= self.max_batch
            if (full or self._closed or now - place[0] >= self.max_wait_seconds) and (ready is None or place[0] < ready[0]):
                ready = place
        if ready is not None:
            return ready[1], None
        return None, None if oldest is None else oldest[0] + self.max_wait_seconds - now

    def _pop(self, key: Hashable) -> list[Job]:
        line = self._waiting[key]
        batch = [line.popleft()]
        weight = batch[0].weight
        while line and weight + line[0].weight <= self.max_batch:
            batch.append(line.popleft())
            weight += batch[-1].weight
        if line:
            self._condition.notify()  # another model may be free
        else:
            del self._waiting[key]
        self._reserved -= weight
        for job in batch:
            job.batch_size = len(batch)
        return batch
