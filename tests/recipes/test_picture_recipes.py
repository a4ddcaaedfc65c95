"""The recipes of COCO, Flickr30k, NoCaps and VQA v2 run: two steps on ten made-up records, an evaluation, what is handed in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe_fixtures import WORDS, karpathy, pictures, two_steps, write


def flickr30k(root: Path) -> None:
    karpathy(root)
    (root / "dataset_coco.json").rename(root / "dataset_flickr30k.json")


def nocaps(root: Path) -> None:
    pictures(root / "val", "{}.jpg")
    domains = ("in-domain", "near-domain", "out-domain")
    images = [{"id": n, "file_name": f"{n}.jpg", "open_images_id": f"x{n}", "domain": domains[n % 3]} for n in range(10)]
    annotations = [{"id": n, "image_id": n % 10, "caption": f"a {WORDS[n % 10]} thing {n // 10}"} for n in range(20)]
    write(root / "nocaps_val_4500_captions.json", {"images": images, "annotations": annotations})


def vqav2(root: Path) -> None:
    for split in ("train", "val"):
        year = f"{split}2014"
        pictures(root / year, f"COCO_{year}_{{:012d}}.jpg")
        questions = [{"question_id": 100 + n, "image_id": n, "question": f"what is {n}?"} for n in range(10)]
        answers = [{"question_id": 100 + n, "image_id": n, "answers": [{"answer": word}] * 10} for n, word in enumerate(WORDS)]
        write(root / f"v2_OpenEnded_mscoco_{year}_questions.json", {"questions": questions})
        write(root / f"v2_mscoco_{year}_annotations.json", {"annotations": answers})


def vqa_lists(root: Path) -> None:
    """Write the release's lists: ten questions each, some with the words and objects of their pictures; Visual Genome's have one answer."""
    pictures(root / "photos", "{}.jpg")
    rows = [{"dataset": "vqa", "image": f"photos/{n}.jpg", "question": f"what is {n}?", "question_id": 100 + n} for n in range(10)]
    for row, word in zip(rows, WORDS, strict=True):
        row |= {"answer": [word] * 10, "ocr": [[0, "STOP"], [1, word]][: row["question_id"] % 3], "object_label": f"man&&{word} thing"}
    for name in ("vqa_train_ocr", "vqa_nominival_ocr", "vqa_minival_ocr"):
        write(root / f"{name}.json", rows)
    genome = [{**row, "dataset": "vg", "answer": row["answer"][0]} for row in rows]
    write(root / "vg_qa.json", [{key: value for key, value in row.items() if key not in ("ocr", "object_label")} for row in genome])


def lists(name: str) -> Callable[[Path], None]:
    def fixture(root: Path) -> None:
        pictures(root / "photos", "{}.jpg")
        rows = [{"image": f"photos/{n}.jpg", "caption": f"a {word} thing", "image_id": n} for n, word in enumerate(WORDS)]
        write(root / f"{name}_train.json", rows)
        for split in ("val", "test"):
            write(root / f"{name}_{split}.json", [{**row, "caption": [row["caption"], "a thing"]} for row in rows])

    return fixture


CAPTION = ["settings.num_beams=2", "settings.min_length=1", "settings.max_length=4"]
RETRIEVAL = ["settings.queue_size=10", "settings.k_test=4"]
# The last of two text layers is the universal one.
MPLUG2 = "model.name=mplug2-tiny model.text_layers=2 model.universal_layers=1 model.latents=2 model.fusion_layers=1".split()
CAPTIONS, ANSWERS = {"image_id", "caption"}, {"question_id", "answer"}
CASES = {
    "caption/coco_mplug_base": (karpathy, CAPTION, CAPTIONS),
    "caption/coco_mplug_large": (karpathy, CAPTION, CAPTIONS),
    "caption/flickr30k_mplug_large": (flickr30k, CAPTION, CAPTIONS),
    "caption/nocaps_zeroshot_mplug_large": (nocaps, CAPTION, CAPTIONS),
    "vqa/vqav2_mplug_base": (vqav2, ["settings.num_beams=2", "data.train=[train]", "data.evaluate=val"], ANSWERS),
    "vqa/vqav2_mplug_large": (vqav2, ["settings.num_beams=2", "data.train=[train]", "data.evaluate=val"], ANSWERS),
    "vqa/vqav2_ocr_object_mplug_base": (vqa_lists, ["settings.num_beams=2"], ANSWERS),
    "vqa/vqav2_ocr_object_mplug_large": (vqa_lists, ["settings.num_beams=2"], ANSWERS),
    "retrieval/coco_mplug_large": (lists("coco"), RETRIEVAL, None),
    "retrieval/flickr30k_mplug_large": (lists("flickr30k"), RETRIEVAL, None),
    "retrieval/coco_zeroshot_mplug_large": (lists("coco"), RETRIEVAL, None),
    "retrieval/flickr30k_zeroshot_mplug_large": (lists("flickr30k"), RETRIEVAL, None),
    "caption/coco_mplug2_large": (karpathy, [*MPLUG2, *CAPTION], CAPTIONS),
    "vqa/vqav2_mplug2_large": (vqav2, [*MPLUG2, "settings.num_beams=2", "data.train=[train]", "data.evaluate=val"], ANSWERS),
    "retrieval/coco_mplug2_large": (lists("coco"), [*MPLUG2, *RETRIEVAL], None),
    "retrieval/flickr30k_mplug2_large": (lists("flickr30k"), [*MPLUG2, *RETRIEVAL], None),
}


@pytest.mark.parametrize("name", CASES)
def test_two_steps_an_evaluation_and_what_is_handed_in(name: str, tmp_path: Path) -> None:
    fixture, changes, fields = CASES[name]
    fixture(tmp_path)
    found = two_steps(name, changes, tmp_path)
    assert found["count"] in (10, 20)
    if fields is not None:
        rows = json.loads((tmp_path / "evaluation" / found["submission"]).read_text())
        assert rows and all(row.keys() == fields for row in rows)
    if fields is None:
        sides = {f"{side}_{score}" for side in ("txt", "img") for score in ("r1", "r5", "r10", "r_mean", "median_rank")}
        assert found["metrics"].keys() == sides | {"r_mean"}
    if "nocaps" in name:
        assert {f"cider_{domain}-domain" for domain in ("in", "near", "out")} < found["metrics"].keys()
