"""RefCOCO's own files, the lists of the mPLUG scripts, NLVR's boxes and boxes in one's own files; and what is wrong with bad ones."""

from __future__ import annotations

import json
import pickle
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from openmplug.data.readers import READERS, Split
from openmplug.data.shapes import write_shapes
from openmplug.errors import DataError

BOX = [10.0, 20.0, 30.0, 40.0]


def read(reader: str, root: Path, split: str, **columns: str | None) -> Split:
    return READERS[reader](root, split, columns)


def refcoco(root: Path, partition: str = "unc", protocol: int = 2, **changes: Any) -> Path:
    """Write three references in two splits, fields and names as in refs(unc).p."""
    root.mkdir(parents=True, exist_ok=True)
    sentences = [
        {"tokens": ["blue", "shirt"], "raw": "blue shirt!", "sent_id": 2 * n + k, "sent": f"blue shirt {k}"}
        for n in range(3)
        for k in (0, 1)
    ]
    references = [
        {
            "sent_ids": [2 * n, 2 * n + 1],
            "file_name": f"COCO_train2014_{n:012d}_{n}.jpg",
            "ann_id": 50 + n,
            "ref_id": n,
            "image_id": n % 2,
            "split": "val" if n == 2 else "train",
            "sentences": sentences[2 * n : 2 * n + 2],
            "category_id": 1,
            **changes,
        }
        for n in range(3)
    ]
    (root / f"refs({partition}).p").write_bytes(pickle.dumps(references, protocol=protocol))
    instances = {
        "images": [{"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "height": 60, "width": 80} for n in (0, 1)],
        "annotations": [{"id": 50 + n, "image_id": n % 2, "bbox": [10.5, 20, 30, 15.5 + n]} for n in range(3)],
    }
    (root / "instances.json").write_text(json.dumps(instances))
    return root


@pytest.mark.parametrize("protocol", [0, 2])
def test_refcoco(tmp_path: Path, protocol: int) -> None:
    root = refcoco(tmp_path / "refcoco", protocol=protocol)
    (tmp_path / "train2014").mkdir()
    Image.new("RGB", (80, 60)).save(tmp_path / "train2014" / "COCO_train2014_000000000001.jpg")
    split = read("refcoco", root, "train")
    assert [(one.id, one.text, one.image_index, one.box) for one in split.samples] == [
        ("0", "blue shirt 0", 0, (10.5, 20.0, 40.5, 35.5)),
        ("1", "blue shirt 1", 0, (10.5, 20.0, 40.5, 35.5)),
        ("2", "blue shirt 0", 1, (10.5, 20.0, 40.5, 36.5)),
        ("3", "blue shirt 1", 1, (10.5, 20.0, 40.5, 36.5)),
    ]
    assert split.samples[2].extra == {"ref_id": 1, "ann_id": 51, "image_id": 1}
    assert split.images.open(split.samples[2].image or "").size == (80, 60)  # train2014 lies one folder above


def test_refcocogs_partitions(tmp_path: Path) -> None:
    refcoco(tmp_path, "google")
    refcoco(tmp_path, "umd", split="test")
    assert len(read("refcoco", tmp_path, "test").samples) == 6  # umd comes first
    assert len(read("refcoco", tmp_path, "google/val").samples) == 2
    with pytest.raises(DataError, match=r"refs\(umd\)\.p: no reference of split 'val'; it has test"):
        read("refcoco", tmp_path, "umd/val")


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def test_a_pickle_that_would_run_code_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refcoco(tmp_path)
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([Harmful()]))
    torch.save([Harmful()], tmp_path / "unc_val.pth")
    with pytest.raises(DataError, match=r"refs\(unc\)\.p is not a pickle of plain values \(names (__builtin__|builtins)\.print\)"):
        read("refcoco", tmp_path, "val")
    with pytest.raises(DataError, match=r"unc_val\.pth is not a torch file of plain values"):
        read("transvg", tmp_path, "unc_val")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ann_id": 99}, r"reference 1: instances\.json has no annotation 99"),
        ({"image_id": 7}, r"reference 1: instances\.json has no picture 7"),
        ({"sentences": None}, r"reference 1: no 'sentences'; found ann_id, category_id"),
    ],
)
def test_references_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read("refcoco", refcoco(tmp_path, **changes), "train")


def test_files_that_are_missing_or_cut(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"references of split 'val' not found in .*expected refs\(unc\)\.p or refs\(umd\)\.p"):
        read("refcoco", tmp_path, "val")
    refcoco(tmp_path)
    (tmp_path / "refs(unc).p").write_bytes((tmp_path / "refs(unc).p").read_bytes()[:40])
    with pytest.raises(DataError, match="is not a pickle of plain values"):
        read("refcoco", tmp_path, "val")
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps({}))
    with pytest.raises(DataError, match="expected a list of references, got dict"):
        read("refcoco", tmp_path, "val")


