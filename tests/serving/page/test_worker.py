from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from openmplug.errors import EnvironmentProblem
from openmplug.serving.page.worker import ModelWorker


class Recorder:
    """Doubles numbers, one batch at a time, and says which batches there were; the first one waits for the gate."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate, self.busy = threading.Event(), threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.busy.set()
        assert self.gate.wait(20)
        if 13 in items:
            raise ValueError("thirteen")
        return [2 * item for item in items]


def test_what_gathers_while_the_model_is_busy_makes_batches_and_everyone_gets_their_own() -> None:
    record, worker = Recorder(), ModelWorker(batch_size=4)
    with ThreadPoolExecutor(12) as pool:
        first = pool.submit(worker.run, "double", record, 0)
        assert record.busy.wait(20)
        rest = [pool.submit(worker.run, "double", record, number) for number in range(1, 10)]
        while worker.waiting < 9:
            pass
        record.gate.set()
        assert [one.result(20) for one in (first, *rest)] == [2 * number for number in range(10)]
    worker.close()
    assert record.batches[0] == [0]
    assert [len(batch) for batch in record.batches[1:]] == [4, 4, 1]
    assert sorted(number for batch in record.batches for number in batch) == list(range(10))


def test_kinds_do_not_mix_and_none_starves() -> None:
    record, other, worker = Recorder(), Recorder(), ModelWorker(batch_size=8)
    other.gate.set()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(worker.run, "a", record, 0)
        assert record.busy.wait(20)
        rest = [pool.submit(worker.run, key, each, number) for number, (key, each) in enumerate([("a", record), ("b", other)] * 3, 1)]
        while worker.waiting < 6:
            pass
        record.gate.set()
        assert [one.result(20) for one in (first, *rest)] == [0, 2, 4, 6, 8, 10, 12]
    worker.close()
    assert [sorted(batch) for batch in other.batches] == [[2, 4, 6]]
    assert [sorted(batch) for batch in record.batches] == [[0], [1, 3, 5]]


def test_the_fault_of_one_is_not_the_others() -> None:
    record, worker = Recorder(), ModelWorker(batch_size=8)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(worker.run, "double", record, 0)
        assert record.busy.wait(20)
        rest = {number: pool.submit(worker.run, "double", record, number) for number in (12, 13, 14)}
        while worker.waiting < 3:
            pass
        record.gate.set()
        assert first.result(20) == 0 and rest[12].result(20) == 24 and rest[14].result(20) == 28
        with pytest.raises(ValueError, match="thirteen"):
            rest[13].result(20)
        assert pool.submit(worker.run, "double", record, 5).result(20) == 10  # the thread lives
    worker.close()


def test_too_many_are_refused_and_told_to_come_back() -> None:
    record, worker = Recorder(), ModelWorker(batch_size=1, most_waiting=2)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(worker.run, "double", record, 0)
        assert record.busy.wait(20)
        rest = [pool.submit(worker.run, "double", record, number) for number in (1, 2)]
        while worker.waiting < 2:
            pass
        with pytest.raises(EnvironmentProblem, match="2 requests are waiting already; try again"):
            worker.run("double", record, 3)
        record.gate.set()
        assert [one.result(20) for one in (first, *rest)] == [0, 2, 4]
    worker.close()
