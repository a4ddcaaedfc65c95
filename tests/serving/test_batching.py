"""The queue: what shares a batch, who waits for whom, what happens when it is full."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmplug.serving.batching import Batcher, Job, QueueFull


def put(batcher: Batcher, key: str, content: object = None, weight: int = 1) -> Job:
    batcher.reserve(weight)
    job = Job(key, content, weight)
    batcher.submit(job)
    return job


def test_jobs_of_one_key_share_a_batch_oldest_first() -> None:
    batcher = Batcher(100, 3, 0.0)
    for number in range(5):
        put(batcher, "a" if number % 2 == 0 else "b", number)
    batcher.close()
    assert [job.content for job in batcher.take() or ()] == [0, 2, 4]
    second = batcher.take() or []
    assert [job.content for job in second] == [1, 3]
    assert [job.batch_size for job in second] == [2, 2]
    assert batcher.take() is None


def test_a_full_batch_does_not_wait_and_a_single_job_does() -> None:
    batcher = Batcher(100, 2, 0.2)
    put(batcher, "a")
    put(batcher, "a")
    begun = time.monotonic()
    assert len(batcher.take() or ()) == 2
    assert time.monotonic() - begun < 0.15
    put(batcher, "a")
    begun = time.monotonic()
    assert len(batcher.take() or ()) == 1
    assert time.monotonic() - begun > 0.15


def test_a_job_that_arrives_in_time_joins() -> None:
    batcher = Batcher(100, 8, 1.0)
    put(batcher, "a", 1)
    threading.Timer(0.1, lambda: [put(batcher, "a", number) for number in range(2, 9)]).start()
    begun = time.monotonic()
    assert len(batcher.take() or ()) == 8
    assert time.monotonic() - begun < 0.9


def test_a_full_batch_of_another_key_goes_before_one_that_waits() -> None:
    batcher = Batcher(100, 2, 5.0)
    put(batcher, "slow")
    put(batcher, "full")
    put(batcher, "full")
    assert [job.key for job in batcher.take() or ()] == ["full", "full"]


def test_videos_count_as_their_frames() -> None:
    batcher = Batcher(100, 16, 0.0)
    for number in range(5):
        put(batcher, "clip", number, weight=8)
    assert [job.content for job in batcher.take() or ()] == [0, 1]
    assert batcher.depth == 24


def test_one_job_heavier_than_everything_goes_alone() -> None:
    batcher = Batcher(4, 4, 0.0)
    put(batcher, "clip", weight=9)
    with pytest.raises(QueueFull):
        batcher.reserve(1)
    assert len(batcher.take() or ()) == 1
    assert batcher.depth == 0


def test_full_queue_says_when_to_come_back() -> None:
    batcher = Batcher(2, 1, 0.0)
    put(batcher, "a")
    put(batcher, "a")
    with pytest.raises(QueueFull) as refused:
        batcher.reserve(1)
    assert refused.value.waiting == 2
    for _ in range(200):
        batcher.finished(1, 10.0)
    assert batcher.retry_after() in (20, 21)
    assert Batcher(2, 1, 0.0).retry_after() == 1


def test_withdrawn_jobs_free_their_places_and_are_not_worked_on() -> None:
    batcher = Batcher(2, 4, 0.0)
    first, second = put(batcher, "a", 1), put(batcher, "a", 2)
    assert batcher.withdraw(first) and not batcher.withdraw(first)
    assert batcher.depth == 1
    assert batcher.take() == [second]
    assert not batcher.withdraw(second), "a model has it"


def test_patience_ends() -> None:
    assert Batcher(2, 4, 0.0).take(0.01) == []


def test_abandoned_jobs_are_given_back() -> None:
    batcher = Batcher(9, 4, 5.0)
    jobs = [put(batcher, "a"), put(batcher, "b")]
    assert batcher.abandon() == jobs
    assert batcher.depth == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 6)), max_size=40), st.integers(1, 8), st.integers(1, 3))
def test_nothing_is_lost_or_doubled_or_mixed(jobs: list[tuple[str, int]], max_batch: int, takers: int) -> None:
    batcher = Batcher(10_000, max_batch, 0.0)
    taken: list[list[Job]] = []

    def work() -> None:
        while (batch := batcher.take()) is not None:
            taken.append(batch)

    threads = [threading.Thread(target=work) for _ in range(takers)]
    for thread in threads:
        thread.start()
    made = [put(batcher, key, number, weight) for number, (key, weight) in enumerate(jobs)]
    batcher.close()
    for thread in threads:
        thread.join(10)
    assert sorted(job.content for batch in taken for job in batch) == [job.content for job in made]
    assert batcher.depth == 0
    for batch in taken:
        assert len({job.key for job in batch}) == 1
        assert len(batch) == 1 or sum(job.weight for job in batch) <= max_batch
        assert [job.content for job in batch] == sorted(job.content for job in batch)
