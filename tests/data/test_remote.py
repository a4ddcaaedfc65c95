"""Remote shards: how few requests read them, what is tried again, what is told, and the copies on this machine's disk."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.shard_server import ShardServer, serve
from data.shards_made import image_files, picture, write_shards, write_tar
from openmplug.batch import Batch, Item
from openmplug.data import remote, shard_copies
from openmplug.data.loading import ImageTextDataset, build_loader
from openmplug.data.mixing import MixtureSampler
from openmplug.data.readers.joined import JoinedImages
from openmplug.data.shard_index import scan_shard
from openmplug.data.shards import ShardSamples, open_shards
from openmplug.data.sources import DrawCaptions, Mixture, Source
from openmplug.data.transforms import ImageSettings, TrainTransform
from openmplug.errors import DataError, UsageError

pytest.importorskip("aiohttp", reason="http shards need aiohttp")


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OPENMPLUG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(shard_copies.VARIABLE, raising=False)
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0.001)
    remote._away.clear()
    yield
    remote._away.clear()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ShardServer]:
    write_shards(tmp_path / "served", (20, 18))
    with serve(tmp_path / "served") as server:
        yield server


def opened(server: ShardServer, pattern: str = "{00000..00001}.tar") -> ShardSamples:
    return open_shards(None, [f"{server.url}/{pattern}"], {})


def take(samples: ShardSamples, numbers: range) -> list[tuple[tuple[str, ...], bytes]]:
    return [(samples[number].targets, samples.shards.read(str(samples[number].image))) for number in numbers]


def expected(numbers: range) -> list[tuple[tuple[str, ...], bytes]]:
    places = [divmod(number, 20) for number in numbers]
    return [((f"shard {shard} picture {number}",), picture(100 * shard + number)) for shard, number in places]


def test_one_request_reads_a_run_of_samples(server: ShardServer) -> None:
    samples = opened(server)
    assert len(samples) == 38 and samples.shards.remote
    server.asked.clear()
    assert take(samples, range(38)) == expected(range(38))
    assert server.gets() == 4  # of runs of 16 and 4, 16 and 2
    server.asked.clear()
    assert take(samples, range(15, 17)) == expected(range(15, 17)) and server.gets() == 0  # still in memory
    again = opened(server)
    server.asked.clear()
    assert take(again, range(5, 7)) == expected(range(5, 7)) and server.gets() == 1
    assert take(again, range(3, 4)) == expected(range(3, 4)) and server.gets() == 2  # what lies before was not read


def test_what_is_read_ahead_is_bounded(server: ShardServer, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = scan_shard(f"{server.url}/00000.tar", (server.folder / "00000.tar").stat().st_size)
    two_samples = max(offset + size for offset, size in rows[1].files.values())
    monkeypatch.setattr("openmplug.data.shards.MOST_BYTES", two_samples)
    samples = opened(server, "00000.tar")
    server.asked.clear()
    assert take(samples, range(4)) == expected(range(4)) and server.gets() == 2
    ahead = remote.ReadAhead(most=2 * two_samples)
    url = f"{server.url}/00000.tar"
    for start in range(0, 6 * two_samples, two_samples):
        ahead.read(url, start, start + 10, lambda start=start: (start, start + two_samples))  # type: ignore[misc]
        assert sum(map(len, ahead._kept.values())) <= 2 * two_samples
    assert len(ahead.read(url, 0, 3 * two_samples, lambda: (0, 0))) == 3 * two_samples  # one too large is read all the same


def test_broken_and_busy_answers_are_tried_again(server: ShardServer) -> None:
    server.broken, server.busy = 1, 2
    samples = opened(server, "00000.tar")
    server.broken, server.busy = 2, 1
    assert take(samples, range(20)) == expected(range(20)) and server.broken == server.busy == 0


def test_what_cannot_pass_is_told_at_once(server: ShardServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"shard http://.*/00007\.tar cannot be read: .*404"):
        opened(server, "00007.tar")
    assert len([path for _, path, _ in server.asked if path == "/00007.tar"]) == 2  # a HEAD and a GET, once
    samples = opened(server, "00000.tar")
    write_shards(server.folder, (2,))  # shorter now, as after it was packed anew
    with pytest.raises(DataError, match=r"00000\.tar cannot be read.*(416|cut short, or the shard has changed)"):
        samples[19]
    write_tar(server.folder / "00000.tar", [(name.replace("0000000", "0000009"), data) for name, data in image_files(0, 20)])
    with pytest.raises(
        DataError, match=r"^shard .* has changed: at .* is '000000903\.json', not '000000003\.json'; delete .*\.index\.jsonl$"
    ):
        samples[3]


def test_a_server_without_ranges_is_told_and_copies_help(server: ShardServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.ranges = False
    with pytest.raises(DataError, match=r"its server sends whole files only .*copy the shards to a folder, or set OPENMPLUG_SHARD_COPIES"):
        take(opened(server), range(1))
    monkeypatch.setenv(shard_copies.VARIABLE, "1")
    server.broken = 1
    assert (
        take(opened(server), range(38)) == expected(range(38)) and server.gets() <= 2 + 2 + 3
    )  # two to index, two that were refused or broken


def test_copies_are_few_and_the_oldest_goes_first(server: ShardServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (server.folder / "00000.tar").stat().st_size
    monkeypatch.setenv(shard_copies.VARIABLE, f"{2.5 * size / 1e9:.9f}")
    samples = opened(server)
    assert take(samples, range(38)) == expected(range(38))
    server.asked.clear()
    assert take(samples, range(38)) == expected(range(38)) and not server.asked  # all from the disk
    copies = tmp_path / "cache" / "shards" / "copies"
    assert len(list(copies.glob("*.tar"))) == 2 and not list(copies.glob("*.writing"))
    monkeypatch.setenv(shard_copies.VARIABLE, f"{1.5 * size / 1e9:.9f}")
    assert take(samples, range(19, 21)) == expected(range(19, 21))  # the first is used, then the second; another has to go
    for path in copies.glob("*.tar"):
        path.unlink()  # as another process does
    assert take(samples, range(38)) == expected(range(38)) and len(list(copies.glob("*.tar"))) == 1
    with pytest.raises(
        DataError, match=r"OPENMPLUG_SHARD_COPIES allows .* GB; expected .* GB or more, as 2 shards such as .* are read at once"
    ):
        opened(server)
    monkeypatch.setenv(shard_copies.VARIABLE, "many")
    with pytest.raises(UsageError, match="OPENMPLUG_SHARD_COPIES='many'; expected a number of GB"):
        opened(server)


def _collate(items: list[Item]) -> Batch:
    return Batch([item.sample for item in items])


def loaded(samples: ShardSamples, workers: int = 0) -> list[tuple[list[str], int]]:
    mixture = Mixture([Source("web", samples, samples.shards)])
    examples = mixture.examples(list, DrawCaptions(), seed=0)
    dataset = ImageTextDataset(examples, JoinedImages({"web": samples.shards}), TrainTransform(ImageSettings(size=16)))
    batches = build_loader(dataset, MixtureSampler(examples, 6), _collate, workers)
    return [([sample.id for sample in batch.samples], len(batch.failures)) for batch in batches]


def test_an_epoch_is_the_same_in_workers_with_copies_and_after_the_index_is_lost(
    server: ShardServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = opened(server)
    once = loaded(samples)
    assert [failed for _, failed in once] == [0] * 6 and len({each for ids, _ in once for each in ids}) == 36
    assert loaded(samples, workers=2) == once  # connections of this process are not used in theirs
    for path in (tmp_path / "cache" / "shards").iterdir():
        path.unlink()
    monkeypatch.setenv(shard_copies.VARIABLE, "1")
    assert loaded(opened(server)) == once


def test_a_server_that_goes_away_costs_its_attempts_once(server: ShardServer) -> None:
    samples = opened(server)
    server.gone = True
    before = server.gets()
    began = time.monotonic()
    assert {failed for _, failed in loaded(samples)} == {6}
    assert server.gets() - before <= remote.ATTEMPTS + 2 * 36 + 5 and time.monotonic() - began < 20
    with pytest.raises(DataError, match=r"00000\.tar cannot be read after the attempts before, and one more: "):
        samples[0]
    server.gone = False
    assert {failed for _, failed in loaded(samples)} == {0}
    remote._away.clear()
    server.gone = True
    with pytest.raises(DataError, match=rf"shard http.*00000\.tar cannot be read after {remote.ATTEMPTS} attempts: "):
        open_shards(None, [f"{server.url}/00000.tar"], {})


def test_pauses_take_no_chance_from_the_run(server: ShardServer) -> None:
    samples = opened(server)
    state = random.getstate()
    server.busy = 2
    assert take(samples, range(1)) == expected(range(1)) and random.getstate() == state
    assert os.environ.get(shard_copies.VARIABLE) is None
