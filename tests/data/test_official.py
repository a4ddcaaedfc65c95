"""Official files and numbers: what `data check` holds a download against."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from cli.command import run
from openmplug.data.official import BENCHMARKS, find_benchmark
from openmplug.data.readers import READERS
from openmplug.engine.catalog import list_recipes
from openmplug.engine.recipe import load_recipe


def write_vqa(root: Path, split: str, count: int) -> None:
    (root / split).mkdir(parents=True)
    questions = [{"question_id": n, "image_id": n, "question": "what?"} for n in range(count)]
    answers = [{"question_id": n, "answers": [{"answer": "a cup"}] * 10} for n in range(count)]
    (root / f"v2_OpenEnded_mscoco_{split}_questions.json").write_text(json.dumps({"questions": questions}))
    (root / f"v2_mscoco_{split}_annotations.json").write_text(json.dumps({"annotations": answers}))
    for n in range(count):
        Image.new("RGB", (8, 8)).save(root / split / f"COCO_{split}_{n:012d}.jpg")


def check(*arguments: str | Path) -> tuple[int, dict[str, dict[str, object]], list[str]]:
    outcome = run("data", "check", *arguments, "--json")
    document = json.loads(outcome.out)
    return outcome.code, {f"{row['split']}/{row['name']}": row for row in document["files"]}, document["problems"]


def test_each_file_is_found_missing_or_wrong(tmp_path: Path) -> None:
    write_vqa(tmp_path, "train2014", 3)
    write_vqa(tmp_path, "val2014", 3)
    (tmp_path / "v2_mscoco_val2014_annotations.json").write_text("{")
    code, files, problems = check("vqa/vqav2_mplug_base", f"data.root={tmp_path}")
    assert code == 3
    train = files["train/v2_OpenEnded_mscoco_train2014_questions.json"]
    assert (train["state"], train["count"], train["official"], train["unit"]) == ("wrong", 3, [443_757], "questions")
    assert files["train/v2_mscoco_train2014_annotations.json"]["state"] == "found"
    assert (files["train/pictures"]["state"], files["train/pictures"]["official"]) == ("wrong", [82_783])
    assert files["val/v2_OpenEnded_mscoco_val2014_questions.json"]["state"] == "found"
    assert files["val/v2_mscoco_val2014_annotations.json"]["state"] == "wrong"
    assert "split 'train': 'v2_OpenEnded_mscoco_train2014_questions.json' has 3 questions, officially 443,757" in problems
    assert any("split 'val'" in problem and "not valid JSON" in problem for problem in problems)


def test_missing_files_are_all_named(tmp_path: Path) -> None:
    write_vqa(tmp_path, "train2014", 3)
    (tmp_path / "v2_mscoco_train2014_annotations.json").unlink()
    code, files, problems = check("vqa/vqav2_mplug_base", f"data.root={tmp_path}")
    assert code == 3
    states = {name: row["state"] for name, row in files.items()}
    assert states == {
        "train/v2_OpenEnded_mscoco_train2014_questions.json": "found",
        "train/v2_mscoco_train2014_annotations.json": "missing",
        "val/v2_OpenEnded_mscoco_val2014_questions.json": "missing",
        "val/v2_mscoco_val2014_annotations.json": "missing",
    }
    assert "split 'train': v2_mscoco_train2014_annotations.json is missing" in problems


def test_part_of_a_split_is_not_held_against_the_whole(tmp_path: Path) -> None:
    for split in ("train2014", "val2014"):
        write_vqa(tmp_path, split, 3)
    code, files, _ = check("vqa/vqav2_mplug_base", f"data.root={tmp_path}", "data.limit=2")
    assert code == 0
    assert {row["state"] for row in files.values()} == {"found"}


def test_pictures_that_are_gone_are_counted(tmp_path: Path) -> None:
    for split in ("train2014", "val2014"):
        write_vqa(tmp_path, split, 3)
    (tmp_path / "val2014" / "COCO_val2014_000000000001.jpg").unlink()
    code, files, problems = check("vqa/vqav2_mplug_base", f"data.root={tmp_path}", "data.limit=3")
    assert code == 3
    assert (files["val/pictures"]["state"], files["val/pictures"]["count"]) == ("wrong", 2)
    assert len(problems) == 1
    assert "1 of 3 pictures are not in" in problems[0]


def test_the_table_names_state_and_numbers(tmp_path: Path) -> None:
    write_vqa(tmp_path, "train2014", 3)
    outcome = run("data", "check", "vqa/vqav2_mplug_base", f"data.root={tmp_path}")
    assert outcome.code == 3
    assert "443,757" in outcome.out and "missing" in outcome.out and "wrong" in outcome.out
    assert "official numbers: visualqa.org" in outcome.err
    assert all(len(line) <= 80 for line in outcome.out.splitlines())


@pytest.mark.parametrize("data", ["data.root=nowhere", None])
def test_a_folder_that_is_not_there(data: str | None) -> None:
    outcome = run("data", "check", "vqa/vqav2_mplug_base", *([data] if data else []))
    assert "data.root" in outcome.error(3 if data else 2)


def test_numbers_that_many_know() -> None:
    def counts(reader: str, name: str) -> list[tuple[int, ...]]:
        found = find_benchmark(reader, name)
        assert found is not None
        return [split.records for split in found.splits.values()]

    assert counts("msrvtt", "MSR-VTT captions, test") == [(6513,), (497,), (497,), (2990,)]
    assert counts("karpathy", "COCO captions, Karpathy test") == [(113_287,), (5_000,), (5_000,)]
    assert counts("karpathy", "Flickr30k captions") == [(29_000,), (1_014,), (1_000,)]
    assert counts("refcoco", "RefCOCO val") == [(120_624,), (10_834,), (5_657,), (5_095,)]
    assert counts("refcoco", "RefCOCO+ val")[0] != counts("refcoco", "RefCOCOg val-u")[0]
    # A whole and its parts.
    assert sum(count for (count,) in counts("tgif_frameqa", "TGIF-FrameQA")) == 53_083
    assert sum(count for (count,) in counts("msvd_qa", "MSVD-QA")) == 50_505
    assert sum(count for (count,) in counts("msrvtt_qa", "MSRVTT-QA")) == 243_680


def test_every_benchmark_is_one_of_a_reader_and_every_official_recipe_has_one() -> None:
    assert {one.reader for one in BENCHMARKS} <= set(READERS)
    assert all(one.source for one in BENCHMARKS)
    without = set()
    for name in list_recipes():
        config = load_recipe(name)
        found = find_benchmark(config.data.reader, str((config.paper or {})["benchmark"]))
        if found is None:
            without.add(config.data.reader)
        elif found.splits:
            assert all(found.split(split) for split in (*config.data.train, config.data.evaluate)), name
    # One's own files and shards, generated sets, parts of a data set.
    assert without <= {"jsonl", "daquar", "lines", "class_folders", "nlvr1", "nlvr1_grounding", "shards"}
