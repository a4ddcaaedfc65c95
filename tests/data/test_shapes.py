"""The generated data set: deterministic, true to its pictures, unseen compositions in dev, and hard to guess blind."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openmplug.data.shapes import ALONE, TASKS, draw, write_shapes
from openmplug.data.shapes_scene import COLOURS, PAIRS, SHAPES, UNSEEN, Scene, make_scene
from openmplug.data.shapes_text import captions, questions, statements
from openmplug.data.splits import DataSettings, read_split
from openmplug.data.tokenizer import Tokenizer
from openmplug.errors import UsageError

TRAIN, DEV = 400, 120


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, TRAIN, DEV, seed=1)
    return folder


def rows(root: Path, task: str, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / task / f"{split}.jsonl").read_text().splitlines()]


def scenes(count: int, unseen: bool) -> list[Scene]:
    return [make_scene(random.Random(f"scene/{index}"), unseen) for index in range(count)]


def test_equal_seeds_give_equal_bytes(root: Path, tmp_path: Path) -> None:
    counts = write_shapes(tmp_path, TRAIN, DEV, seed=1)
    files = sorted(path.relative_to(root) for path in root.rglob("*.*"))
    assert len(files) == 2 * 2 * (len(TASKS) + 1) + 1
    assert all((root / name).read_bytes() == (tmp_path / name).read_bytes() for name in files)
    assert counts["caption/train"] == TRAIN and counts["retrieval/dev"] == DEV and counts["statements/dev"] == 2 * DEV
    write_shapes(tmp_path, TRAIN, DEV, seed=2)
    assert (root / "vqa" / "dev.jsonl").read_bytes() != (tmp_path / "vqa" / "dev.jsonl").read_bytes()


def test_the_vocabulary_has_every_word_of_every_training_text(root: Path) -> None:
    words = Tokenizer.from_vocab_file(root / "vocab.txt")
    said = [row.get(field, "") for task in TASKS for row in rows(root, task, "train") for field in ("question", "answer", "phrase", "text")]
    said += [text for row in rows(root, "caption", "train") for text in row["captions"]]
    assert not any(words.unk_id in words([text]).ids for text in set(said) if text)


@pytest.mark.parametrize("task", ["vqa", "caption", "retrieval", "statements"])
def test_the_readers_read_it(root: Path, task: str) -> None:
    for split, pictures in (("train", TRAIN), ("dev", DEV)):
        result = read_split(DataSettings(root=root / task), split)
        assert {sample.image for sample in result.samples} <= set(result.images.names()) and len(result.images.names()) == pictures
        assert all(sample.targets for sample in result.samples)
        assert result.images.open(result.samples[-1].image or "").size == (64, 64)


def test_a_picture_of_one_figure_shows_nothing_but_its_box(root: Path) -> None:
    for split, pictures in (("train", TRAIN), ("dev", DEV)):
        found = read_split(DataSettings(root=root / ALONE), split)
        assert len(found.samples) == len(found.images.names()) == pictures
        for sample in found.samples[:50]:
            pixels = np.array(found.images.open(sample.image or ""))
            left, top, right, bottom = (round(side) for side in sample.box or ())
            outside = np.ones((64, 64), dtype=bool)
            outside[max(0, top - 3) : bottom + 3, max(0, left - 3) : right + 3] = False  # edges are soft
            assert len(np.unique(pixels[outside], axis=0)) == 1
            assert len(np.unique(pixels[~outside], axis=0)) > 1


def test_unseen_pairs_are_unseen(root: Path) -> None:
    names = [f"{colour} {shape}" for colour, shape in UNSEEN]
    for task in (*TASKS, ALONE):
        text = (root / task / "train.jsonl").read_text()
        assert not any(name in text for name in names), task
    assert not any(scene.pairs & set(UNSEEN) for scene in scenes(300, unseen=False))
    assert all(scene.pairs & set(UNSEEN) and scene.figures[scene.focus or 0].pair in UNSEEN for scene in scenes(300, unseen=True))
    seen = {pair for scene in scenes(300, unseen=False) for pair in scene.pairs}
    assert seen == set(PAIRS) - set(UNSEEN)
    assert {colour for colour, _ in seen} == set(COLOURS) and {shape for _, shape in seen} == set(SHAPES)


def test_dev_captions_tell_all_pictures_apart(root: Path) -> None:
    described = [text for row in rows(root, "retrieval", "dev") for text in row["captions"]]
    assert len(described) == len(set(described)) == 2 * DEV


def test_boxes_enclose_the_colour() -> None:
    for scene in scenes(100, unseen=True):
        image, boxes = draw(scene)
        pixels = np.asarray(image).astype(int)
        for figure, (x1, y1, x2, y2) in zip(scene.figures, boxes, strict=True):
            assert 0 <= x1 < x2 <= 64 and 0 <= y1 < y2 <= 64
            rows_, columns = np.nonzero(np.abs(pixels - COLOURS[figure.colour]).max(axis=2) < 8)
            mine = (rows_ >= y1 - 1) & (rows_ <= y2) & (columns >= x1 - 1) & (columns <= x2)
            assert mine.sum() > 30, (figure, (x1, y1, x2, y2))  # full colour inside its box
            assert x1 - 1 <= figure.x <= x2 + 1 and y1 - 1 <= figure.y <= y2 + 1
        centres = [(figure.x, figure.y) for figure in scene.figures]
        for index, first in enumerate(boxes):
            inside = [x for x, y in centres if first[0] <= x <= first[2] and first[1] <= y <= first[3]]
            assert len(inside) == 1, "boxes hold one figure each"
            assert centres[index][0] in inside


def answer(scene: Scene, kind: str, text: str) -> str:
    """Answer a question from the scene alone, by other means than the generator's."""
    words = text.rstrip("?").split()
    by_name = {figure.name: figure for figure in scene.figures}
    if kind == "colour":
        return next(figure.colour for figure in scene.figures if figure.shape == words[-1])
    if kind == "shape":
        return next(figure.shape for figure in scene.figures if figure.colour == words[-2])
    if kind == "count":
        named = " ".join(words[2:-2])
        return str(sum(named == "things" or named.removesuffix(" things") == f.colour or named.startswith(f.shape) for f in scene.figures))
    if kind == "exists":
        return "yes" if " ".join(words[-2:]) in by_name else "no"
    first, second = (by_name[" ".join(pair)] for pair in (words[3:5] if kind == "where" else words[2:4], words[-2:]))
    dx, dy = second.x - first.x, second.y - first.y
    where = ("left" if dx > 0 else "right") if abs(dx) > abs(dy) else ("above" if dy > 0 else "below")
    return where if kind == "where" else "yes" if where == words[4] else "no"


