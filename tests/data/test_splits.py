"""From settings to records: what is read, joined and shuffled, and what is told when it cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from openmplug.data.readers.joined import join_splits
from openmplug.data.splits import DataSettings, read_split, read_training, shuffle_images
from openmplug.errors import DataError, UsageError


def test_read_split_errors(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.root is not set; give the folder of the data set: data\.root=DIR"):
        read_split(DataSettings(), "dev")
    with pytest.raises(UsageError, match=r"unknown reader 'vqav2' in data\.reader; did you mean 'vqa_v2'\?"):
        read_split(DataSettings(root=root, reader="vqav2"), "dev")
    with pytest.raises(UsageError, match=r"unknown reader 'zzz' in data\.reader; expected one of jsonl, daquar, vqa_v2"):
        read_split(DataSettings(root=root, reader="zzz"), "dev")
    with pytest.raises(DataError, match=r"data\.root .*nowhere does not exist; expected the folder of the data set"):
        read_split(DataSettings(root=tmp_path / "nowhere"), "dev")
    with pytest.raises(DataError, match=r"data\.root .*dev\.jsonl is not a folder"):
        read_split(DataSettings(root=root / "dev.jsonl"), "dev")
    with pytest.raises(DataError, match=r"split 'test' not found in .*: expected test\.jsonl or test\.csv; found dev\.jsonl"):
        read_split(DataSettings(root=root), "test")


def test_limit_and_images_elsewhere(root: Path) -> None:
    split = read_split(DataSettings(root=root, limit=3, images="train_images.zip"), "dev")
    assert [sample.text for sample in split.samples] == ["dev 0?", "dev 1?", "dev 2?"]
    assert "train_images.zip" in split.images.description


def test_training_splits_are_joined(root: Path) -> None:
    settings = DataSettings(root=root, train=["train", "extra"])
    both = read_training(settings)
    assert both.name == "train+extra" and len(both.samples) == 30 and len({sample.id for sample in both.samples}) == 30
    first = both.samples[24]
    assert (first.id, first.image, first.text, first.image_index) == ("extra/0", "extra/0.png", "extra 0?", 12)
    assert first.image in both.images and "other/0.png" not in both.images and len(both.images.names()) == 15
    extra = read_split(settings, "extra")
    assert both.images.read("extra/0.png") == extra.images.read("0.png") != both.images.read("train/0.png")
    with pytest.raises(DataError, match=r"image 'x/0\.png' not found: its first part must be one of train, extra"):
        both.images.read("x/0.png")
    assert join_splits([extra]) is extra


def test_splits_in_folders_are_joined(root: Path, tmp_path: Path) -> None:
    """A split may lie in a folder of its own, and one's name may be the beginning of another's."""
    for name in ("photos/train", "photos/train/more", "clips/train"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.jsonl").write_text('{"image": "0.png", "question": "what?", "answer": "a"}\n', encoding="utf-8")
        (tmp_path / f"{name}_images").mkdir(parents=True)
        (tmp_path / f"{name}_images" / "0.png").write_bytes(name.encode())
    both = read_training(DataSettings(root=tmp_path, train=["photos/train", "photos/train/more", "clips/train"]))
    assert [both.images.read(str(sample.image)).decode() for sample in both.samples] == ["photos/train", "photos/train/more", "clips/train"]


def test_shuffled_images_are_a_fixed_derangement(root: Path) -> None:
    plain, shuffled = (read_split(DataSettings(root=root, shuffle_images=flag), "train").samples for flag in (False, True))
    moved = {(before.image, after.image) for before, after in zip(plain, shuffled, strict=True)}
    assert all(before != after for before, after in moved)
    assert len(moved) == len({before for before, _ in moved}) == len({after for _, after in moved}) == 12
    assert [replace(after, image=before.image) for before, after in zip(plain, shuffled, strict=True)] == plain
    assert shuffle_images(plain) == shuffled != shuffle_images(plain, seed=1)
    with pytest.raises(DataError, match=r"shuffle_images needs at least two different pictures, got 1"):
        read_split(DataSettings(root=root, shuffle_images=True, limit=2), "train")
