"""Pipelines: every kind of input, one or many, the same result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import openmplug
from openmplug.errors import DataError, UsageError
from openmplug.inference.loading import load
from openmplug.inference.pictures import read_image
from openmplug.inference.results import Answer, Caption, Match

Folders = Callable[..., Path]
QUESTIONS = [
    "what colour is the circle ?",
    "how many ?",
    "how many small green squares are there in this picture ?",
    "what is above ?",
    "a ?",
]


def close(one: Any, other: Any) -> bool:
    if isinstance(one, Match):
        return one.probability == pytest.approx(other.probability, abs=1e-5) and one.similarity == pytest.approx(other.similarity, abs=1e-5)
    return one.text == other.text and one.score == pytest.approx(other.score, abs=1e-4)


def test_many_are_as_one_by_one_and_in_order(folders: Folders, pictures: list[Path]) -> None:
    vqa = load(folders("vqa"), device="cpu", batch_size=2)
    answers = vqa.answer(pictures, QUESTIONS)
    singles = [vqa.answer(picture, question) for picture, question in zip(pictures, QUESTIONS, strict=True)]
    assert all(isinstance(single, Answer) for single in singles)
    assert all(close(one, other) for one, other in zip(answers, singles, strict=True))
    assert len({(answer.text, round(answer.score, 4)) for answer in singles}) > 1

    captioner = load(folders("caption"), device="cpu", batch_size=3)
    captions = captioner.caption(pictures)
    assert all(close(one, captioner.caption(picture)) for one, picture in zip(captions, pictures, strict=True))
    assert isinstance(captioner.caption(pictures[0]), Caption)

    matcher = load(folders("retrieval"), device="cpu", batch_size=2)
    matches = matcher.match(pictures, QUESTIONS)
    singles = [matcher.match(picture, text) for picture, text in zip(pictures, QUESTIONS, strict=True)]
    assert all(close(one, other) for one, other in zip(matches, singles, strict=True))
    assert all(0 <= match.probability <= 1 and -1.001 <= match.similarity <= 1.001 for match in singles)


def test_one_picture_with_many_texts_and_the_other_way_round(folders: Folders, pictures: list[Path]) -> None:
    matcher = load(folders("retrieval"), device="cpu")
    many = matcher.match(pictures[0], QUESTIONS)
    assert all(close(one, matcher.match(pictures[0], text)) for one, text in zip(many, QUESTIONS, strict=True))
    assert len(matcher.match(pictures, "a circle")) == 5
    assert matcher.match([], []) == []
    assert matcher.match([pictures[0]], ["a"]) == matcher.match(pictures[:1], "a")
    with pytest.raises(UsageError, match="2 images and 3 texts; give as many of one as of the other"):
        matcher.match(pictures[:2], QUESTIONS[:3])


def test_every_kind_of_input_gives_the_same(folders: Folders, pictures: list[Path]) -> None:
    captioner = load(folders("caption"), device="cpu")
    path = pictures[0]
    image = Image.open(path)
    kinds = [str(path), path.read_bytes(), image, np.asarray(image)]
    expected = captioner.caption(path)
    assert all(captioner.caption(kind) == expected for kind in kinds)


def test_pictures_in_memory_are_treated_as_files(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    deep = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
    turned = Image.new("RGB", (6, 4), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, image, more in (("clear", clear, {}), ("deep", deep, {}), ("turned", turned, {"exif": exif})):
        path = tmp_path / f"{name}.png"
        image.save(path, **more)
        from_file, from_memory = read_image(path), read_image(Image.open(path))
        assert from_file.size == from_memory.size
        assert np.array_equal(np.asarray(from_file), np.asarray(from_memory)), name
    assert read_image(np.zeros((4, 5), np.uint8)).size == (5, 4)
    assert read_image(np.zeros((4, 5, 4), np.uint8)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("none.png", "image 'none.png' does not exist"),
        (".", "image '.' cannot be read: Is a directory"),
        (b"", "image 'bytes' is empty"),
        (b"hello", "is not a picture"),
        (np.zeros((4, 4)), r"an image array must be uint8 of shape .*; got float64 \(4, 4\)"),
        (np.zeros((4, 4, 2), np.uint8), r"got uint8 \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), "an image array must be uint8"),
        (7, "an image must be a path, bytes, a PIL image, an array or a tensor; got int"),
    ],
)
def test_what_is_no_picture(image: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_image(image)


def test_a_model_does_what_it_was_trained_for(folders: Folders, pictures: list[Path]) -> None:
    captioner = load(folders("caption"))
    with pytest.raises(UsageError, match="trained for task 'caption' and cannot answer questions; that needs one trained for 'vqa'"):
        captioner.answer(pictures[0], "what?")
    with pytest.raises(UsageError, match="cannot match pictures and texts"):
        captioner.match(pictures[0], "what?")
    with pytest.raises(UsageError, match="cannot write captions"):
        load(folders("vqa")).caption(pictures[0])


def test_a_run_folder_means_its_best_checkpoint(folders: Folders, pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "checkpoint-best").symlink_to(folders("caption"))
    assert load(tmp_path).caption(pictures[0]) == load(folders("caption")).caption(pictures[0])
    assert openmplug.load is load


def test_bf16_is_near_fp32(folders: Folders, pictures: list[Path]) -> None:
    exact, rough = (load(folders("retrieval"), device="cpu", dtype=dtype).match(pictures, QUESTIONS) for dtype in ("fp32", "bf16"))
    assert all(one.similarity == pytest.approx(other.similarity, abs=0.05) for one, other in zip(exact, rough, strict=True))


def test_batch_size_must_be_positive(folders: Folders) -> None:
    with pytest.raises(UsageError, match="batch_size must be at least 1, got 0"):
        load(folders("caption"), batch_size=0)
