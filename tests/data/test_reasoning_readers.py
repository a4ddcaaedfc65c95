"""NLVR2 and NLVR in their official files: where pictures lie, what is carved, what is refused."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from openmplug.data.readers import READERS, Split
from openmplug.errors import DataError

PAIR = {"identifier": "dev-850-2-1", "sentence": "The left one is red.", "label": "True"}
DRAWING = {"identifier": "1572-3", "sentence": "There is a tower.", "label": "true"}


def read(reader: str, root: Path, split: str) -> Split:
    return READERS[reader](root, split, {})


def write(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pictures(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)


# ------------------------------------------------------------------------------------------------------------------------ NLVR2


def test_nlvr2(tmp_path: Path) -> None:
    write(tmp_path / "data/dev.json", PAIR, {**PAIR, "identifier": "dev-850-3-1", "label": "False"}, {**PAIR, "label": None})
    pictures(tmp_path, *(f"dev/dev-850-{pair}-img{side}.png" for pair in (2, 3) for side in (0, 1)))
    split = read("nlvr2", tmp_path, "dev")
    first, second, bare = split.samples
    assert (first.id, first.pictures, first.text) == (
        "dev-850-2-1",
        ("dev-850-2-img0.png", "dev-850-2-img1.png"),
        "The left one is red.",
    )
    assert first.targets == first.references == ("True",) and second.targets == ("False",)
    assert first.extra == {"identifier": "dev-850-2-1", "sentence_id": "dev-850-1"}
    assert second.extra["sentence_id"] == first.extra["sentence_id"] and second.image_index == 1
    assert bare.targets == bare.weights == bare.references == ()
    assert all(split.images.open(name).size == (4, 4) for sample in split.samples for name in sample.pictures)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("images/train/65/", "65/train-9-0-img{}.png"),
        ("images/", "train-9-0-img{}.png"),
        ("images/", "train-9-0-img{}.jpg"),
        ("train/", "65/train-9-0-img{}.png"),
        ("train_images/", "train-9-0-img{}.jpg"),
    ],
)
def test_where_the_photos_of_nlvr2_may_lie(tmp_path: Path, folder: str, name: str) -> None:
    write(tmp_path / "train.jsonl", {**PAIR, "identifier": "train-9-0-0", "directory": 65})
    place = folder if folder.endswith("65/") else folder + name.rpartition("/")[0]
    pictures(tmp_path / place, *(name.rpartition("/")[2].format(side) for side in (0, 1)))
    split = read("nlvr2", tmp_path, "train")
    assert split.samples[0].pictures == (name.format(0), name.format(1))
    assert all(picture in split.images for picture in split.samples[0].pictures)


def test_photos_of_nlvr2_in_an_archive_and_missing_ones(tmp_path: Path) -> None:
    write(tmp_path / "balanced/balanced_dev.json", PAIR, {**PAIR, "identifier": "dev-1-0-0"})
    pictures(tmp_path / "made", "dev-850-2-img0.png", "dev-850-2-img1.png")
    with tarfile.open(tmp_path / "dev.tar", "w") as archive:
        archive.add(tmp_path / "made", "dev")
    split = read("nlvr2", tmp_path, "balanced/balanced_dev")
    assert split.images.open(split.samples[0].pictures[1]).size == (4, 4)
    assert split.samples[1].pictures == ("dev-1-0-img0.png", "dev-1-0-img1.png")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**PAIR, "identifier": "dev-850-2"}, r"dev\.jsonl line 1: identifier 'dev-850-2', expected SPLIT-SET-PAIR-SENTENCE such as"),
        ({**PAIR, "label": "maybe"}, r"dev\.jsonl line 1: label 'maybe', expected True or False"),
        ({**PAIR, "sentence": None}, r"dev\.jsonl line 1: no 'sentence'; found identifier, label, sentence"),
    ],
)
def test_nlvr2_errors(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    write(tmp_path / "dev.jsonl", row)
    with pytest.raises(DataError, match=message):
        read("nlvr2", tmp_path, "dev")


def test_nlvr2_without_its_file(tmp_path: Path) -> None:
    write(tmp_path / "test2.jsonl", PAIR)
    with pytest.raises(DataError, match=r"'dev' not found in .*: expected data/dev\.json or .* or dev\.jsonl; found test2\.jsonl"):
        read("nlvr2", tmp_path, "dev")


# ------------------------------------------------------------------------------------------------------------------------- NLVR


def drawings(root: Path, split: str, *identifiers: str) -> None:
    rows = [{**DRAWING, "identifier": one, "images": [f"{split}-{one}-{k}.png" for k in range(6)]} for one in identifiers]
    write(root / f"{split}.jsonl", *rows)
    pictures(root / f"{split}_images", *(name for row in rows for name in row["images"]))


def test_nlvr1_has_six_drawings_an_example(tmp_path: Path) -> None:
    drawings(tmp_path, "dev", "1572-3")
    split = read("nlvr1", tmp_path, "dev")
    assert [one.id for one in split.samples] == [f"1572-3-{k}" for k in range(6)]
    last = split.samples[5]
    assert (last.image, last.text, last.targets) == ("dev-1572-3-5.png", "There is a tower.", ("true",))
    assert last.extra == {"identifier": "1572-3", "sentence_id": "1572", "permutation": 5} and last.image_index == 5
    assert all(one.image in split.images for one in split.samples)
    assert [one.id for one in read("nlvr1", tmp_path, "dev_first").samples] == ["1572-3-0"]


def test_training_and_validation_of_nlvr1_share_no_presentation(tmp_path: Path) -> None:
    drawings(tmp_path, "dev", "10-0", "11-0", "11-1")
    drawings(tmp_path, "test_u", "7-0", "20-2")
    train, valid, first = (read("nlvr1", tmp_path, name) for name in ("train", "valid", "valid_first"))
    assert [one.id for one in train.samples][::6] == ["dev/11-0-0", "dev/11-1-0", "test_u/7-0-0"] and len(train.samples) == 18
    assert [one.id for one in valid.samples][::6] == ["dev/10-0-0", "test_u/20-2-0"] and len(valid.samples) == 12
    assert [one.id for one in first.samples] == ["dev/10-0-0", "test_u/20-2-0"]
    assert valid.images.open("test_u/test_u-20-2-4.png").size == (4, 4)
    drawings(tmp_path, "train", "30-0")
    assert [one.id for one in read("nlvr1", tmp_path, "train").samples][::6] == ["30-0-0"]


def test_statements_of_nlvr1_are_of_training_scenes_alone(tmp_path: Path) -> None:
    block = {"type": "square", "size": 20, "x_loc": 40, "y_loc": 80}
    for split in ("dev", "test_u"):
        drawings(tmp_path, split, "30-0", "31-0", "32-0")
        rows = [json.loads(line) for line in (tmp_path / f"{split}.jsonl").read_text().splitlines()]
        scenes = ([[{**block, "color": colour}], [], []] for colour in ("Yellow", "Black", "#0099ff"))
        write(tmp_path / f"{split}.jsonl", *({**row, "structured_rep": scene} for row, scene in zip(rows, scenes, strict=True)))
    made = read("nlvr1", tmp_path, "train_statements")
    assert {one.extra["identifier"] for one in made.samples} == {"31-0", "32-0"}  # every tenth presentation is held out
    assert len({one.id for one in made.samples}) == len(made.samples) and made.images.open(made.samples[0].image or "").size == (4, 4)
    truths: dict[str, list[str]] = {}
    for one in made.samples:
        truths.setdefault(one.text or "", []).append(one.targets[0])
    assert len(truths) > 10 and all(each.count("true") == each.count("false") for each in truths.values())
    things = read("nlvr1", tmp_path, "train_things").samples
    assert len(things) > 10 and all(re.search(r" in the (left|middle|right) box$", one.text or "") for one in things)


def test_the_authors_own_folders_of_nlvr1(tmp_path: Path) -> None:
    write(tmp_path / "dev/dev.json", {**DRAWING, "directory": "4", "label": True})
    pictures(tmp_path / "dev/images/4", *(f"dev-1572-3-{k}.png" for k in range(6)))
    split = read("nlvr1", tmp_path, "dev")
    assert split.samples[2].image == "4/dev-1572-3-2.png" and split.samples[2].targets == ("true",)
    assert all(one.image in split.images for one in split.samples)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**DRAWING, "identifier": "1572"}, r"dev\.jsonl line 1: identifier '1572', expected PRESENTATION-POSITION such as 1572-0"),
        ({**DRAWING, "images": ["a.png"]}, r"dev\.jsonl line 1: 1 images, expected 6, one for each order of the boxes"),
        ({**DRAWING, "label": 2}, r"dev\.jsonl line 1: label 2, expected true or false"),
    ],
)
def test_nlvr1_errors(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    write(tmp_path / "dev.jsonl", row)
    with pytest.raises(DataError, match=message):
        read("nlvr1", tmp_path, "dev")


def test_nothing_to_validate_nlvr1_on(tmp_path: Path) -> None:
    drawings(tmp_path, "dev", "11-0")
    drawings(tmp_path, "test_u", "12-0")
    with pytest.raises(DataError, match=r"NLVR split 'valid' of .*: none of the 12 drawings of dev and test_u is in it"):
        read("nlvr1", tmp_path, "valid")


# -------------------------------------------------------------------------------------------------- real records, where they are


def test_real_records_of_nlvr2(data_root: Path, tmp_path: Path) -> None:
    samples = data_root / "format_samples"
    (tmp_path / "dev.jsonl").write_bytes((samples / "nlvr2_dev20.jsonl").read_bytes())
    assert len(read("nlvr2", tmp_path, "dev").samples) == 20
    (tmp_path / "dev.jsonl").write_bytes((samples / "nlvr2_with_images.jsonl").read_bytes())
    with tarfile.open(samples / "images.tar") as archive:
        archive.extractall(tmp_path, [member for member in archive if member.name.startswith("nlvr2/")], filter="data")
    (tmp_path / "nlvr2").rename(tmp_path / "images")
    split = read("nlvr2", tmp_path, "dev")
    assert len(split.samples) == 8 and len({one.extra["sentence_id"] for one in split.samples}) == 2
    assert {name for one in split.samples for name in one.pictures} <= set(split.images.names())
    assert {one.targets[0] for one in split.samples} == {"True", "False"}


def test_real_records_of_nlvr1(data_root: Path) -> None:
    train, valid = (read("nlvr1", data_root / "nlvr1", name).samples for name in ("train", "valid"))
    assert (len(train), len(valid)) == (10584, 1260)
    assert not {one.extra["sentence_id"] for one in train} & {one.extra["sentence_id"] for one in valid}
