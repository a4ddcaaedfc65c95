"""The generated clips: deterministic, read back without loss, unseen compositions in dev, and silent in every single frame about motion."""

from __future__ import annotations

import io
import json
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from openmplug.data.moving import TASKS, draw_clip, encode_gif, write_moving
from openmplug.data.moving_scene import ALWAYS, COLOURS, DIRECTIONS, FIRST, FRAMES, SECOND, SHAPES, THINGS, Clip, Mover, held_out, make_clip
from openmplug.data.moving_text import MOTION_KINDS, captions, questions
from openmplug.data.shapes_scene import SIZE
from openmplug.data.splits import DataSettings, read_split
from openmplug.data.tokenizer import Tokenizer
from openmplug.errors import UsageError

TRAIN, DEV = 120, 60


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moving")
    write_moving(folder, TRAIN, DEV, seed=1)
    return folder


def rows(root: Path, task: str, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / task / f"{split}.jsonl").read_text().splitlines()]


def clips(count: int, unseen: bool) -> list[Clip]:
    return [make_clip(random.Random(f"clip/{index}"), unseen) for index in range(count)]


def test_equal_seeds_give_equal_bytes(root: Path, tmp_path: Path) -> None:
    counts = write_moving(tmp_path, TRAIN, DEV, seed=1)
    files = sorted(path.relative_to(root) for path in root.rglob("*.*"))
    assert len(files) == 2 * 2 * len(TASKS) + 3
    assert all((root / name).read_bytes() == (tmp_path / name).read_bytes() for name in files)
    assert counts["caption/train"] == TRAIN and counts["retrieval/dev"] == DEV
    write_moving(tmp_path, 5, 5, seed=2)
    assert rows(tmp_path, "caption", "dev") != rows(root, "caption", "dev")[:5]


@pytest.mark.parametrize("task", TASKS)
def test_the_reader_reads_it(root: Path, task: str) -> None:
    for split, number in (("train", TRAIN), ("dev", DEV)):
        result = read_split(DataSettings(root=root / task), split)
        alone = {row["video"] for row in rows(root, "caption", split) if row["captions"][0].count(" moves ") == 1}
        shown = alone if task == "direction" else set(result.images.names())
        assert {sample.image for sample in result.samples} == shown and len(result.images.names()) == number
        assert all(sample.clip and sample.targets for sample in result.samples)
    told = read_split(DataSettings(root=root / "words", columns={"image": None}), "dev").samples
    assert len(told) == len(rows(root, "vqa", "dev")) and all(sample.image is None and sample.targets for sample in told)
    words = Tokenizer.from_vocab_file(root / "vocab.txt")
    assert words.unk_id not in words.encode(" ".join(text for row in rows(root, "caption", "dev") for text in row["captions"]))


def test_a_direction_is_what_the_caption_says(root: Path) -> None:
    told = {row["video"]: row["captions"][0] for row in rows(root, "caption", "train")}
    labels = [(row["label"], told[row["video"]]) for row in rows(root, "direction", "train")]
    assert {label for label, _ in labels} == set(DIRECTIONS)
    assert all(caption.endswith(f"moves {label}") for label, caption in labels)


def test_a_gif_keeps_every_pixel_and_every_frame() -> None:
    for clip in clips(20, unseen=False):
        frames = draw_clip(clip)
        read = [frame.convert("RGB") for frame in ImageSequence.Iterator(Image.open(io.BytesIO(encode_gif(frames))))]
        assert len(frames) == len(read) == FRAMES
        assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(frames, read, strict=True))
    noise = np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8)
    with pytest.raises(ValueError, match=r"\d+ colours; a GIF holds 256"):
        encode_gif([Image.fromarray(noise)] * 2)


def test_things_are_where_their_movement_brings_them_and_never_touch() -> None:
    for clip in clips(60, unseen=True):
        for mover in clip.movers:
            dx, dy = DIRECTIONS[mover.direction]
            for frame in range(FRAMES - 1):
                (x1, y1), (x2, y2) = mover.place(frame), mover.place(frame + 1)
                gone = mover.speed if frame in mover.steps else 0.0
                assert (x2 - x1 - gone * dx) % SIZE == pytest.approx(0, abs=1e-6) or (x2 - x1 - gone * dx) % SIZE == pytest.approx(SIZE)
                assert (y2 - y1 - gone * dy) % SIZE == pytest.approx(0, abs=1e-6) or (y2 - y1 - gone * dy) % SIZE == pytest.approx(SIZE)
        for frame in range(FRAMES):
            places = [mover.place(frame) for mover in clip.movers]
            for n, (x1, y1) in enumerate(places):
                for m, (x2, y2) in enumerate(places[:n]):
                    dx, dy = (min(abs(a - b), SIZE - abs(a - b)) for a, b in ((x1, x2), (y1, y2)))
                    assert dx**2 + dy**2 >= (clip.movers[n].radius + clip.movers[m].radius) ** 2


def mover(thing: tuple[str, str], direction: str) -> Mover:
    return Mover(*thing, 0.0, 0.0, 10.0, direction, ALWAYS, 8.0)


