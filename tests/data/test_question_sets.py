"""Question benchmarks and visual entailment in their official files; each fixture is made after the official description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from openmplug.data.readers import READERS, Split
from openmplug.errors import DataError


def read(reader: str, root: Path, split: str) -> Split:
    return READERS[reader](root, split, {})


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def gqa(answer: str | None = "picture", **fields: Any) -> dict[str, Any]:
    record = {"question": "what hangs there?", "imageId": "n12", "types": {"detailed": "relS", "semantic": "rel", "structural": "query"}}
    return {**record, **({"answer": answer} if answer else {}), **fields}


# -------------------------------------------------------------------------------------------------------------------------- GQA


def test_gqa(tmp_path: Path) -> None:
    write(tmp_path / "val_balanced_questions.json", {"20": gqa(), "21": gqa("red", imageId="7")})
    picture(tmp_path / "images/n12.jpg")
    split = read("gqa", tmp_path, "val")
    first, second = split.samples
    assert (first.id, first.image, first.text) == ("20", "n12.jpg", "what hangs there?")
    assert first.targets == first.references == ("picture",)
    assert first.extra == {"question_id": "20", "semantic": "rel", "structural": "query"} and second.image_index == 1
    assert list(split.images.names()) == ["n12.jpg"]
    assert [one.id for one in read("gqa", tmp_path, "val_balanced").samples] == ["20", "21"]


def test_gqa_s_large_split_is_a_folder_and_its_test_has_no_answers(tmp_path: Path) -> None:
    for part in range(2):
        write(tmp_path / f"questions/train_all_questions/train_all_questions_{part}.json", {f"{part}": gqa()})
    assert [one.id for one in read("gqa", tmp_path, "train_all").samples] == ["0", "1"]
    write(tmp_path / "questions/test_balanced_questions.json", {"5": gqa(None, types=None)})
    (sample,) = read("gqa", tmp_path, "test").samples
    assert sample.targets == sample.weights == sample.references == () and sample.extra == {"question_id": "5"}


def test_gqa_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"GQA questions of split 'val' not found.*expected val_balanced_questions\.json or"):
        read("gqa", tmp_path, "val")
    write(tmp_path / "val_all_questions.json", {"20": [1]})
    with pytest.raises(DataError, match=r"val_all_questions.json question 20: expected an object, got list"):
        read("gqa", tmp_path, "val_all")
    write(tmp_path / "val_all_questions.json", {"20": {"question": "q"}})
    with pytest.raises(DataError, match="question 20: no 'imageId'; found question"):
        read("gqa", tmp_path, "val_all")
    write(tmp_path / "val_all_questions.json", {})
    with pytest.raises(DataError, match="the files hold no question"):
        read("gqa", tmp_path, "val_all")


def clevr(number: int, last: str, **fields: Any) -> dict[str, Any]:
    picture = {"image_index": number // 2, "image_filename": f"CLEVR_val_{number // 2:06d}.png"}
    program = [{"inputs": [], "function": "scene", "value_inputs": []}, {"inputs": [0], "function": last, "value_inputs": []}]
    asked = {"question_index": number, "question": f"what is {number}?", "answer": "yes", "program": program}
    return {**picture, **asked, "split": "val", "question_family_index": 3, **fields}


def test_clevr(tmp_path: Path) -> None:
    last = {"exist": "exist", "count": "count", "less_than": "compare numbers", "equal_integer": "compare numbers"}
    last |= {"equal_size": "compare things", "query_color": "query"}
    rows = [clevr(number, name) for number, name in enumerate(last)]
    write(tmp_path / "questions" / "CLEVR_val_questions.json", {"info": {"split": "val"}, "questions": rows})
    picture(tmp_path / "images/val/CLEVR_val_000000.png")
    split = read("clevr", tmp_path, "val")
    assert [one.extra["kind"] for one in split.samples] == list(last.values())
    first, second, third = split.samples[:3]
    assert (first.id, first.image, first.text) == ("0", "CLEVR_val_000000.png", "what is 0?")
    assert first.targets == first.references == ("yes",) and first.extra["question_index"] == 0
    assert first.image_index == second.image_index != third.image_index
    assert first.image in split.images


def test_clevr_s_test_has_no_answers_and_a_broken_file_is_named(tmp_path: Path) -> None:
    for split in ("val", "test"):
        picture(tmp_path / f"images/{split}/CLEVR_val_000000.png")
    row = {key: value for key, value in clevr(0, "count").items() if key not in ("answer", "program")}
    write(tmp_path / "CLEVR_test_questions.json", {"questions": [row]})
    (sample,) = read("clevr", tmp_path, "test").samples
    assert sample.targets == sample.references == () and sample.extra == {"question_index": 0}
    with pytest.raises(DataError, match=r"CLEVR questions of split 'val' not found.*CLEVR_val_questions\.json"):
        read("clevr", tmp_path, "val")
    write(tmp_path / "CLEVR_val_questions.json", {"questions": [clevr(0, "count", program=[{"inputs": []}])]})
    with pytest.raises(DataError, match="no 'function'"):
        read("clevr", tmp_path, "val")


# --------------------------------------------------------------------------------------------------- OK-VQA, TextVQA, VizWiz, VG


def test_okvqa(tmp_path: Path) -> None:
    write(
        tmp_path / "OpenEnded_mscoco_val2014_questions.json", {"questions": [{"question_id": 9, "image_id": 3, "question": "what sport?"}]}
    )
    answers = [{"answer": "race", "raw_answer": "racing"}] * 2 + [{"answer": "motocross", "raw_answer": "motocross"}]
    write(tmp_path / "mscoco_val2014_annotations.json", {"annotations": [{"question_id": 9, "answers": answers, "answer_type": "other"}]})
    picture(tmp_path / "val2014/COCO_val2014_000000000003.jpg")
    split = read("okvqa", tmp_path, "val")
    (sample,) = split.samples
    assert sample.image in split.images.names()
    assert sample.targets == ("race", "motocross") and sample.weights == pytest.approx((2 / 3, 1 / 3)) and len(sample.references) == 3
    with pytest.raises(DataError, match="OK-VQA questions of split 'train' not found"):
        read("okvqa", tmp_path, "train")


def test_textvqa(tmp_path: Path) -> None:
    record = {"question_id": 4, "image_id": "ab", "question": "what brand?", "answers": ["nokia"] * 9 + ["nok"]}
    write(tmp_path / "TextVQA_0.5.1_val.json", {"data": [record, {**record, "question_id": 5, "image_id": "cd"}]})
    write(tmp_path / "TextVQA_Rosetta_OCR_v0.2_val.json", {"data": [{"image_id": "ab", "ocr_tokens": ["NOKIA", "8"]}]})
    picture(tmp_path / "train_images/ab.jpg")
    first, second = read("textvqa", tmp_path, "val").samples
    assert (first.id, first.image, first.targets, len(first.references)) == ("4", "ab.jpg", ("nokia", "nok"), 10)
    assert first.extra["ocr"] == [(0, "NOKIA"), (1, "8")] and "ocr" not in second.extra
    write(tmp_path / "TextVQA_0.5.1_test.json", {"data": [{name: record[name] for name in ("question_id", "image_id", "question")}]})
    with pytest.raises(DataError, match=r"no pictures at .*test_images"):
        read("textvqa", tmp_path, "test")
    picture(tmp_path / "test_images/ab.jpg")
    assert read("textvqa", tmp_path, "test").samples[0].targets == ()


def test_vizwiz(tmp_path: Path) -> None:
    answers = [{"answer": "unanswerable", "answer_confidence": "no"}] * 6 + [{"answer": "a can", "answer_confidence": "yes"}] * 4
    record = {"image": "VizWiz_val_00000000.jpg", "question": "what is this?", "answers": answers, "answer_type": "other", "answerable": 0}
    write(tmp_path / "Annotations/val.json", [record])
    picture(tmp_path / "val/VizWiz_val_00000000.jpg")
    (sample,) = read("vizwiz", tmp_path, "val").samples
    assert sample.targets == ("unanswerable", "a can") and sample.weights == pytest.approx((0.6, 0.4))
    assert sample.extra == {"question_id": 0, "image": record["image"], "answer_type": "other"}
    write(tmp_path / "Annotations/val.json", [{**record, "answers": [{"text": "x"}]}])
    with pytest.raises(DataError, match=r"val\.json record 1: no 'answer'; found text"):
        read("vizwiz", tmp_path, "val")


def test_visual_genome_s_pictures_lie_in_two_folders(tmp_path: Path) -> None:
    pairs = [{"qa_id": 7, "image_id": 4, "question": "What colour is it?", "answer": "Purple."}]
    write(tmp_path / "question_answers.json", [{"id": 4, "qas": pairs}, {"id": 9, "qas": [{**pairs[0], "qa_id": 8, "image_id": 9}]}])
    picture(tmp_path / "VG_100K/4.jpg")
    picture(tmp_path / "VG_100K_2/9.jpg")
    first, second = read("visual_genome", tmp_path, "train").samples
    assert (first.image, first.targets, first.weights, second.image) == ("VG_100K/4.jpg", ("purple",), (0.5,), "VG_100K_2/9.jpg")


# ---------------------------------------------------------------------------------------------------------------------- SNLI-VE


def test_snli_ve(tmp_path: Path) -> None:
    row = {"Flickr30K_ID": "22", "pairID": "22.jpg#2r1c", "sentence1": "a toddler poses", "sentence2": "A toddler sleeps."}
    rows = [{**row, "gold_label": "contradiction"}, {**row, "gold_label": "-"}, {**row, "pairID": "x", "gold_label": "neutral"}]
    (tmp_path / "snli_ve_dev.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    picture(tmp_path / "flickr30k-images/22.jpg")
    split = read("snli_ve", tmp_path, "dev")
    first, second = split.samples
    assert (first.id, first.image, first.text, first.targets) == ("22.jpg#2r1c", "22.jpg", "A toddler sleeps.", ("contradiction",))
    assert second.targets == ("neutral",) and list(split.images.names()) == ["22.jpg"]
    (tmp_path / "snli_ve_dev.jsonl").write_text(json.dumps({**row, "gold_label": "neutral", "Flickr30K_ID": None}) + "\n")
    with pytest.raises(DataError, match="line 1: no 'Flickr30kID'"):
        read("snli_ve", tmp_path, "dev")


# -------------------------------------------------------------------------------------------------- real records, where they are


@pytest.mark.parametrize(
    ("reader", "source", "target", "split", "folder", "records"),
    [
        ("gqa", "gqa_questions.json", "val_balanced_questions.json", "val", "gqa", 1),
        ("visual_genome", "vgqa_question_answers.json", "question_answers.json", "train", "vgqa", 8),
        ("snli_ve", "snli_ve_pairs.jsonl", "snli_ve_dev.jsonl", "dev", "visual_entailment", 16),
    ],
)
def test_real_records(
    data_root: Path, tmp_path: Path, reader: str, source: str, target: str, split: str, folder: str, records: int
) -> None:
    import tarfile

    samples = data_root / "format_samples"
    (tmp_path / target).write_bytes((samples / source).read_bytes())
    with tarfile.open(samples / "images.tar") as archive:
        archive.extractall(tmp_path, [member for member in archive if member.name.startswith(f"{folder}/")], filter="data")
    (tmp_path / folder).rename(tmp_path / "images")
    result = read(reader, tmp_path, split)
    assert len(result.samples) == records and all(sample.targets and sample.text for sample in result.samples)
    assert {sample.image for sample in result.samples} <= set(result.images.names())