@pytest.mark.parametrize("unseen", [False, True])
def test_answers_are_true(unseen: bool) -> None:
    rng, asked, kinds = random.Random(0), Counter[tuple[str, str]](), Counter[str]()
    for scene in scenes(300, unseen):
        for question in questions(scene, rng, asked):
            assert answer(scene, question.kind, question.text) == question.answer, (question, scene)
            kinds[question.kind] += 1
    assert set(kinds) == {"colour", "shape", "count", "exists", "where", "relation"} and min(kinds.values()) > 100


def test_captions_and_statements_are_true_or_false_as_labelled() -> None:
    rng = random.Random(0)
    for scene in scenes(200, unseen=True):
        names = {figure.name for figure in scene.figures}
        for text in captions(scene):
            assert all(name in text for name in names)
        for text, label in statements(scene, rng):
            if text.startswith("there is a "):
                assert (text.removeprefix("there is a ") in names) == label
            else:
                how = "left right above below".split()
                said = next(word for word in text.split() if word in how)
                first, second = (" ".join(part.split()[-2:]) for part in (text.split(" is ")[0], text))
                question = f"where is the {first} relative to the {second}?"
                assert (answer(scene, "where", question) == said) == label


def test_the_question_alone_tells_little(root: Path) -> None:
    table: dict[str, Counter[str]] = defaultdict(Counter)
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows(root, "vqa", "train"):
        table[row["question"]][row["answer"]] += 1
        kinds[row["kind"]][row["answer"]] += 1
    dev = rows(root, "vqa", "dev")
    right = sum((table.get(row["question"]) or kinds[row["kind"]]).most_common(1)[0][0] == row["answer"] for row in dev)
    assert right / len(dev) < 0.37


def test_impossible_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train_images is 0 and dev_images 5; expected at least 1 each"):
        write_shapes(tmp_path, 0, 5)
