"""Time and memory of the order and the index of very many samples in shards: to open, to the first batch, in the middle of an epoch.

    OMP_NUM_THREADS=1 python benchmarks/shard_index.py [--samples 14000000] [--per-shard 10000] [--workers 0 4] [--json FILE]

One shard of tiny pictures is packed; it is then there many times, as links, each with an index of its own, as large as that of real
pictures: for 14,000,000 samples 1.1 GB of disk. Every case runs in a process of its own. ``own_mb`` is what it and its workers take beyond
their imports, pages that they share counted once; ``mapped_mb`` is what they map of files, which the system can take back.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from openmplug.batch import Batch, Item, Sample
from openmplug.data.images import FolderImages
from openmplug.data.loading import ImageTextDataset, build_loader
from openmplug.data.mixing import MixtureSampler
from openmplug.data.readers import Split
from openmplug.data.shard_index import index_beside
from openmplug.data.sharding import ShardSettings, write_shards
from openmplug.data.sources import DrawCaptions
from openmplug.data.splits import DataSettings, read_training
from openmplug.data.transforms import ImageSettings, TrainTransform

BATCH = 64
CAPTION = "two people in red jackets walk a small brown dog along the beach"


def make(folder: Path, samples: int, per_shard: int) -> None:
    """Make the shards: one, and links to it."""
    Image.new("RGB", (16, 12), (200, 10, 10)).save(folder / "picture.jpg")
    records = [Sample(str(number), "picture.jpg", None, (CAPTION,), (), (CAPTION,), number) for number in range(per_shard)]
    write_shards(Split("train", records, FolderImages(folder)), folder / "one", ShardSettings(per_shard=per_shard))
    (shard,) = (folder / "one").glob("*.tar")
    (folder / "shards").mkdir()
    for number in range(samples // per_shard):
        place = folder / "shards" / f"{number:05d}.tar"
        os.link(shard, place)
        shutil.copyfile(index_beside(shard), index_beside(place))


def memory(*processes: int | str) -> tuple[float, float]:
    """Return what processes have of their own and what they map of files, MB; shared pages count once among them."""
    sums = [0.0, 0.0]
    for process in processes or ("self",):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
        sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
        sums = [sums[0] + sizes["Pss_Anon"], sums[1] + sizes["Pss_File"]]
    return sums[0], sums[1]


def collate(items: list[Item]) -> Batch:
    """Keep no pixels: what is measured is the index."""
    return Batch([item.sample for item in items])


def case(folder: Path, workers: int, batches: int, pipe: Connection) -> None:
    """Measure one case and send its numbers."""
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # as in a run on Linux; a spawned process would spawn its workers too
    (before, mapped_before), times = memory(), {}
    began, busy = time.perf_counter(), time.process_time()

    def lap(name: str) -> None:
        nonlocal began
        times[name], began = time.perf_counter() - began, time.perf_counter()

    split = read_training(DataSettings(reader="shards", root=folder, train=["."]))
    lap("open_seconds")
    times["open_cpu_seconds"] = time.process_time() - busy
    assert split.mixture is not None
    examples = split.mixture.examples(list, DrawCaptions(), seed=0)
    sampler = MixtureSampler(examples, BATCH)
    dataset = ImageTextDataset(examples, split.images, TrainTransform(ImageSettings(size=16)))
    loader = build_loader(dataset, sampler, collate, workers)
    opened = memory()[0] - before
    began = time.perf_counter()
    next(iter(loader))
    lap("first_batch_seconds")
    sampler.set_epoch(3, sampler.batches_per_epoch // 2)
    began = time.perf_counter()
    rest = iter(loader)
    next(rest)
    lap("resume_seconds")
    drawn = sum(len(batch.samples) for batch in islice(rest, batches))
    lap("rest")
    facts = {"samples": len(examples), "workers": workers, **times, "samples_per_second": drawn / times.pop("rest")}
    own, mapped = memory("self", *(str(child.pid) for child in multiprocessing.active_children()))
    facts |= {"opened_mb": opened, "own_mb": own - before, "mapped_mb": mapped - mapped_before, "imports_mb": before}
    facts.pop("rest")
    pipe.send(facts)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[140_000, 14_000_000], help="how many, rounded to whole shards")
    parser.add_argument("--per-shard", type=int, default=10_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 4])
    parser.add_argument("--batches", type=int, default=200, help=f"of {BATCH}, read after the middle of an epoch")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args(arguments)
    if min(*options.samples, options.per_shard, options.batches) < 1 or min(options.samples) < options.per_shard:
        parser.error("--samples, --per-shard and --batches are at least 1, and --samples at least --per-shard")
    spawn, found = multiprocessing.get_context("spawn"), []
    for samples in options.samples:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            make(folder, samples, options.per_shard)
            line = index_beside(next((folder / "shards").glob("*.tar"))).stat().st_size / options.per_shard
            for workers in options.workers:
                receive, send = spawn.Pipe(duplex=False)
                process = spawn.Process(target=case, args=(folder / "shards", workers, options.batches, send))
                process.start()
                send.close()
                numbers: dict[str, Any] = receive.recv() | {"index_bytes_per_sample": line}
                process.join()
                found.append(numbers)
                print(json.dumps({name: round(value, 3) for name, value in numbers.items()}), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
