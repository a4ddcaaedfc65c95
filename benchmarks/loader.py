"""Samples per second and core of the training loader over shards, against plain Pillow decoding of the same files in the same run.

    OMP_NUM_THREADS=1 python benchmarks/loader.py [SHARDS] [--image-size 256] [--workers 0] [--json FILE]

``plain`` opens each picture's bytes with Pillow and converts it to RGB, and does nothing else: what any loader has to do at least.
``shards`` is the loader of a pre-training run: the order of an epoch, the sample's bytes and captions from its shard, decoding, crop, flip
and RandAugment, tokenising, stacking into a batch. Both see the same pictures; they take turns, and the median of ``--rounds`` is printed.
With ``--workers`` the rate is divided by the number of workers. Without SHARDS, JPEGs are made here.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from openmplug.batch import Sample
from openmplug.data.images import FolderImages
from openmplug.data.loading import BatchLoader, ImageTextDataset, build_loader
from openmplug.data.mixing import MixtureSampler
from openmplug.data.readers import Split
from openmplug.data.readers.joined import JoinedImages
from openmplug.data.sharding import ShardSettings, write_shards
from openmplug.data.shards import ShardSamples, open_shards
from openmplug.data.sources import DrawCaptions, Mixture, Source
from openmplug.data.tokenizer import Tokenizer, build_vocabulary
from openmplug.data.transforms import ImageSettings, TrainTransform
from openmplug.tasks.captioning import CaptionCollator

WORDS = "a photo of two red cups on the old wooden table near an open window in late summer light".split()


def make_shards(folder: Path, count: int, width: int, height: int) -> Path:
    """Make JPEGs of smooth noise, about as hard to decode as photos of their size, with captions of ten words."""
    pictures, rng = folder / "pictures", np.random.default_rng(0)
    pictures.mkdir()
    samples = []
    for number in range(count):
        noise = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8))
        coarse = noise.resize((width, height), Image.Resampling.BICUBIC)
        grain = np.asarray(coarse, np.int16) + rng.integers(-12, 13, (height, width, 1), np.int16)
        Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(pictures / f"{number}.jpg", quality=90)
        texts = (" ".join(rng.choice(WORDS, 10)),)
        samples.append(Sample(str(number), f"{number}.jpg", None, texts, (), texts, number))
    write_shards(Split("train", samples, FolderImages(pictures)), folder / "shards", ShardSettings(per_shard=max(1, count // 4)))
    return folder / "shards"


def plain(data: Sequence[bytes]) -> None:
    """Decode with Pillow."""
    for each in data:
        Image.open(io.BytesIO(each)).convert("RGB")


def build(samples: ShardSamples, image_size: int, batch_size: int, workers: int) -> tuple[BatchLoader, MixtureSampler]:
    """Build the loader of a run that learns captions."""
    mixture = Mixture([Source("web", samples, samples.shards)])
    examples = mixture.examples(list, DrawCaptions(), seed=0)
    looked = mixture.looked_at()
    tokenizer = Tokenizer.from_vocab(build_vocabulary((text for sample in looked for text in sample.targets), 30522, 1, ()))
    sampler = MixtureSampler(examples, min(batch_size, len(samples)))
    dataset = ImageTextDataset(examples, JoinedImages({"web": samples.shards}), TrainTransform(ImageSettings(size=image_size)))
    return build_loader(dataset, sampler, CaptionCollator(tokenizer, "", 32, True), workers), sampler


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    work()
    return clock() - began


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="?", help="a folder of shards, or a pattern")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0, help="0 loads in this process")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=512, help="pictures to make, where no shards are given")
    parser.add_argument("--size", type=int, nargs=2, default=(384, 256), metavar=("WIDTH", "HEIGHT"), help="of those, px")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--cpu-time", action="store_true", help="count this process's CPU time, for a machine that does other work too")
    parser.add_argument("--tiny", action="store_true", help="a few small pictures, one round: does it run?")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.count, options.size, options.rounds, options.image_size, options.batch_size = 8, (48, 32), 1, 32, 4
    if min(options.rounds, options.batch_size, options.count) < 1 or options.workers < 0:
        parser.error("--rounds, --batch-size and --count are at least 1, --workers at least 0")
    if options.cpu_time and options.workers:
        parser.error("--cpu-time counts this process alone; leave out --workers")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = options.shards or str(make_shards(Path(folder), options.count, *options.size))
        samples = open_shards(Path.cwd(), [place], {})
        loader, sampler = build(samples, options.image_size, options.batch_size, options.workers)
        numbers = measure(samples, loader, sampler, options.rounds, time.process_time if options.cpu_time else time.perf_counter)
    cores = max(1, options.workers)
    numbers["shards_per_core"] = numbers["shards"] / cores
    numbers |= {"workers": options.workers, "image_size": options.image_size, "cores_of_machine": os.cpu_count()}
    print(f"{numbers['samples']:,} pictures a round, {numbers['kilobytes']:.0f} kB each; samples/s, median of {options.rounds} rounds")
    print(f"  plain Pillow decoding       {numbers['plain']:10,.1f} on one core")
    print(f"  loader from shards          {numbers['shards']:10,.1f} on {cores} core{'s' * (cores > 1)}")
    print(f"  the same, per core          {numbers['shards_per_core']:10,.1f}")
    print(f"  per core, against plain     {numbers['shards_per_core'] / numbers['plain']:10.2f}")
    print(f"  16 such cores               {16 * numbers['shards_per_core']:10,.0f}")
    if options.json is not None:
        options.json.write_text(json.dumps(numbers, indent=2) + "\n")
    return 0


def measure(
    samples: ShardSamples, loader: BatchLoader, sampler: MixtureSampler, rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Let both take turns; the first round of each is not counted."""
    times: dict[str, list[float]] = {"plain": [], "shards": []}
    count = 0
    for number in range(rounds + 1):
        sampler.set_epoch(number)
        names = [f"{samples[index].image}" for batch in sampler for _, index in batch]
        data = [samples.shards.read(name) for name in names]
        count = len(data)
        times["plain"].append(seconds(lambda data=data: plain(data), clock))
        times["shards"].append(seconds(lambda: [len(batch) for batch in loader], clock))
    rates = {name: count / statistics.median(each[1:]) for name, each in times.items()}
    return {**rates, "samples": count, "kilobytes": statistics.mean(map(len, data)) / 1000}


if __name__ == "__main__":
    raise SystemExit(main())
