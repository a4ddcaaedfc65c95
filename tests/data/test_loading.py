"""From splits to batches: what a step sees is a function of (seed, epoch, position), however it is loaded."""

from __future__ import annotations

import os
import random
import signal
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from openmplug.batch import Batch, Item, Sample
from openmplug.data.epochs import EpochSampler
from openmplug.data.images import open_images
from openmplug.data.loading import ImageTextDataset, build_loader
from openmplug.data.splits import DataSettings, read_split
from openmplug.data.transforms import ImageSettings, TrainTransform
from openmplug.errors import DataError, EnvironmentProblem, UsageError


class Stack:
    """A collator: pixels stacked, nothing tokenised."""

    def __call__(self, items: list[Item]) -> Batch:
        return Batch([item.sample for item in items], images=torch.stack([item.pixels for item in items if item.pixels is not None]))


class Refuse:
    """A collator that cannot use an item."""

    def __call__(self, items: list[Item]) -> Batch:
        raise DataError(f"record '{items[0].sample.id}' has no answer")


class Die:
    """A collator whose process is killed, as for lack of memory."""

    def __call__(self, items: list[Item]) -> Batch:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def dataset(root: Path, seed: int = 0) -> ImageTextDataset:
    split = read_split(DataSettings(root=root), "train")
    return ImageTextDataset(split.samples, split.images, TrainTransform(ImageSettings(size=16)), seed=seed)


def flat(batches: Iterator[Batch]) -> list[tuple[list[str], torch.Tensor]]:
    return [([sample.id for sample in batch.samples], batch.images) for batch in batches if batch.images is not None]


def equal(first: list[tuple[list[str], torch.Tensor]], second: list[tuple[list[str], torch.Tensor]]) -> bool:
    return len(first) == len(second) and all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(first, second, strict=True))


# ------------------------------------------------------------------------------------------------------------- the order


def test_order_is_a_permutation_by_seed_and_epoch() -> None:
    first = [EpochSampler(50, 8, seed=3, epoch=epoch).order().tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in first) and first[0] != first[1] != first[2]
    assert first[1] == EpochSampler(50, 16, seed=3, epoch=1).order().tolist() != EpochSampler(50, 8, seed=4, epoch=1).order().tolist()
    assert EpochSampler(5, 2, shuffle=False).order().tolist() == [0, 1, 2, 3, 4]
    # A stored order: a run that is resumed with another version must see the same one.
    assert EpochSampler(8, 8, seed=0).order().tolist() == [0, 3, 5, 2, 6, 4, 1, 7]


