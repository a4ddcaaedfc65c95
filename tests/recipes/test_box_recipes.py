"""The grounding recipes run: two steps and an evaluation on ten made-up records in official layouts; a stopped run goes on the same."""

from __future__ import annotations

import csv
import json
import pickle
from itertools import permutations
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from openmplug.checkpoints.store import model_hash, read_config
from openmplug.data.shapes import write_shapes
from openmplug.engine.catalog import list_recipes
from openmplug.engine.models import find_model
from openmplug.engine.recipe import RunConfig, load_recipe
from openmplug.engine.run import evaluate, train
from openmplug.engine.tracking import read_lines
from openmplug.inference.bulk.inputs import open_inputs
from openmplug.inference.bulk.job import Job
from openmplug.inference.bulk.run import predict
from openmplug.inference.bulk.verbs import VERBS
from openmplug.inference.loading import load

NAMES = [name for name in list_recipes() if name.startswith("grounding/")]
TINY = (
    "model.name=mplug-tiny model.image_size=32 model.patch_size=8 model.width=32 model.vision_width=32 model.vision_layers=1 model.heads=2 "
    "model.vision_heads=2 model.intermediate=64 model.decoder_layers=1 tokenizer.min_count=1 data.workers=0 optim.batch_size_per_device=4 "
    "optim.accumulation=1 optim.epochs=2 optim.warmup_steps=1 run.curves=false run.evaluate_batch_size=5 run.precision=fp32 run.device=cpu "
    "run.validate_every=0 run.log_every=1"
).split()
COUNT = 10


def box_of(number: int) -> list[int]:
    return [3 * number, 5, 3 * number + 12, 25]


def picture(path: Path, number: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (60, 40), "white")
    ImageDraw.Draw(image).rectangle(box_of(number), fill=(20 * number, 100, 50))
    image.save(path)
    return path.name


def refcoco(root: Path, partition: str) -> None:
    """Write ten references for each split, with their instances and pictures."""
    references, images, annotations = [], [], []
    for place, split in enumerate(("train", "val")):
        for number in range(COUNT):
            key = COUNT * place + number
            name = picture(root / "train2014" / f"COCO_train2014_{key:012d}.jpg", number)
            left, top, right, bottom = box_of(number)
            images.append({"id": key, "file_name": name})
            annotations.append({"id": 500 + key, "image_id": key, "bbox": [left, top, right - left, bottom - top]})
            sentence = {"sent_id": key, "sent": f"thing {number} on the left", "raw": "x", "tokens": []}
            references.append({"ref_id": key, "ann_id": 500 + key, "image_id": key, "split": split, "sentences": [sentence]})
    (root / f"refs({partition}).p").write_bytes(pickle.dumps(references, protocol=2))
    (root / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations}))


