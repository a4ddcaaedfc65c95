"""Decoding ahead of the model: order, bounds, death of a worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch

from inference.bulk.making import table
from openmplug.data import workers
from openmplug.data.clips import VideoSettings
from openmplug.data.transforms import ImageSettings
from openmplug.data.workers import choose_workers
from openmplug.errors import EnvironmentProblem
from openmplug.inference.bulk import decoding
from openmplug.inference.bulk.decoding import Decoded, Decoder, decode
from openmplug.inference.bulk.inputs import Inputs, open_inputs
from openmplug.inference.bulk.sources import Key, Loaded
from openmplug.inference.visuals import VisualTransform

SIZE = 8


@pytest.fixture
def inputs(place: Path) -> Inputs:
    (place / "bad.png").write_text("bad")
    rows = [{"image": name, "n": n} for n, name in enumerate(["a.png", "b.png", "bad.png", "deep/c.png", "none.png"] * 3)]
    return open_inputs([str(table(place / "list.jsonl", *rows))], None)


def decoder(inputs: Inputs) -> Decoder:
    return Decoder(inputs, VisualTransform(ImageSettings(size=SIZE), VideoSettings()))


def flat(batches: list[list[Decoded]]) -> list[Decoded]:
    return [row for batch in batches for row in batch]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_what_this_process_gives_in_order(workers: int, inputs: Inputs) -> None:
    here = list(decode(decoder(inputs), inputs.rows(), 4, 0))
    there = list(decode(decoder(inputs), inputs.rows(), 4, workers))
    assert [len(batch) for batch in here] == [len(batch) for batch in there] == [4, 4, 4, 3]
    for one, other in zip(flat(here), flat(there), strict=True):
        assert (one.name, one.fields, one.failure) == (other.name, other.fields, other.failure)
        if one.pixels is None:
            assert other.pixels is None
        else:
            assert other.pixels is not None
            assert torch.equal(one.pixels, other.pixels)
    assert [row.fields["n"] for row in flat(there) if row.fields] == list(range(15))
    assert [row.failure is None for row in there[0]] == [True, True, False, True]
    assert there[0][0].pixels is not None
    assert there[0][0].pixels.shape == (3, SIZE, SIZE)


def test_rows_are_drawn_a_bounded_number_ahead(inputs: Inputs) -> None:
    drawn = 0

    def counted() -> Iterator[Key]:
        nonlocal drawn
        for key in list(inputs.rows()) * 20:
            drawn += 1
            yield key

    batches = decode(decoder(inputs), counted(), 2, 1)
    assert len(list(islice(batches, 3))) == 3
    assert drawn <= 2 * (3 + decoding._WAITING)
    batches.close()


class Deadly(Inputs):
    """Kills the process that loads its third row."""

    def load(self, key: Key) -> Loaded:
        if key[1].fields["n"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().load(key)


def test_a_worker_that_dies_is_one_line(inputs: Inputs) -> None:
    deadly = Deadly(inputs.sources)
    with pytest.raises(EnvironmentProblem, match=r"a data worker died \(DataLoader worker .*; lower --workers or --batch-size"):
        list(decode(decoder(deadly), deadly.rows(), 2, 1))


class Threads(Inputs):
    """Says in place of the words how many threads torch has in the process that loads."""

    def load(self, key: Key) -> Loaded:
        return Loaded(super().load(key).image, f"{torch.get_num_threads()} {torch.cuda.is_initialized()} {os.getpid()}", {})


def test_a_worker_has_one_thread_and_no_gpu(place: Path) -> None:
    threads = Threads(open_inputs([str(place)], None).sources)
    texts = {row.text for batch in decode(decoder(threads), threads.rows(), 2, 1) for row in batch}
    assert len(texts) == 1
    count, gpu, process = texts.pop().split()
    assert (count, gpu) == ("1", "False")
    assert int(process) != os.getpid()


def test_few_rows_need_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_workers(32, batch_size=16) == 0
    for cores, expected in ((1, 1), (2, 1), (6, 5), (64, 8)):
        monkeypatch.setattr(workers, "usable_cores", lambda cores=cores: cores)
        assert choose_workers(33, batch_size=16) == choose_workers(None, batch_size=16) == expected
