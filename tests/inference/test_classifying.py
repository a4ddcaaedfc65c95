"""Classes through the front door and in bulk: one item, several, and inputs of the wrong kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import openmplug
from openmplug.errors import UsageError

LABELS = {"labels": ("red", "green", "blue")}
WORDS = ["a small circle", "how many green squares are there in this picture ?", "red"]


def test_pictures(folders: Callable[..., Path], pictures: list[Path]) -> None:
    model = openmplug.load(folders("classification", **LABELS), device="cpu", batch_size=2)
    together = model.classify(pictures)
    assert isinstance(together, list) and len({one.score for one in together}) > 1
    for picture, found in zip(pictures, together, strict=True):
        alone = model.classify(picture)
        assert not isinstance(alone, list)
        assert alone.text == found.text == found.probabilities[0][0] and alone.score == pytest.approx(found.score, abs=1e-5)
        assert sum(share for _, share in found.probabilities) == pytest.approx(1, abs=1e-5)
    with pytest.raises(UsageError, match="this model classifies a picture alone; leave the text out"):
        model.classify(pictures[0], "red")


def test_texts_and_pairs(folders: Callable[..., Path], pictures: list[Path]) -> None:
    model = openmplug.load(folders("classification", input="text", **LABELS), device="cpu", batch_size=2)
    together, alone = model.classify(WORDS), [model.classify(word) for word in WORDS]
    assert isinstance(together, list)
    assert [one.score for one in together] == pytest.approx([one.score for one in alone if not isinstance(one, list)], abs=1e-5)
    pair, one = model.classify("red", "green squares"), model.classify("red")
    assert not isinstance(pair, list) and not isinstance(one, list) and pair.score != pytest.approx(one.score, abs=1e-4)
    with pytest.raises(UsageError, match="this model classifies texts, got PosixPath"):
        model.classify(pictures)


def test_texts_about_pictures(folders: Callable[..., Path], pictures: list[Path]) -> None:
    model = openmplug.load(folders("classification", input="image_text", **LABELS), device="cpu")
    assert len(list(model.classify(pictures[0], WORDS))) == 3  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="classifies a picture and a text about it; give both"):
        model.classify(pictures[0])


def test_texts_about_two_pictures(folders: Callable[..., Path], pictures: list[Path]) -> None:
    settings = {"input": "image_text", "images_per_example": 2, **LABELS}
    model = openmplug.load(folders("classification", **settings), device="cpu", batch_size=2)
    pairs = [(pictures[0], pictures[1]), (pictures[1], pictures[0]), (pictures[1], pictures[2])]
    together = model.classify(pairs, WORDS[:1] * 3)
    assert isinstance(together, list) and len({one.score for one in together}) == 3  # the order of a pair counts
    (alone,) = model.classify(pairs[1:2], WORDS[0])  # type: ignore[misc]
    assert alone.score == pytest.approx(together[1].score, abs=1e-5)
    with pytest.raises(UsageError, match="this model reads 2 pictures with each text, got PosixPath; give a list of tuples of 2"):
        model.classify(pictures[:1], WORDS[:1])
    with pytest.raises(UsageError, match="this model reads 2 pictures with each text, got 3 inputs"):
        model.classify([(*pictures[:2], pictures[0])], WORDS[:1])


def test_numbers(folders: Callable[..., Path], pictures: list[Path]) -> None:
    settings = {"regression": True, "metric": "pearson", "number_range": (0.0, 5.0)}
    found = openmplug.load(folders("classification", **settings), device="cpu").classify(pictures[0])
    assert not isinstance(found, list) and 0 <= found.score <= 5 and float(found.text) == pytest.approx(found.score, abs=1e-4)
    assert found.probabilities == ()


def test_a_model_of_another_task_knows_no_classes(folders: Callable[..., Path], pictures: list[Path]) -> None:
    with pytest.raises(UsageError, match="this model was trained for task 'caption' and knows no classes"):
        openmplug.load(folders("caption"), device="cpu").classify(pictures[0])
    with pytest.raises(UsageError, match="trained for task 'classification' and cannot write captions"):
        openmplug.load(folders("classification", **LABELS), device="cpu").caption(pictures[0])


def test_in_bulk(folders: Callable[..., Path], pictures: list[Path], tmp_path: Path) -> None:
    folder = folders("classification", **LABELS)
    from openmplug.inference.bulk.inputs import open_inputs
    from openmplug.inference.bulk.job import Job
    from openmplug.inference.bulk.run import predict

    inputs = open_inputs([str(path) for path in pictures], None, None, 0, 1)
    predict(Job(verb="classify", inputs=inputs, model=folder, output=tmp_path / "classes.jsonl", device="cpu", workers=0))
    lines = [json.loads(line) for line in (tmp_path / "classes.jsonl").read_text().splitlines()]
    model = openmplug.load(folder, device="cpu")
    expected = model.classify(pictures)
    assert isinstance(expected, list)
    assert [(line["label"], line["probabilities"][0][0]) for line in lines] == [(one.text, one.text) for one in expected]
    assert [line["score"] for line in lines] == pytest.approx([one.score for one in expected], abs=1e-5)