def test_the_real_record(data_root: Path, tmp_path: Path) -> None:
    record = json.loads((data_root / "format_samples" / "refcoco_refs_unc_record.json").read_text())
    refcoco(tmp_path, protocol=0)
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(record, protocol=0))
    instances = {
        "images": [{"id": 581857, "file_name": "COCO_train2014_000000581857.jpg"}],
        "annotations": [{"id": 1719310, "bbox": [103.93, 299.99, 134.22, 177.42]}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    samples = read("refcoco", tmp_path, "train").samples
    assert [one.text for one in samples] == ["the lady with the blue shirt", "lady with back to us", "blue shirt"]
    assert samples[0].box == pytest.approx((103.93, 299.99, 238.15, 477.41))


def test_transvg_lists(tmp_path: Path) -> None:
    (tmp_path / "unc").mkdir()
    rows = [("COCO_train2014_1.jpg", "x.pth", [10, 20, 30, 40], "a cup", [("r1", ["none"])]), ("b.jpg", "y", [1, 2, 3, 4], "man", [])]
    torch.save(rows, tmp_path / "unc" / "unc_val.pth")
    samples = read("transvg", tmp_path, "unc_val").samples
    assert [(one.id, one.image, one.text, one.box) for one in samples] == [
        ("0", "COCO_train2014_1.jpg", "a cup", (10, 20, 40, 60)),
        ("1", "b.jpg", "man", (1, 2, 4, 6)),
    ]
    torch.save([(rows[0][0], "x", BOX, "a cup", [])], tmp_path / "referit_test.pth")  # these are corners
    assert read("transvg", tmp_path, "referit_test").samples[0].box == (10, 20, 30, 40)
    torch.save([("1.jpg", BOX, "a cup")], tmp_path / "flickr_test.pth")
    assert read("transvg", tmp_path, "flickr_test").samples[0].box == (10, 20, 30, 40)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a.jpg", "x", [1, 2, 3], "cup", [])], r"row 1: 'box' is \[1, 2, 3\], expected \[left, top, width, height\] in pixels"),
        ([("a.jpg", "x", [1, 2, 0, 4], "cup", [])], r"row 1: 'box' is \[1, 2, 0, 4\], a box without area"),
        ([("a.jpg", [1, 2, 3, 4])], r"row 1: expected \(picture, _, box, phrase, attributes\), got \('a\.jpg'"),
        ([], r"expected a list of tuples, got an empty list"),
        ({"a": 1}, r"expected a list of tuples, got dict"),
    ],
)
def test_transvg_lists_that_are_wrong(tmp_path: Path, rows: Any, message: str) -> None:
    torch.save(rows, tmp_path / "unc_val.pth")
    with pytest.raises(DataError, match=message):
        read("transvg", tmp_path, "unc_val")


