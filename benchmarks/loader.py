"""Samples per second and core of the training loader over shards, against Pillow on the same files in the same run.

    OMP_NUM_THREADS=1 python benchmarks/loader.py [SHARDS] [--data DIR] [--image-size 256] [--workers 0] [--randaugment 2] [--json FILE]

``plain`` opens each picture's bytes with Pillow and converts it to RGB, and does nothing else. ``draft`` is what a loader has to do at
least: Pillow decodes with ``draft`` and resizes the whole picture to the square. ``shards`` and ``fast`` are the loader of a run of
pre-training, with ``image.fast`` off and on: the order of an epoch, the sample's bytes and captions from its shard, decoding, a crop of 0.2
to 1 of the area, flip, RandAugment (2, 7), normalising, tokenising, stacking into a batch. All see the same pictures; they take turns,
and the median of ``--rounds`` is printed. With ``--workers`` the loader's rate is divided by the number of workers.

Pictures are those of SHARDS; of ``--data``, a folder that reader ``jsonl`` knows; or JPEGs made here, ``--size`` px.
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
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from openmplug.batch import Sample
from openmplug.data.images import FolderImages
from openmplug.data.loading import BatchLoader, ImageTextDataset, build_loader
from openmplug.data.mixing import MixtureSampler
from openmplug.data.readers import READERS, Split
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


def pack(folder: Path, root: Path, split: str, count: int) -> Path:
    """Pack the first pictures of a split into shards."""
    found = READERS["jsonl"](root, split, {})
    chosen = replace(found, samples=found.samples[:count])
    write_shards(chosen, folder / "shards", ShardSettings(per_shard=max(1, len(chosen.samples) // 4)))
    return folder / "shards"


def plain(data: Sequence[bytes]) -> None:
    """Decode with Pillow."""
    for each in data:
        Image.open(io.BytesIO(each)).convert("RGB")


def draft(data: Sequence[bytes], size: int) -> None:
    """Decode with Pillow at no more pixels than needed, and resize."""
    for each in data:
        image = Image.open(io.BytesIO(each))
        image.draft("RGB", (size, size))
        image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)


def build(samples: ShardSamples, options: argparse.Namespace, fast: bool) -> tuple[BatchLoader, MixtureSampler]:
    """Build the loader of a run that learns captions."""
    settings = ImageSettings(
        size=options.image_size, crop_scale=(0.2, 1.0), randaugment_ops=options.randaugment, fast=fast
    )  # as the papers
    mixture = Mixture([Source("web", samples, samples.shards)])
    examples = mixture.examples(list, DrawCaptions(), seed=0)
    looked = mixture.looked_at()
    tokenizer = Tokenizer.from_vocab(build_vocabulary((text for sample in looked for text in sample.targets), 30522, 1, ()))
    sampler = MixtureSampler(examples, min(options.batch_size, len(samples)))
    dataset = ImageTextDataset(examples, JoinedImages({"web": samples.shards}), TrainTransform(settings))
    return build_loader(dataset, sampler, CaptionCollator(tokenizer, "", 32, True), options.workers), sampler


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    work()
    return clock() - began


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="?", help="a folder of shards, or a pattern")
    parser.add_argument("--data", type=Path, help="a folder with SPLIT.jsonl and its pictures, instead")
    parser.add_argument("--split", default="train", help="of --data")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0, help="0 loads in this process")
    parser.add_argument("--randaugment", type=int, default=2, metavar="N", help="operations drawn for each picture; 0 = none")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=512, help="pictures to make, or to take of --data")
    parser.add_argument("--size", type=int, nargs=2, default=(384, 256), metavar=("WIDTH", "HEIGHT"), help="of those, px")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--cpu-time", action="store_true", help="count this process's CPU time, for a machine that does other work too")
    parser.add_argument("--tiny", action="store_true", help="a few small pictures, one round: does it run?")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.count, options.size, options.rounds, options.image_size, options.batch_size = 8, (48, 32), 1, 32, 4
    if min(options.rounds, options.batch_size, options.count) < 1 or options.workers < 0:
        parser.error("--rounds, --batch-size and --count are at least 1, --workers at least 0")
    if options.shards and options.data:
        parser.error("SHARDS and --data are two sources of pictures; give one")
    if options.cpu_time and options.workers:
        parser.error("--cpu-time counts this process alone; leave out --workers")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        if options.data is not None:
            place = str(pack(made, options.data, options.split, options.count))
        else:
            place = options.shards or str(make_shards(made, options.count, *options.size))
        samples = open_shards(Path.cwd(), [place], {})
        numbers = measure(samples, options, time.process_time if options.cpu_time else time.perf_counter)
    cores = max(1, options.workers)
    numbers |= {f"{name}_per_core": numbers[name] / cores for name in ("shards", "fast")}
    numbers |= {"workers": options.workers, "image_size": options.image_size, "cores_of_machine": os.cpu_count()}
    print(f"{numbers['samples']:,} pictures of {numbers['kilobytes']:.0f} kB; samples/s and core, median of {options.rounds} rounds")
    rows = {
        "plain Pillow decoding": numbers["plain"],
        "Pillow, draft and resize": numbers["draft"],
        "loader from shards": numbers["shards_per_core"],
        "loader, image.fast": numbers["fast_per_core"],
    }
    for name, rate in rows.items():
        print(f"  {name:24s} {rate:10,.1f}   {rate / numbers['draft']:6.2f} of draft and resize   {16 * rate:8,.0f}/s on 16 such cores")
    if options.json is not None:
        options.json.write_text(json.dumps(numbers, indent=2) + "\n")
    return 0


def measure(samples: ShardSamples, options: argparse.Namespace, clock: Callable[[], float]) -> dict[str, float]:
    """Let all take turns; the first round of each is not counted."""
    built = {name: build(samples, options, fast) for name, fast in (("shards", False), ("fast", True))}
    times: dict[str, list[float]] = {name: [] for name in ("plain", "draft", *built)}
    data: list[bytes] = []
    for number in range(options.rounds + 1):
        for _, sampler in built.values():
            sampler.set_epoch(number)
        data = [samples.shards.read(f"{samples[index].image}") for batch in built["fast"][1] for _, index in batch]
        works: dict[str, Callable[[], object]] = {"plain": partial(plain, data), "draft": partial(draft, data, options.image_size)}
        works |= {name: partial(drain, loader) for name, (loader, _) in built.items()}
        for name, work in works.items():
            times[name].append(seconds(work, clock))
    rates = {name: len(data) / statistics.median(each[1:]) for name, each in times.items()}
    return {**rates, "samples": len(data), "kilobytes": statistics.mean(map(len, data)) / 1000}


def drain(loader: BatchLoader) -> None:
    for _ in loader:
        pass


if __name__ == "__main__":
    raise SystemExit(main())
