"""Annotation files in every format, and the one line each broken one gives."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from openmplug.data.readers import READERS, Split
from openmplug.errors import DataError, UsageError


def read(reader: str, root: Path, split: str, columns: dict[str, str | None] | None = None) -> Split:
    return READERS[reader](root, split, columns or {})


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path.parent


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path.parent


QUESTION = {"image": "a.jpg", "question": "what is it?", "answer": "cup"}


# ----------------------------------------------------------------------------------------------------------- your own files


def test_own_questions(tmp_path: Path) -> None:
    rows = (
        {"question_id": 7, **QUESTION, "kind": "thing"},
        {"question_id": 8, "image": "b.jpg", "question": "how many?", "answers": [2, "2", "two"]},
        {"question_id": 9, "image": "a.jpg", "question": "is it red?", "answer": True},
    )
    first, second, third = read("jsonl", write_rows(tmp_path / "dev.jsonl", *rows), "dev").samples
    assert (first.id, first.image, first.text, first.targets, first.weights) == ("7", "a.jpg", "what is it?", ("cup",), (1.0,))
    assert first.references == ("cup",) and first.extra == {"question_id": 7, "kind": "thing"}
    assert second.targets == ("2", "two") and second.weights == pytest.approx((2 / 3, 1 / 3)) and second.references == ("2", "2", "two")
    assert third.targets == ("yes",)
    assert [first.image_index, second.image_index, third.image_index] == [0, 1, 0]


def test_own_csv_and_declared_columns(tmp_path: Path) -> None:
    (tmp_path / "dev.csv").write_text('file,q,a\na.jpg,"red, or blue?",red\n\nb.jpg,"two\nlines?","[""x"", ""y""]"\n', encoding="utf-8-sig")
    columns: dict[str, str | None] = {"image": "file", "question": "q", "answer": "a"}
    first, second = read("jsonl", tmp_path, "dev", columns).samples
    assert (first.id, first.image, first.text, first.targets) == ("0", "a.jpg", "red, or blue?", ("red",))
    assert second.text == "two\nlines?" and second.targets == ("x", "y")


def test_own_captions_of_one_picture_are_put_together(tmp_path: Path) -> None:
    root = write_rows(
        tmp_path / "dev.jsonl",
        {"image": "b.jpg", "caption": "a dog", "width": 5},
        {"image": "a.jpg", "captions": ["a cat", "a tom"]},
        {"image": "b.jpg", "caption": "a hound"},
    )
    first, second = read("jsonl", root, "dev").samples
    assert (first.id, first.references, first.targets, first.image_index) == ("b.jpg", ("a dog", "a hound"), ("a dog", "a hound"), 0)
    assert first.text is None and first.extra == {"width": 5}
    assert (second.references, second.image_index) == (("a cat", "a tom"), 1)


def test_own_statements(tmp_path: Path) -> None:
    root = write_rows(
        tmp_path / "dev.jsonl", {"image": "a.png", "text": "it is red", "label": False}, {"image": "a.png", "text": "x", "label": 3}
    )
    first, second = read("jsonl", root, "dev").samples
    assert (first.text, first.targets, first.extra) == ("it is red", ("false",), {"label": False}) and second.targets == ("3",)


def test_questions_without_answers_must_be_declared(tmp_path: Path) -> None:
    root = write_rows(tmp_path / "test.jsonl", {"image": "a.jpg", "question": "what?"})
    with pytest.raises(DataError, match=r"test\.jsonl line 1: no 'answer' or 'answers'; found image, question"):
        read("jsonl", root, "test")
    (sample,) = read("jsonl", root, "test", {"answer": None}).samples
    assert sample.targets == () and sample.references == ()


def test_row_without_answer(tmp_path: Path) -> None:
    root = write_rows(tmp_path / "train.jsonl", QUESTION, {"image": "a.jpg", "question": "what?", "kind": 1})
    with pytest.raises(
        DataError, match=r"train\.jsonl line 2: no 'answer' or 'answers'; found image, question, kind\. Rename .*data\.columns"
    ):
        read("jsonl", root, "train")
    (tmp_path / "cells.csv").write_text("image,question,answer\na.jpg,what?,cup\nb.jpg,what?,\n")
    with pytest.raises(DataError, match=r"cells\.csv line 3: no 'answer' or 'answers'; found image, question"):
        read("jsonl", root, "cells")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"dev\.jsonl has no records; expected one JSON object per line"),
        ("\n\n", r"dev\.jsonl has no records"),
        ('{"image": "a.jpg", "question": "q", "answer": "a"}\n{"image": \n', r"dev\.jsonl line 2: not valid JSON \(.* at column \d+\)"),
        ("[1, 2]\n", r"dev\.jsonl line 1: expected a JSON object, got list of 2"),
        ('{"image": "a.jpg", "size": 3}', r"line 1: no question, caption or text; found image, size\. Name the columns: data\.columns"),
        (
            '{"image": "a", "question": "q", "answer": "a", "caption": "c"}',
            r"columns for question and caption at once; choose by naming one",
        ),
        ('{"question": "q", "answer": "a"}', r"line 1: no 'image' or 'video'; found question, answer"),
        ('{"image": "a.jpg", "caption": ""}', r"line 1: no 'caption' or 'captions'"),
        ('{"image": "a.jpg", "question": "q", "answer": {"x": 1}}', r"line 1: 'answer' must be text or a number, got dict"),
        ('{"id": 1, "image": "a", "caption": "c"}\n{"id": 1, "image": "b", "caption": "c"}', r"dev\.jsonl: id '1' occurs twice"),
    ],
)
def test_broken_jsonl(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "dev.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read("jsonl", tmp_path, "dev")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,caption\n", r"dev\.csv has no records; expected one row"),
        ("image,caption\na.jpg,a dog, running\n", r"dev\.csv line 2: 3 cells, expected 2 as in the header; quote commas"),
        ('image,captions\na.jpg,"[""a"", "\n', r"dev\.csv line 2: 'captions' is not a JSON list"),
        ('image,caption\na.jpg,"a"b\n', r"dev\.csv line 2: not valid CSV"),
    ],
)
def test_broken_csv(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "dev.csv").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read("jsonl", tmp_path, "dev")


def test_files_that_are_not_there_or_not_text(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", QUESTION)
    with pytest.raises(DataError, match=r"split 'dev' not found in .*: expected dev\.jsonl or dev\.csv; found train\.jsonl"):
        read("jsonl", tmp_path, "dev")
    (tmp_path / "dev.jsonl").write_bytes(b'{"image": "\xff"}')
    with pytest.raises(DataError, match=r"dev\.jsonl is not UTF-8 text \(byte 11\)"):
        read("jsonl", tmp_path, "dev")


def test_unknown_role(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown role 'quesion' in data\.columns; expected some of id, image, question"):
        read("jsonl", write_rows(tmp_path / "dev.jsonl", QUESTION), "dev", {"quesion": "q"})


def test_line_separators_inside_texts_do_not_split_lines(tmp_path: Path) -> None:
    (tmp_path / "dev.jsonl").write_text(json.dumps({**QUESTION, "question": "a\u2028b"}, ensure_ascii=False) + "\r\n", encoding="utf-8")
    assert read("jsonl", tmp_path, "dev").samples[0].text == "a\u2028b"


# ------------------------------------------------------------------------------------------------------------- real data sets


def test_easy_vqa(data_root: Path) -> None:
    split = read("jsonl", data_root / "easy_vqa", "dev")
    assert len(split.samples) == 4833 and split.samples[0].id == "33742" and split.samples[0].targets == ("yellow",)
    assert split.images.open(split.samples[0].image or "").size == (64, 64)


def test_daquar_answers_are_one_set(data_root: Path) -> None:
    split = read("daquar", data_root / "daquar", "train")
    assert len(split.samples) == 6073 and all(len(sample.targets) == 1 for sample in split.samples)
    by_id = {sample.id: sample.targets[0] for sample in split.samples}
    assert by_id["10"] == "desk"
    assert not any("_" in answer for answer in by_id.values())
    assert all(answer.split(", ") == sorted(set(answer.split(", "))) for answer in by_id.values())


def test_flickr8k(data_root: Path) -> None:
    split = read("jsonl", data_root / "flickr8k", "dev")
    assert len(split.samples) == 1000 and all(len(sample.references) == 5 for sample in split.samples)
    assert [sample.image_index for sample in split.samples] == list(range(1000))
    assert all(sample.image in split.images for sample in split.samples)


# ------------------------------------------------------------------------------------------------------------ official formats


@pytest.fixture
def vqa_root(data_root: Path, tmp_path: Path) -> Path:
    """VQA v2's file names as downloaded, made of three real questions."""
    samples = data_root / "format_samples"
    shutil.copy(samples / "vqa_v2_questions.json", tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json")
    shutil.copy(samples / "vqa_v2_annotations.json", tmp_path / "v2_mscoco_train2014_annotations.json")
    with tarfile.open(samples / "images.tar") as archive:
        (tmp_path / "train2014").mkdir()
        name = "COCO_train2014_000000458752.jpg"
        source = archive.extractfile(f"vqav2/{name}")
        assert source is not None
        (tmp_path / "train2014" / name).write_bytes(source.read())
    return tmp_path


def test_vqa_v2(vqa_root: Path) -> None:
    split = read("vqa_v2", vqa_root, "train")
    first = split.samples[0]
    assert len(split.samples) == 3 and first.id == "458752000" and first.text == "What is this photo taken looking through?"
    assert len(first.references) == 10 and len(set(first.targets)) == len(first.targets)
    assert sum(first.weights) == pytest.approx(1.0) and first.targets[0] == first.references[0]
    assert first.image == "COCO_train2014_000000458752.jpg" and split.images.open(first.image).mode == "RGB"
    assert {sample.image_index for sample in split.samples} == {0}
    assert first.extra["question_id"] == 458752000 and first.extra["image_id"] == 458752
    assert read("vqa_v2", vqa_root, "train2014").samples == split.samples


def test_vqa_v2_test_files_have_no_annotations(vqa_root: Path) -> None:
    shutil.copy(vqa_root / "v2_OpenEnded_mscoco_train2014_questions.json", vqa_root / "v2_OpenEnded_mscoco_test-dev2015_questions.json")
    (vqa_root / "test2015").mkdir()
    first = read("vqa_v2", vqa_root, "test-dev").samples[0]
    assert first.image == "COCO_test2015_000000458752.jpg" and first.targets == () and first.references == ()


def test_vqa_v2_errors(vqa_root: Path) -> None:
    annotations = vqa_root / "v2_mscoco_train2014_annotations.json"
    tree = json.loads(annotations.read_text())
    tree["annotations"].pop(1)
    write_json(annotations, tree)
    with pytest.raises(DataError, match=r"questions\.json record 2: question 458752001 has no annotation"):
        read("vqa_v2", vqa_root, "train")
    del tree["annotations"][0]["answers"]
    write_json(annotations, tree)
    with pytest.raises(DataError, match=r"annotations\.json record 1: no 'answers'; found question_id"):
        read("vqa_v2", vqa_root, "train")
    annotations.unlink()
    with pytest.raises(DataError, match=r"VQA v2 annotations of split 'train' not found .* expected v2_mscoco_train2014_annotations\.json"):
        read("vqa_v2", vqa_root, "train")


def test_mplug_vqa(tmp_path: Path) -> None:
    records = [
        {"dataset": "vqa", "image": "val/1.jpg", "question": "what?", "answer": ["a", "b", "a", "a"], "ocr": [], "object_label": "x&&y"},
        {"dataset": "vg", "image": "vg/2.jpg", "question": "who?", "answer": "man", "question_id": 5},
    ]
    first, second = read("mplug_vqa", write_json(tmp_path / "vqa_train.json", records), "train").samples
    assert first.targets == ("a", "b") and first.weights == pytest.approx((0.75, 0.25)) and first.references == ("a", "b", "a", "a")
    assert first.extra == {"dataset": "vqa", "ocr": [], "object_label": "x&&y"} and first.image == "val/1.jpg"
    assert second.targets == ("man",) and second.weights == (0.5,) and second.references == ("man",) and second.extra["question_id"] == 5
    write_json(tmp_path / "test.json", [{"image": "1.jpg", "question": "q", "question_id": 1}])
    assert read("mplug_vqa", tmp_path, "test").samples[0].targets == ()
    write_json(tmp_path / "mixed.json", [{"image": "1.jpg", "question": "q", "answer": "a"}, {"image": "1.jpg", "question": "q"}])
    with pytest.raises(DataError, match=r"mixed\.json record 2: no 'answer'; found image, question"):
        read("mplug_vqa", tmp_path, "mixed")


def test_coco_captions(data_root: Path, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    shutil.copy(data_root / "format_samples" / "coco_caption_flickr8k20.json", tmp_path / "annotations" / "captions_val2014.json")
    (tmp_path / "val2014").mkdir()
    split = read("coco_captions", tmp_path, "val")
    assert len(split.samples) == 20 and split.samples[0].image == "1022454332_6af2c1449a.jpg" and len(split.samples[0].references) == 5
    assert str(tmp_path / "val2014") in split.images.description
    tree = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 1, "image_id": 2, "caption": "x"}]}
    with pytest.raises(DataError, match=r"captions_x\.json record 1: image 1 \('a\.jpg'\) has no caption"):
        read("coco_captions", write_json(tmp_path / "captions_x.json", tree), "x")
    with pytest.raises(DataError, match=r"captions_y\.json: no 'annotations'; found images"):
        read("coco_captions", write_json(tmp_path / "captions_y.json", {"images": []}), "y")


