"""Drawings like NLVR's: equal for equal seeds, as the authors draw them, in their format, with statements that are as true as they say."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from openmplug.data.nlvr1_drawn import draw, write_nlvr1
from openmplug.data.nlvr1_scene import SIDE, Thing, alter, is_tower, make_scene, orders
from openmplug.data.readers.nlvr1 import read_scene
from openmplug.data.splits import DataSettings, read_split
from openmplug.errors import UsageError

TRAIN, DEV = 24, 5
BOX, WALL = (211, 211, 211), (128, 128, 128)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nlvr1")
    assert write_nlvr1(folder, TRAIN, DEV, seed=1) == {"train": TRAIN, "dev": DEV}
    return folder


def rows(root: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / f"{split}.jsonl").read_text().splitlines()]


def test_equal_seeds_give_equal_bytes(root: Path, tmp_path: Path) -> None:
    write_nlvr1(tmp_path, TRAIN, DEV, seed=1)
    names = sorted(path.name for path in root.iterdir())
    assert names == ["dev.jsonl", "dev_images.zip", "train.jsonl", "train_images.zip"]
    assert all((root / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)
    write_nlvr1(tmp_path, 4, 1, seed=2)
    assert rows(tmp_path, "train") != rows(root, "train")[:4]
    with pytest.raises(UsageError, match="train_scenes is 0"):
        write_nlvr1(tmp_path, 0)


def test_equal_seeds_give_equal_data_in_every_process(root: Path, tmp_path: Path) -> None:
    """Python orders sets of words anew in each process: nothing may follow from that order."""
    script = (
        "import hashlib, sys\n"
        "from pathlib import Path\n"
        "from openmplug.data.nlvr1_drawn import write_nlvr1\n"
        "from openmplug.data.splits import DataSettings, read_split\n"
        "root = Path(sys.argv[1])\n"
        "write_nlvr1(root, 24, 5, seed=1)\n"
        "said = [(one.id, one.text, one.targets) for one in read_split(DataSettings(reader='nlvr1', root=root), 'train_alike').samples]\n"
        "print(hashlib.sha256(repr(said).encode()).hexdigest())\n"
    )
    told = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", script, str(tmp_path / seed)]
        told.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout)
        for name in ("train.jsonl", "train_images.zip"):
            assert (tmp_path / seed / name).read_bytes() == (root / name).read_bytes()
    assert len(told) == 1


def test_the_readers_read_them(root: Path) -> None:
    settings = DataSettings(reader="nlvr1", root=root)
    for split, number in (("train", TRAIN), ("dev", DEV)):
        assert len(read_split(settings, split).samples) == 6 * number
    stated = read_split(settings, "train_statements")
    truths: dict[str, set[str]] = {}
    for one in stated.samples:
        truths.setdefault(one.text or "", set()).update(one.targets)
    assert len(stated.samples) > 6 * TRAIN and all(each == {"true", "false"} for each in truths.values())
    phrases = read_split(DataSettings(reader="nlvr1_grounding", root=root), "train_scenes")
    assert len({one.image for one in phrases.samples}) == 6 * TRAIN
    one = phrases.samples[0]
    assert one.box is not None and phrases.images.open(one.image or "").size == (400, 100)


def test_two_thirds_are_towers_and_a_statement_is_true_of_one_of_two_scenes(root: Path) -> None:
    every = rows(root, "train")
    assert sum(is_tower(read_scene(row, "a test")) for row in every) == TRAIN * 2 // 3
    for first, second in zip(every[::2], every[1::2], strict=True):
        assert first["sentence"] == second["sentence"] and {first["label"], second["label"]} == {"true", "false"}


def test_two_scenes_of_a_presentation_differ_by_one_thing() -> None:
    rng, kinds = random.Random(0), set()
    for index in range(90):
        scene = make_scene(rng, tower=index % 2 == 0)
        other = alter(scene, rng)
        (box, after), *more = [pair for pair in zip(scene, other, strict=True) if pair[0] != pair[1]] or [(scene[0], scene[0])]
        changed = sum(one not in after for one in box)
        assert not more and changed <= 2 and 0 <= len(box) - len(after) <= 1 and after
        kinds.add((len(box) - len(after), changed))
        if is_tower(scene):
            assert is_tower(other) and [one.top for one in after] == [one.top for one in box][: len(after)]
    assert {(1, 1), (0, 1), (0, 2)} <= kinds  # taken away, another colour, colours exchanged


def test_statements_tell_scenes_of_a_presentation_apart(root: Path) -> None:
    """Of every other order of the boxes: the others tell any two scenes apart."""
    told: dict[tuple[str, int], set[str]] = {}
    for one in read_split(DataSettings(reader="nlvr1", root=root), "train_alike").samples:
        _, _, count = one.id.rpartition("-")
        told.setdefault((f"{one.text} {count}", one.extra["permutation"]), set()).add(one.extra["sentence_id"])
    near, far = ([len(each) for (_, order), each in told.items() if order % 2 == side] for side in (0, 1))
    assert near.count(1) > 0.8 * len(near) and far.count(1) < 0.3 * len(far)


def test_a_drawing_shows_its_scene() -> None:
    blue, black = Thing("square", "blue", 20, 40, 80), Thing("circle", "black", 30, 70, 0)
    picture = draw(((blue,), (), (black,)))
    assert picture.size == (400, 100)
    assert [picture.getpixel(at) for at in ((50, 90), (39, 90), (50, 79), (100, 5), (149, 5), (150, 5))] == [
        *((0, 153, 255), BOX, BOX, WALL, WALL, BOX)
    ]
    assert picture.getpixel((385, 15)) == (0, 0, 0) and picture.getpixel((371, 1)) == BOX  # the corner around a circle


def test_things_lie_in_their_box_and_do_not_meet() -> None:
    rng = random.Random(0)
    for index in range(60):
        scene = make_scene(rng, tower=index % 2 == 0)
        assert is_tower(scene) == (index % 2 == 0)
        for box in scene:
            assert 1 <= len(box) <= 7
            assert all(0 <= one.left <= SIDE - one.size and 0 <= one.top <= SIDE - one.size for one in box)
            assert not any(one.meets(other) for place, one in enumerate(box) for other in box[:place])


def test_nlvrs_own_drawings_look_the_same(data_root: Path) -> None:
    archive = tarfile.open(data_root / "nlvr1" / "dev_images.tar")  # noqa: SIM115
    with archive, (data_root / "nlvr1" / "dev.jsonl").open() as lines:
        for row in [json.loads(line) for line in lines][::97]:
            for name, scene in zip(row["images"], orders(read_scene(row, "a test")), strict=True):
                member = archive.extractfile(name)
                assert member is not None
                theirs = np.asarray(Image.open(io.BytesIO(member.read())).convert("RGB")).astype(int)
                assert np.abs(theirs - np.asarray(draw(scene)).astype(int)).max() <= 40  # soft edges differ a little