def test_batches_resume_anywhere() -> None:
    whole = list(EpochSampler(21, 4, seed=1, epoch=2))
    assert [len(batch) for batch in whole] == [4, 4, 4, 4, 4, 1] and all(epoch == 2 for batch in whole for epoch, _ in batch)
    for start in range(8):
        rest = EpochSampler(21, 4, seed=1, epoch=2, start_batch=start)
        assert list(rest) == whole[start:] and len(rest) == len(whole[start:]) and rest.batches_per_epoch == 6
    short = EpochSampler(21, 4, seed=1, drop_last=True)
    short.set_epoch(2)
    assert list(short) == whole[:5] and len(short) == 5
    with pytest.raises(UsageError, match="batch size is 0; expected at least 1"):
        EpochSampler(3, 0)


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("groups", [None, ["a"] * 30 + ["b"] * 15])
def test_processes_together_see_what_one_would(world_size: int, groups: list[str] | None) -> None:
    for drop_last in (True, False):
        parts = [
            EpochSampler(45, 2, seed=5, drop_last=drop_last, groups=groups, start_batch=1, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        whole = list(EpochSampler(45, 2 * world_size, seed=5, drop_last=drop_last, groups=groups, start_batch=1))
        together = [[key for part in step for key in part] for step in zip(*parts, strict=True)]
        assert together == whole[: len(together)] and all(len(part) == len(together) for part in parts)
        # What is left out is a rest too small for all processes.
        assert all(len(batch) < world_size for batch in whole[len(together) :])
        assert all(part for step in zip(*parts, strict=True) for part in step)


def test_more_processes_than_examples_are_refused() -> None:
    with pytest.raises(UsageError, match="3 examples for 4 processes; start fewer processes"):
        EpochSampler(3, 8, world_size=4)
    with pytest.raises(UsageError, match="1 examples of one kind for 2 processes"):
        EpochSampler(3, 8, world_size=2, groups=["a", "b", "b"])


# ------------------------------------------------------------------------------------------------------------ the pixels


def test_pixels_depend_on_seed_epoch_and_index_only(root: Path) -> None:
    one, two = dataset(root), dataset(root)
    pixels = {key: one[key].pixels for key in ((0, 0), (0, 5), (1, 0))}
    random.seed(99)
    for key in reversed(pixels):
        assert torch.equal(two[key].pixels, pixels[key])  # type: ignore[arg-type]
    assert not torch.equal(pixels[0, 0], pixels[1, 0])  # type: ignore[arg-type]
    assert not torch.equal(pixels[0, 0], dataset(root, seed=1)[0, 0].pixels)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_is_the_same_with_workers_and_never_touches_global_chance(root: Path, workers: int) -> None:
    data = dataset(root)
    expected = [[data[key] for key in keys] for epoch in (0, 1) for keys in EpochSampler(24, 5, seed=7, epoch=epoch)]
    sampler = EpochSampler(24, 5, seed=7)
    loader = build_loader(data, sampler, Stack(), workers=workers)
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    seen = flat(iter(loader))
    sampler.set_epoch(1)
    assert len(loader) == 5
    seen += flat(iter(loader))
    sampler.set_epoch(1, start_batch=3)
    assert equal(flat(iter(loader)), seen[8:])
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    assert before[2] == str(np.random.get_state())
    wanted = [
        ([item.sample.id for item in items], torch.stack([item.pixels for item in items if item.pixels is not None])) for items in expected
    ]
    assert equal(seen, wanted)


def test_an_abandoned_iteration_leaves_no_trace(root: Path) -> None:
    sampler = EpochSampler(24, 3, seed=7)
    loader = build_loader(dataset(root), sampler, Stack(), workers=1)
    whole = flat(iter(loader))
    next(iter(loader))
    assert equal(flat(iter(loader)), whole)


# ------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_pictures_become_failures(tmp_path: Path, workers: int) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "good.png")
    (tmp_path / "images" / "text.jpg").write_text("hello")
    samples = [Sample(name, f"{name}") for name in ("good.png", "text.jpg", "missing.png", "good.png")]
    data = ImageTextDataset(samples, open_images(tmp_path, "dev"), TrainTransform(ImageSettings(size=8)), on_error="skip")
    batches = list(build_loader(data, EpochSampler(4, 2, shuffle=False), Stack(), workers))
    assert [[sample.id for sample in batch.samples] for batch in batches] == [["good.png"], ["good.png"]]
    assert [failure.id for batch in batches for failure in batch.failures] == ["text.jpg", "missing.png"]
    assert "image 'text.jpg' is not a picture" in batches[0].failures[0].reason
    assert "image 'missing.png' not found in folder" in batches[1].failures[0].reason
    only_bad = ImageTextDataset(samples[1:3], data.images, data.transform)
    (nothing,) = build_loader(only_bad, EpochSampler(2, 2, shuffle=False), Stack(), workers)
    assert len(nothing) == 0 and len(nothing.failures) == 2


def test_records_without_picture_have_no_pixels_and_no_failure(root: Path) -> None:
    data = ImageTextDataset([Sample("0", text="words only")], dataset(root).images, dataset(root).transform)
    item = data[0, 0]
    assert item.pixels is None and item.failure is None


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_a_collator_keep_their_one_line(root: Path, workers: int) -> None:
    loader = build_loader(dataset(root), EpochSampler(4, 2, shuffle=False), Refuse(), workers)
    with pytest.raises(DataError, match=r"^record '0' has no answer$"):
        next(iter(loader))
    reference = weakref.ref(loader)
    del loader
    assert reference() is None, "the loader's workers would outlive it"


def test_a_killed_worker_is_one_line(root: Path) -> None:
    loader = build_loader(dataset(root), EpochSampler(4, 2, shuffle=False), Die(), workers=1)
    with pytest.raises(EnvironmentProblem, match=r"a data worker died \(DataLoader worker .*; lower data\.workers"):
        next(iter(loader))
