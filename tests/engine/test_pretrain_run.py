"""Pre-train, use without fine-tuning, fine-tune: one model through all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import openmplug
from cli.command import run
from openmplug.engine.recipe import check_recipe
from openmplug.engine.run import evaluate, train
from openmplug.errors import ModelError, UsageError
from openmplug.inference.model import Model

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "grey": (128, 128, 128)}
MODEL = {
    "name": "mplug2-tiny",
    "image_size": 16,
    "patch_size": 8,
    "vision_width": 16,
    "vision_layers": 1,
    "vision_heads": 2,
    "width": 16,
    "heads": 2,
    "intermediate": 32,
    "text_layers": 2,
    "fusion_layers": 1,
    "decoder_layers": 1,
    "embed_dim": 8,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "questions": []}
    for number in range(12):
        colour = [*COLOURS][number % 4]
        Image.new("RGB", (20, 18), COLOURS[colour]).save(folder / "images" / f"{number}.png")
        rows["train"].append({"image": f"{number}.png", "captions": [f"a {colour} picture", f"all {colour}, number {number}"]})
        rows["questions"].append({"image": f"{number}.png", "question": "what colour is this?", "answer": colour})
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def recipe(task: str, root: Path, settings: dict[str, Any], **fields: Any) -> Any:
    split = "questions" if task == "vqa" else "train"
    return check_recipe(
        {
            "task": task,
            "model": MODEL,
            "tokenizer": {"size": 400, "min_count": 1},
            "data": {"reader": "jsonl", "root": str(root), "train": [split], "evaluate": split},
            "settings": settings,
            "optim": {"lr": 3e-3, "vision_lr": 3e-3, "epochs": 2, "batch_size_per_device": 6, "warmup_steps": 1},
            "run": {"precision": "fp32", "device": "cpu", "log_every": 1, "curves": False},
            **fields,
        }
    )


@pytest.fixture(scope="module")
def pretrained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run") / "pretrained"
    result = train(recipe("pretrain", root, {"queue_size": 12, "instruction": 1.0}), output, quiet=True)
    assert result["step"] == 8 and set(result["metrics"]) >= {"itc_accuracy", "itm_accuracy", "mlm_accuracy", "prefix_perplexity"}
    return output


SETTINGS: dict[str, dict[str, Any]] = {
    "retrieval": {"k_test": 3, "queue_size": 12},
    "caption": {"instruction": "what does the image describe?", "num_beams": 2, "min_length": 1, "max_length": 6},
    "vqa": {"inference": "rank", "answers": ["red", "green", "blue"], "max_length": 4},
}


@pytest.mark.parametrize("task", SETTINGS)
def test_a_pretrained_model_is_measured_and_fine_tuned_on_every_task(task: str, root: Path, pretrained: Path, tmp_path: Path) -> None:
    found = evaluate(recipe(task, root, SETTINGS[task]), pretrained, tmp_path / "zero", quiet=True)
    assert found["task"] == task and len((tmp_path / "zero" / "predictions.jsonl").read_text().splitlines()) == 12
    assert found["settings"] == {**found["settings"], **{key: value for key, value in SETTINGS[task].items() if key != "answers"}}
    tuned = train(recipe(task, root, SETTINGS[task], init_from=[str(pretrained)]), tmp_path / "tuned", quiet=True)
    assert tuned["step"] > 0 and tuned["metric"] in tuned["metrics"]


def test_what_pretraining_left_out_is_named(root: Path, tmp_path: Path) -> None:
    bare = {"queue_size": 0, "alpha": 0.0, "itm": 0, "mlm": 0, "prefix": 0}
    train(recipe("pretrain", root, bare), tmp_path / "bare", quiet=True)
    with pytest.raises(ModelError, match="has no decoder, fusion, which task 'vqa' needs; fine-tune it"):
        evaluate(recipe("vqa", root, SETTINGS["vqa"]), tmp_path / "bare", tmp_path / "out", quiet=True)


def test_captions_and_questions_are_pretrained_on_together(root: Path, tmp_path: Path) -> None:
    """Batches of captions and of questions take turns; the model then does both."""
    told, asked = ({"reader": "jsonl", "root": str(root), "train": [split]} for split in ("train", "questions"))
    data = {"reader": "jsonl", "root": str(root), "evaluate": "questions", "sources": {"told": told, "asked": asked}}
    settings = {"queue_size": 0, "alpha": 0.0, "answer": 1.0, "itm": 0, "mlm": 0}
    longer = {"lr": 3e-3, "vision_lr": 3e-3, "epochs": 30, "batch_size_per_device": 6, "warmup_steps": 1}
    result = train(recipe("pretrain", root, settings, data=data, optim=longer), tmp_path / "both", quiet=True)
    log = [json.loads(line) for line in (tmp_path / "both" / "metrics.jsonl").read_text().splitlines()]
    kinds = ["loss_answer" in line for line in log if "loss" in line]
    assert any(kinds) and not all(kinds)
    assert result["metrics"]["answer_accuracy"] > 50  # four colours, and every answer ends the same way
    with pytest.raises(UsageError, match=r"give optim\.accumulation above 1"):
        train(recipe("pretrain", root, settings, data={**data, "mixed_steps": True}, optim=longer), tmp_path / "alone", quiet=True)
    found = evaluate(recipe("vqa", root, {"max_length": 4}), tmp_path / "both", tmp_path / "zero", quiet=True)
    assert found["metrics"]["accuracy"] > 50
    with pytest.raises(UsageError, match=r"asks a question about a picture; give settings\.answer a weight"):
        train(recipe("pretrain", root, {**settings, "answer": 0}, data=data), tmp_path / "mute", quiet=True)


def test_python_takes_a_pretrained_model_for_whatever_its_parts_allow(root: Path, pretrained: Path) -> None:
    model = openmplug.load(pretrained, device="cpu")
    picture = Image.open(root / "images" / "0.png")
    assert model.match(picture, "a red picture").probability > 0
    assert model.answer(picture, "what colour is this?", candidates=["red", "blue"]).text in ("red", "blue")
    assert isinstance(model.caption(picture, min_length=1, max_length=4).text, str)


def test_folders_are_captioned_by_a_pretrained_model(root: Path, pretrained: Path, tmp_path: Path) -> None:
    outcome = run("predict", "caption", root / "images", "--model", pretrained, "--output", tmp_path / "out.jsonl")
    assert outcome.code == 0, outcome.err
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == len(list((root / "images").iterdir()))


def test_captions_are_asked_for_as_pretraining_asked(root: Path, pretrained: Path, tmp_path: Path) -> None:
    """A model that learned to describe when asked is asked, also after it was saved; the folder's own words come first."""
    model = openmplug.load(pretrained, device="cpu")
    assert model.task_for("caption").settings.model_dump()["instruction"] == "what does the {kind} describe?"
    picture = Image.open(root / "images" / "0.png")
    short = {"min_length": 1, "max_length": 4}
    said = model.caption(picture, **short)
    plain = dict(model.config)
    del plain["defaults"]
    unasked = Model(model.network, model.tokenizer, plain, model.device, model.precision).caption(picture, **short)
    assert said.score != unasked.score
    model.config["defaults"]["caption"]["min_length"] = 2
    model.save_pretrained(tmp_path / "saved")
    again = openmplug.load(tmp_path / "saved", device="cpu")
    settings = again.task_for("caption").settings.model_dump()
    assert (settings["instruction"], settings["min_length"]) == ("what does the {kind} describe?", 2)
    assert again.caption(picture, max_length=4).score == pytest.approx(model.caption(picture, min_length=2, max_length=4).score)


def test_it_resumes_bit_for_bit(root: Path, tmp_path: Path) -> None:
    settings = {"queue_size": 12}
    whole = train(recipe("pretrain", root, settings), tmp_path / "whole", quiet=True)
    stopped = recipe("pretrain", root, settings)
    stopped = stopped.model_copy(update={"run": stopped.run.model_copy(update={"max_steps": 3})})
    train(stopped, tmp_path / "parts", quiet=True)
    parts = train(recipe("pretrain", root, settings), tmp_path / "parts", resume=True, quiet=True)
    assert parts["metrics"] == whole["metrics"]
    logs = [[json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()] for name in ("whole", "parts")]
    losses = [{line["step"]: line["loss"] for line in log if "loss" in line} for log in logs]
    assert losses[0] == losses[1] and len(losses[0]) == 8