def nlvr1(root: Path, **changes: Any) -> Path:
    for file, first in (("dev", 8), ("test_u", 18)):
        (root / f"{file}_images").mkdir(parents=True)
        rows = []
        for n in range(first, first + 5):
            name = f"{file}-{n}-0-0.png"
            Image.new("RGB", (400, 100), "white").save(root / f"{file}_images" / name)
            rows.append({"image": name, "identifier": f"{n}-0", "expression": f"the box {n}", "bbox": [10, 20, 30, 40], **changes})
        (root / f"{file}_grounding.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_nlvr1_holds_every_tenth_presentation_out(tmp_path: Path) -> None:
    nlvr1(tmp_path)
    train, valid, dev = (read("nlvr1_grounding", tmp_path, split) for split in ("train", "valid", "dev"))
    assert [one.extra["identifier"] for one in valid.samples] == ["10-0", "20-0"]
    assert len(train.samples) == 8 and len(dev.samples) == 5
    assert not {one.image for one in train.samples} & {one.image for one in valid.samples}
    one = valid.samples[1]
    assert (one.id, one.text, one.box, one.extra["size"]) == ("test_u/2", "the box 20", (10, 20, 30, 40), 20)
    assert valid.images.open(one.image or "").size == (400, 100)


def scenes(root: Path, **changes: Any) -> Path:
    """Two presentations a file, one held out: a scene whose three things stand in boxes 0, 0 and 2."""
    things = [("blue", "circle", 10, 0, 5, 8), ("blue", "circle", 30, 0, 60, 40), ("black", "square", 20, 2, 70, 80)]
    for file in ("dev", "test_u"):
        (root / f"{file}_images").mkdir(parents=True)
        rows = []
        for n in (3, 10):
            names = [f"{file}-{n}-0-{each}.png" for each in range(6)]
            for name, order in zip(names, permutations(range(3)), strict=True):
                image = Image.new("RGB", (400, 100), "white")
                for colour, _, size, box, x, y in things:
                    left = 150 * order.index(box) + x
                    ImageDraw.Draw(image).rectangle((left, y, left + size - 1, y + size - 1), fill=colour)
                image.save(root / f"{file}_images" / name)
            scene: list[list[dict[str, Any]]] = [[], [], []]
            for colour, shape, size, box, x, y in things:
                named = {"blue": "#0099ff", "black": "Black"}[colour]
                scene[box].append({"type": shape, "color": named, "size": size, "x_loc": x, "y_loc": y})
            rows.append({"identifier": f"{n}-0", "images": names, "structured_rep": scene, **changes})
        (root / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_nlvr1_scenes_are_named_in_all_orders_of_their_boxes(tmp_path: Path) -> None:
    split = read("nlvr1_grounding", scenes(tmp_path), "train_scenes")
    assert {one.extra["identifier"] for one in split.samples} == {"3-0"}  # the other is held out
    assert len({one.image for one in split.samples}) == 12 and len({one.id for one in split.samples}) == len(split.samples)
    for one in split.samples:
        assert one.box is not None and one.text is not None
        image, (left, top, right, bottom) = split.images.open(one.image or ""), map(int, one.box)
        inside = {image.convert("RGB").getpixel((x, y)) for x in (left, right - 1) for y in (top, bottom - 1)}
        assert inside == {(0, 0, 255) if "blue" in one.text else (0, 0, 0)} and right - left == one.extra["size"]
        assert ("in the" not in one.text) or one.text.endswith(f"in the {('left', 'middle', 'right')[left // 150]} box")
    first = {one.text for one in split.samples if one.image == "dev/dev-3-0-0.png"}
    # Two blue circles: their size tells which, colour and shape do not.
    assert first == {
        *(f"the {size} blue circle{place}" for size in ("small", "large") for place in ("", " in the left box")),
        *(f"the {size}black square{place}" for size in ("", "medium ") for place in ("", " in the right box")),
    }


def test_nlvr1_scenes_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dev\.jsonl line 1: 2 images, expected 6, one for each order"):
        read("nlvr1_grounding", scenes(tmp_path / "a", images=["x.png", "y.png"]), "train_scenes")
    good = {"type": "circle", "color": "Black", "size": 10, "x_loc": 0, "y_loc": 0}
    with pytest.raises(DataError, match=r"dev\.jsonl line 1: 'structured_rep' has a thing that lacks or misnames 'pink'"):
        read("nlvr1_grounding", scenes(tmp_path / "b", structured_rep=[[{**good, "color": "pink"}], [], []]), "train_scenes")
    with pytest.raises(DataError, match=r"is not three boxes of circle, square, triangle with sides of 10, 20, 30 px"):
        read("nlvr1_grounding", scenes(tmp_path / "c", structured_rep=[[{**good, "size": 11}], [], []]), "train_scenes")


def test_nlvr1_identifiers_have_a_number(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dev_grounding\.jsonl line 1: 'identifier' is 'x-0', expected 'n-m'"):
        read("nlvr1_grounding", nlvr1(tmp_path, identifier="x-0"), "train")


def test_boxes_in_ones_own_files(tmp_path: Path) -> None:
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text('image,what,where,lamp\na.png,the cup,"[1, 2, 3.5, 4]",on\n')
    (one,) = read("jsonl", tmp_path, "train", phrase="what", box="where").samples
    assert (one.id, one.text, one.box, one.extra) == ("0", "the cup", (1, 2, 3.5, 4), {"lamp": "on"})
    (tmp_path / "dev.jsonl").write_text('{"image": "a.png", "phrase": "the cup"}\n')
    with pytest.raises(DataError, match=r"dev\.jsonl line 1: no 'box'; found image, phrase"):
        read("jsonl", tmp_path, "dev")
    assert read("jsonl", tmp_path, "dev", box=None).samples[0].box is None
    (tmp_path / "dev.jsonl").write_text('{"image": "a.png", "phrase": "the cup", "box": [5, 2, 3, "4"]}\n')
    with pytest.raises(DataError, match=r"line 1: 'box' is \[5, 2, 3, '4'\], expected \[left, top, right, bottom\] in pixels"):
        read("jsonl", tmp_path, "dev")
    write_shapes(tmp_path / "shapes", train_images=2, dev_images=1)
    assert all(one.box and one.text for one in read("jsonl", tmp_path / "shapes" / "boxes", "train").samples)