def test_held_out_compositions_are_in_dev_only() -> None:
    train, dev = clips(300, unseen=False), clips(300, unseen=True)
    assert not any(clip.unseen for clip in train)
    assert all(clip.unseen for clip in dev if len(clip.movers) > 1)
    assert {mover.pair for clip in train for mover in clip.movers} == set(THINGS)
    assert len(THINGS) == len(COLOURS) * len(SHAPES) == 16
    movements = [mover(thing, direction) for thing in THINGS for direction in DIRECTIONS]
    pairs = [(a, b) for a in movements for b in movements if a.colour != b.colour]
    assert all(held_out(a, b) == held_out(b, a) for a, b in pairs)
    for thing in THINGS:  # whatever one of them is, the other may be anything about as often: no rule to learn
        for shape in SHAPES:
            held = [held_out(a, b) for a, b in pairs if a.pair == thing and b.shape == shape]
            assert 0.1 < sum(held) / len(held) < 0.4


def answer(clip: Clip, kind: str, text: str) -> str:
    """Answer a question from the clip alone, by other means than the generator's."""
    words = text.rstrip("?").split()
    by_name = {mover.name: mover for mover in clip.movers}

    def moved(mover: Mover, start: int, stop: int) -> bool:
        return mover.place(start) != mover.place(stop)

    if kind == "direction":
        mover = by_name[" ".join(words[4:6])]
        frame = mover.steps[0]
        (x1, y1), (x2, y2) = mover.place(frame), mover.place(frame + 1)
        dx, dy = ((b - a + SIZE / 2) % SIZE - SIZE / 2 for a, b in ((x1, x2), (y1, y2)))
        return ("right" if dx > 0 else "left") if abs(dx) > abs(dy) else ("down" if dy > 0 else "up")
    if kind == "first":
        return next(mover.colour for mover in clip.movers if moved(mover, 0, 3))
    if kind == "order":
        return "first" if moved(by_name[" ".join(words[2:4])], 0, 3) else "last"
    if kind == "colour":
        return next(mover.colour for mover in clip.movers if mover.shape == words[-1])
    if kind == "shape":
        return next(mover.shape for mover in clip.movers if mover.colour == words[-2])
    return str(sum(words[2] == "things" or words[2].startswith(mover.shape) for mover in clip.movers))


@pytest.mark.parametrize("unseen", [False, True])
def test_answers_are_true(unseen: bool) -> None:
    rng, asked, kinds = random.Random(0), Counter[tuple[str, str]](), Counter[str]()
    for clip in clips(300, unseen):
        for question in questions(clip, rng, asked):
            assert answer(clip, question.kind, question.text) == question.answer, (question, clip)
            kinds[question.kind] += 1
    assert set(kinds) == {*MOTION_KINDS, "colour", "shape", "count"} and min(kinds.values()) > 50


def test_captions_tell_dev_clips_apart_and_say_what_moves_when(root: Path) -> None:
    described = [text for row in rows(root, "retrieval", "dev") for text in row["captions"]]
    assert len(set(described)) == len(described) >= 2 * DEV
    for clip in clips(100, unseen=True):
        for text in captions(clip):
            assert all(
                f"{mover.name} moves {mover.direction}" in text or f"moving {mover.direction}, a {mover.name}" == text
                for mover in clip.movers
            )
        if clip.turns:
            assert [mover.steps for mover in clip.movers] == [FIRST, SECOND]
            for text in captions(clip):
                parts = [part.split() for part in text.split(", ")]
                told = {part[0] if part[0] != "a" else part[-1]: " ".join(part) for part in parts}
                assert clip.movers[0].name in told["first"] and clip.movers[1].name in told["last"]
        else:
            assert {mover.steps for mover in clip.movers} == {ALWAYS}


def test_the_question_alone_tells_little() -> None:
    tables: dict[str, Counter[str]] = defaultdict(Counter)
    rng, asked = random.Random(0), Counter[tuple[str, str]]()
    for clip in clips(1500, unseen=False):
        for question in questions(clip, rng, asked):
            tables[question.kind][question.answer] += 1
    chance = {"direction": 0.25, "first": 0.25, "order": 0.5, "colour": 0.25, "shape": 0.25, "count": 0.5}
    for kind, table in tables.items():
        assert max(table.values()) / table.total() < chance[kind] + 0.08, kind


def test_a_single_frame_tells_nothing_of_the_direction() -> None:
    """Where a thing is in a frame, on average over many clips, does not depend on which way it moves."""
    places: dict[str, list[complex]] = defaultdict(list)
    turn = 2 * np.pi / SIZE
    for clip in clips(4000, unseen=False):
        mover = clip.movers[0]
        x, y = mover.place(3)
        places[mover.direction] += [np.exp(1j * turn * x), np.exp(1j * turn * y)]
    for found in places.values():  # the mean place on a circle of uniform places: 0 within its error
        for axis in (found[::2], found[1::2]):
            assert abs(np.mean(axis)) < 4 / np.sqrt(len(axis))


def test_impossible_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train_clips is 0 and dev_clips 5; expected at least 1 each"):
        write_moving(tmp_path, 0, 5)
