"""The recipes of question benchmarks, visual entailment, reasoning and self-critical captions run: two steps on a few made-up records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from openmplug.data.nlvr1_drawn import write_nlvr1
from recipe_fixtures import WORDS, karpathy, pictures, two_steps, write


def clevr(root: Path) -> None:
    for split in ("train", "val"):
        pictures(root / "images" / split, f"CLEVR_{split}_{{:06d}}.png")
        programs = [[{"function": "scene"}, {"function": last}] for last in ("count", "less_than", "equal_color", "query_shape", "exist")]
        rows = [{"question_index": n, "image_index": n, "question": f"what is {n}?", "answer": word} for n, word in enumerate(WORDS)]
        for n, row in enumerate(rows):
            row |= {"image_filename": f"CLEVR_{split}_{n:06d}.png", "split": split, "program": programs[n % 5]}
        write(root / "questions" / f"CLEVR_{split}_questions.json", {"info": {}, "questions": rows})


def gqa(root: Path) -> None:
    pictures(root / "images", "{}.jpg")
    for split in ("train_balanced", "testdev_balanced"):
        kinds = {"structural": "query", "semantic": "attr", "detailed": "x"}
        records = {f"q{n}": {"question": f"what is {n}?", "imageId": n, "answer": word, "types": kinds} for n, word in enumerate(WORDS)}
        write(root / f"{split}_questions.json", records)


def okvqa(root: Path) -> None:
    for split in ("train2014", "val2014"):
        pictures(root / split, f"COCO_{split}_{{:012d}}.jpg")
        questions = [{"question_id": 100 + n, "image_id": n, "question": f"what is {n}?"} for n in range(10)]
        answers = [{"question_id": 100 + n, "answers": [{"answer": word}] * 10} for n, word in enumerate(WORDS)]
        write(root / f"OpenEnded_mscoco_{split}_questions.json", {"questions": questions})
        write(root / f"mscoco_{split}_annotations.json", {"annotations": answers})


def textvqa(root: Path) -> None:
    pictures(root / "train_images", "p{}.jpg")
    records = [{"question_id": n, "image_id": f"p{n}", "question": "what brand?", "answers": [word] * 10} for n, word in enumerate(WORDS)]
    read = [{"image_id": f"p{n}", "ocr_tokens": ["STOP!", word]} for n, word in enumerate(WORDS)]
    for split in ("train", "val"):
        write(root / f"TextVQA_0.5.1_{split}.json", {"data": records})
        write(root / f"TextVQA_Rosetta_OCR_v0.2_{split}.json", {"data": read})


def vizwiz(root: Path) -> None:
    for split in ("train", "val"):
        pictures(root / split, f"VizWiz_{split}_{{:08d}}.jpg")
        answers = [[{"answer": word, "answer_confidence": "yes"}] * 10 for word in WORDS]
        rows = [{"image": f"VizWiz_{split}_{n:08d}.jpg", "question": "what is this?", "answers": answers[n]} for n in range(10)]
        write(root / "Annotations" / f"{split}.json", [{**row, "answer_type": "other", "answerable": 1} for row in rows])


def snli_ve(root: Path) -> None:
    pictures(root / "flickr30k-images", "{}.jpg")
    labels = ["entailment", "neutral", "contradiction"]
    for split in ("train", "dev"):
        rows = [
            {"Flickr30K_ID": n, "pairID": f"{n}r", "sentence2": f"a {word}", "gold_label": labels[n % 3]} for n, word in enumerate(WORDS)
        ]
        (root / f"snli_ve_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def nlvr2(root: Path) -> None:
    for split, folder in (("train", "images/train/0"), ("dev", "dev")):
        for side in (0, 1):
            pictures(root / folder, f"{split}-1-{{}}-img{side}.png")
        rows = [
            {"identifier": f"{split}-1-{n}-0", "sentence": f"the left one is {word}", "label": str(n % 2 == 0), "directory": 0}
            for n, word in enumerate(WORDS)
        ]
        (root / "data").mkdir(exist_ok=True)
        (root / "data" / f"{split}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


def nlvr1(root: Path) -> None:
    """Write ten examples in two parts, two of which (twelve drawings) are of tenth presentations."""
    for split, first in (("dev", 8), ("test_u", 18)):
        names = [(f"{n}-0", [f"{split}-{n}-0-{each}.png" for each in range(6)]) for n in range(first, first + 5)]
        blocks = [{"type": "square", "color": colour, "size": 20, "x_loc": 40, "y_loc": 80} for colour in ("Black", "Yellow")]
        rows = [
            {
                "identifier": key,
                "sentence": f"there is {key}",
                "label": key == "9-0",
                "images": each,
                "structured_rep": [[blocks[n % 2]], [], []],
            }
            for n, (key, each) in enumerate(names)
        ]
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (root / f"{split}_images").mkdir()
        for number, name in enumerate(name for _, each in names for name in each):
            Image.new("RGB", (40, 10), (8 * number, 100, 50)).save(root / f"{split}_images" / name)


def nlvr1_drawn(root: Path) -> None:
    write_nlvr1(root, 4, 2)


def own(root: Path) -> None:
    for split in ("train", "dev"):
        pictures(root / f"{split}_images", "{}.jpg")
        rows = [{"image": f"{n}.jpg", "captions": [f"a {word} thing", f"it is {word}"]} for n, word in enumerate(WORDS)]
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


SELF_CRITICAL = ["settings.num_beams=2", "settings.min_length=1", "settings.max_length=4"]
CASES = {
    "vqa/clevr_mplug_large": (clevr, ["settings.num_beams=2"], None),
    "vqa/gqa_mplug_large": (gqa, ["settings.num_beams=2"], {"questionId", "prediction"}),
    "vqa/okvqa_mplug_large": (okvqa, ["settings.num_beams=2"], {"question_id", "answer"}),
    "vqa/textvqa_mplug_large": (textvqa, ["settings.num_beams=2"], {"question_id", "answer"}),
    "vqa/textvqa_ocr_mplug_large": (textvqa, ["settings.num_beams=2"], {"question_id", "answer"}),
    "vqa/vizwiz_mplug_large": (vizwiz, ["settings.num_beams=2"], {"image", "answer"}),
    "classification/snli_ve_mplug_large": (snli_ve, [], None),
    "classification/nlvr2_mplug_base": (nlvr2, [], "submission.csv"),
    "classification/nlvr2_mplug_large": (nlvr2, [], "submission.csv"),
    "classification/nlvr1_mplug_tiny": (nlvr1, [], "submission.csv"),
    "classification/nlvr1_things_mplug_tiny": (nlvr1_drawn, [], "submission.csv"),
    "classification/nlvr1_statements_mplug_tiny": (nlvr1_drawn, [], "submission.csv"),
    "classification/nlvr1_alike_mplug_tiny": (nlvr1_drawn, [], "submission.csv"),
    "caption/coco_scst_mplug_base": (karpathy, SELF_CRITICAL, {"image_id", "caption"}),
    "caption/coco_scst_mplug_large": (karpathy, SELF_CRITICAL, {"image_id", "caption"}),
    "caption/flickr8k_scst_mplug_small": (own, SELF_CRITICAL, None),
}


@pytest.mark.parametrize("name", CASES)
def test_two_steps_an_evaluation_and_what_is_handed_in(name: str, tmp_path: Path) -> None:
    fixture, changes, fields = CASES[name]
    fixture(tmp_path)
    found = two_steps(name, changes, tmp_path)
    assert found["count"] == (12 if fixture in (nlvr1, nlvr1_drawn) else 10)
    if fields is None:
        assert "submission" not in found
    elif isinstance(fields, str):
        assert found["submission"] == fields and {"consistency", "majority_accuracy"} <= found["metrics"].keys()
        lines = (tmp_path / "evaluation" / fields).read_text().splitlines()
        assert len(lines) == found["count"] and all(line.split(",")[1].lower() in ("true", "false") for line in lines)
    else:
        rows = json.loads((tmp_path / "evaluation" / found["submission"]).read_text())
        assert rows and all(row.keys() == fields for row in rows)