def nlvr1(root: Path) -> None:
    for file, step in (("dev", 1), ("test_u", 10)):  # the second file's presentations are all held out
        (root / f"{file}_images").mkdir(parents=True)
        phrases, scenes = [], []
        for number in range(COUNT):
            identifier = f"{101 + number if step == 1 else 10 * number}-0"
            names = [f"{file}-{identifier}-{each}.png" for each in range(6)]
            for name, order in zip(names, permutations(range(3)), strict=True):
                image, left = Image.new("RGB", (400, 100), "white"), 150 * order.index(0) + 3 * number
                ImageDraw.Draw(image).rectangle([left, 5, left + 19, 24], fill="black")
                image.save(root / f"{file}_images" / name)
            thing = {"type": "square", "color": "Black", "size": 20, "x_loc": 3 * number, "y_loc": 5}
            scenes.append({"identifier": identifier, "images": names, "structured_rep": [[thing], [], []]})
            box = [3 * number, 5, 3 * number + 20, 25]
            phrases.append({"image": names[0], "identifier": identifier, "expression": "the black square", "bbox": box})
        for name, rows in ((f"{file}_grounding.jsonl", phrases), (f"{file}.jsonl", scenes)):
            (root / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def fixture_of(name: str, root: Path) -> Path:
    if "nlvr1" in name:
        nlvr1(root)
    elif "shapes" in name or "alone" in name:
        write_shapes(root, train_images=10, dev_images=COUNT)
        return root / ("boxes" if "shapes" in name else "alone")
    else:
        refcoco(root, "umd" if "refcocog" in name else "unc")
    return root


def recipe(name: str, root: Path, *changes: str) -> RunConfig:
    return load_recipe(name, [*TINY, f"data.root={root}", *changes])


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_and_an_evaluation(name: str, tmp_path: Path) -> None:
    config = recipe(name, fixture_of(name, tmp_path / "data"), "run.max_steps=2")
    result = train(config, tmp_path / "run", quiet=True)
    assert result["step"] == 2 and result["metric"] == "accuracy"
    found = evaluate(config, tmp_path / "run", tmp_path / "evaluation", quiet=True)
    lines = list(read_lines(tmp_path / "evaluation" / "predictions.jsonl"))
    assert found["count"] == len(lines) >= COUNT
    assert 0 <= found["metrics"]["accuracy"] <= 100 and 0 <= found["metrics"]["mean_iou"] <= 1
    for line in lines:
        assert len(line["box"]) == len(line["true_box"]) == 4 and 0 <= line["iou"] <= 1


def test_a_stopped_run_goes_on_the_same(tmp_path: Path) -> None:
    root = fixture_of("grounding/refcoco_mplug_large", tmp_path / "data")
    for name, steps in (("whole", ()), ("broken", ("run.max_steps=3",))):
        train(recipe("grounding/refcoco_mplug_large", root, *steps), tmp_path / name, quiet=True)
    train(recipe("grounding/refcoco_mplug_large", root), tmp_path / "broken", resume=True, quiet=True)
    assert model_hash(tmp_path / "whole" / "checkpoint-last") == model_hash(tmp_path / "broken" / "checkpoint-last")


@pytest.mark.parametrize("workers", [0, 1])
def test_the_front_door_and_predict_find_what_evaluation_found(workers: int, tmp_path: Path) -> None:
    name = "grounding/nlvr1_mplug_tiny"  # stretched, which the folder must remember
    root = fixture_of(name, tmp_path / "data")
    config = recipe(name, root)
    train(config, tmp_path / "run", quiet=True)
    assert read_config(find_model(tmp_path / "run"))["settings"]["boxes"]["fit"] == "stretch"
    evaluate(config, tmp_path / "run", tmp_path / "evaluation", quiet=True)
    model = load(tmp_path / "run", device="cpu")
    rows: list[dict[str, str]] = []
    boxes: list[list[float]] = []
    for line in read_lines(tmp_path / "evaluation" / "predictions.jsonl"):
        folder, _, file = line["image"].partition("/")
        rows.append({"image": f"{folder}_images/{file}", "phrase": line["phrase"], "score": "of old"})
        box = model.ground(root / rows[-1]["image"], line["phrase"])
        boxes.append([box.left, box.top, box.right, box.bottom])
        assert boxes[-1] == pytest.approx(line["box"], abs=0.01)
    table = root / "list.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    opened = open_inputs([str(table)], VERBS["ground"].words, None)
    tally = predict(
        Job("ground", opened, tmp_path / "run", tmp_path / "boxes.csv", device="cpu", batch_size=3, workers=workers), lambda _: None
    )
    assert tally.done == len(rows)
    with (tmp_path / "boxes.csv").open(newline="") as file:
        for found, box, row in zip(csv.DictReader(file), boxes, rows, strict=True):
            assert [float(found[side]) for side in ("left", "top", "right", "bottom")] == pytest.approx(box, abs=1e-4)
            assert 0 < float(found["score"]) <= 1 and (found["phrase"], found["given_score"]) == (row["phrase"], "of old")


def test_the_recipes_that_are_promised() -> None:
    promised = {f"grounding/{data}_mplug_{size}" for data in ("refcoco", "refcoco+", "refcocog") for size in ("base", "large")}
    ours = {f"grounding/{data}_mplug_tiny" for data in ("alone", "shapes", "nlvr1_near", "nlvr1")}
    assert promised | ours == set(NAMES)


@pytest.mark.parametrize("data", ["refcoco", "refcoco+", "refcocog"])
def test_the_numbers_are_those_of_the_release(data: str) -> None:
    config = load_recipe(f"grounding/{data}_mplug_large")
    optim = config.optim
    found = (optim.lr, optim.vision_lr, optim.epochs, optim.warmup_epochs, optim.batch_size_per_device, config.image.size)
    assert found == (2e-5, 5e-6, 120, 20, 24, 336)
    assert (optim.weight_decay, optim.schedule, config.settings["loss"]) == (0.02, "mplug", "original")