def test_nocaps(tmp_path: Path) -> None:
    pictures = [{"id": 7, "file_name": "a.jpg", "domain": "out-domain"}, {"id": 8, "file_name": "b.jpg"}]
    captions = [{"image_id": 8, "caption": " x "}, {"image_id": 7, "caption": "y"}, {"image_id": 8, "caption": "z"}]
    write_json(tmp_path / "nocaps_val_4500_captions.json", {"images": pictures, "annotations": captions})
    first, second = read("nocaps", tmp_path, "val").samples
    assert (first.id, first.image, first.targets, first.extra) == ("7", "a.jpg", ("y",), {"image_id": 7, "domain": "out-domain"})
    assert (second.references, second.extra) == (("x", "z"), {"image_id": 8})
    write_json(tmp_path / "nocaps_test_image_info.json", {"images": pictures})
    assert [sample.references for sample in read("nocaps", tmp_path, "test").samples] == [(), ()]
    with pytest.raises(DataError, match=r"NoCaps split 'dev' not found in .*: expected nocaps_dev_4500_captions\.json or"):
        read("nocaps", tmp_path, "dev")


def test_karpathy(data_root: Path, tmp_path: Path) -> None:
    real = json.loads((data_root / "format_samples" / "karpathy_flickr8k20.json").read_text())
    (name,) = {record["split"] for record in real["images"]}
    split = read("karpathy", write_json(tmp_path / "dataset_flickr8k.json", real), name)
    assert len(split.samples) == 20 and split.samples[0].references[0] == "A child and a woman are at waters edge in a big city ."
    with pytest.raises(DataError, match=rf"dataset_flickr8k\.json has no picture of split 'nowhere'; its splits are {name}"):
        read("karpathy", tmp_path, "nowhere")


def test_karpathy_coco_paths_and_restval(tmp_path: Path) -> None:
    def record(cocoid: int, split: str) -> dict[str, Any]:
        return {"filepath": "val2014", "filename": f"{cocoid}.jpg", "cocoid": cocoid, "split": split, "sentences": [{"raw": " a dog "}]}

    root = write_json(tmp_path / "dataset_coco.json", {"images": [record(1, "train"), record(2, "restval"), record(3, "val")]})
    train = read("karpathy", root, "train").samples
    assert [(sample.id, sample.image, sample.references) for sample in train] == [
        ("1", "val2014/1.jpg", ("a dog",)),
        ("2", "val2014/2.jpg", ("a dog",)),
    ]
    write_json(tmp_path / "dataset_flickr30k.json", {"images": []})
    with pytest.raises(DataError, match=r"several Karpathy files in .*: dataset_coco\.json, dataset_flickr30k\.json; keep one"):
        read("karpathy", root, "train")


def test_mplug_retrieval(tmp_path: Path) -> None:
    train = [{"image": f"i/{name}.jpg", "caption": text, "image_id": name} for name, text in (("b", "one"), ("a", "two"), ("b", "three"))]
    write_json(tmp_path / "flickr30k_train.json", train)
    write_json(tmp_path / "val.json", [{"image": "i/c.jpg", "caption": ["x", "y"]}])
    first, second = read("mplug_retrieval", tmp_path, "train").samples
    assert (first.image, first.references, first.image_index, first.extra) == ("i/b.jpg", ("one", "three"), 0, {"image_id": "b"})
    assert (second.references, second.image_index) == (("two",), 1)
    assert read("mplug_retrieval", tmp_path, "val").samples[0].references == ("x", "y")
    write_json(tmp_path / "bad.json", [{"image": "a.jpg", "caption": []}])
    with pytest.raises(DataError, match=r"bad\.json record 1: 'caption' must be a text or a list of texts, got \[\]"):
        read("mplug_retrieval", tmp_path, "bad")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"val\.json line 1: not valid JSON"),
        ("{}", r"val\.json: expected a list at the top level, got dict"),
        ("[]", r"val\.json: expected a list of records, got an empty list"),
        ("[3]", r"val\.json record 1: expected an object, got int 3"),
        ('[{"image": "a.jpg"}]', r"val\.json record 1: no 'caption'; found image"),
    ],
)
def test_broken_json(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "val.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read("mplug_retrieval", tmp_path, "val")
