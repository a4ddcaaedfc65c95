"""From a recipe to a trained folder to measured numbers, on a few pictures, for every task."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from openmplug.checkpoints.store import model_hash
from openmplug.config import read_yaml
from openmplug.engine.models import find_model
from openmplug.engine.recipe import RunConfig, check_recipe, load_recipe
from openmplug.engine.run import evaluate, train
from openmplug.engine.tracking import read_lines
from openmplug.errors import DataError, EnvironmentProblem, ModelError, OpenmplugError, UsageError
from openmplug.metrics.vqa import vqa_accuracy

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "grey": (128, 128, 128)}
TINY = {
    "name": "mplug-tiny",
    "image_size": 16,
    "patch_size": 8,
    "vision_width": 16,
    "vision_layers": 1,
    "vision_heads": 2,
    "width": 16,
    "heads": 2,
    "intermediate": 32,
    "text_layers": 1,
    "fusion_layers": 1,
    "connected_layers": [],
    "decoder_layers": 1,
    "embed_dim": 8,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "vqa": {"num_beams": 2, "max_length": 4},
    "caption": {"num_beams": 1, "min_length": 1, "max_length": 8},
    "retrieval": {"queue_size": 16, "k_test": 4},
}


def write_data(root: Path, count: int = 12) -> Path:
    (root / "images").mkdir(parents=True)
    names = list(COLOURS)
    rows: dict[str, list[dict[str, Any]]] = {"vqa": [], "caption": []}
    for number in range(count):
        colour = names[number % len(names)]
        Image.new("RGB", (20, 18), COLOURS[colour]).save(root / "images" / f"{number}.png")
        image = f"{number}.png"
        rows["vqa"].append({"image": image, "question": "what colour is this?", "answer": colour})
        rows["caption"].append({"image": image, "captions": [f"a {colour} picture", f"all {colour}, number {number}"]})
    for kind, lines in rows.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        for split in ("train", "dev"):
            (root / f"{kind}-{split}.jsonl").write_text(text)
    return root


def recipe(root: Path, task: str = "vqa", **changes: Any) -> RunConfig:
    """A recipe of the smallest model; ``changes`` are dotted names with ``__`` for the dot."""
    kind = "vqa" if task == "vqa" else "caption"
    tree: dict[str, Any] = {
        "task": task,
        "model": dict(TINY),
        "tokenizer": {"min_count": 1},
        "data": {"root": str(root), "train": [f"{kind}-train"], "evaluate": f"{kind}-dev", "images": "images"},
        "image": {"randaugment_ops": 0},
        "optim": {"lr": 3e-3, "vision_lr": 1e-3, "epochs": 2, "batch_size_per_device": 4, "warmup_steps": 1},
        "run": {"device": "cpu", "log_every": 1, "curves": False},
        "settings": dict(SETTINGS[task]),
    }
    for name, value in changes.items():
        node = tree
        *path, last = name.split("__")
        for key in path:
            node = node.setdefault(key, {})
        node[last] = value
    return check_recipe(tree)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "vqa"
    result = train(recipe(data, run__curves=True), folder, quiet=True)
    assert result["step"] == 6 and result["stopped"] is None and result["metric"] == "accuracy"
    return folder


def test_a_run_leaves_what_the_documents_promise(trained: Path) -> None:
    names = {item.name for item in trained.iterdir()}
    assert {"recipe.yaml", "metrics.jsonl", "checkpoint-last", "checkpoint-best", "curves.png"} <= names
    for checkpoint in ("checkpoint-last", "checkpoint-best"):
        assert {"model.safetensors", "config.json", "vocab.txt"} <= {item.name for item in (trained / checkpoint).iterdir()}
    config = json.loads((trained / "checkpoint-best/config.json").read_text())
    assert config["format"] == 1 and config["architecture"] == "mplug" and config["task"] == "vqa"
    assert config["modules"] == ["vision", "text", "fusion", "decoder"]
    assert config["image"]["size"] == config["model"]["image_size"] == 16
    words = (trained / "checkpoint-best/vocab.txt").read_text().split()
    assert config["model"]["vocab_size"] == len(words) and "red" in words
    assert (trained / "checkpoint-best/model.safetensors").stat().st_mode & 0o444 == 0o444 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_saved_recipe_is_the_recipe(trained: Path, data: Path) -> None:
    assert load_recipe(str(trained / "recipe.yaml"), []) == recipe(data, run__curves=True)


def test_evaluation_writes_predictions_and_metrics(trained: Path, data: Path, tmp_path: Path) -> None:
    result = evaluate(recipe(data), trained, tmp_path, quiet=True)
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written == result
    assert result["split"] == "vqa-dev" and result["count"] == 12 and result["failures"] == 0 and result["task"] == "vqa"
    assert result["model_hash"] == model_hash(trained / "checkpoint-best")
    assert result["settings"]["num_beams"] == 2 and result["scorer"] and result["data"]["shuffle_images"] is False
    assert result["torch"] == torch.__version__
    lines = read_lines(tmp_path / "predictions.jsonl")
    assert [line["image"] for line in lines] == [f"{number}.png" for number in range(12)]
    scored = 100 * sum(vqa_accuracy(line["text"], line["references"]) for line in lines) / len(lines)
    assert result["metrics"]["vqa_accuracy"] == pytest.approx(scored)
    assert {item.name for item in tmp_path.iterdir()} == {"metrics.json", "predictions.jsonl"}


def test_batch_size_and_workers_do_not_change_predictions(trained: Path, data: Path, tmp_path: Path) -> None:
    evaluate(recipe(data, run__evaluate_batch_size=12), trained / "checkpoint-last", tmp_path / "a", quiet=True)
    evaluate(recipe(data, run__evaluate_batch_size=5, data__workers=1), trained / "checkpoint-last", tmp_path / "b", quiet=True)
    a, b = (read_lines(tmp_path / name / "predictions.jsonl") for name in "ab")
    for one, other in zip(a, b, strict=True):
        assert one.pop("score") == pytest.approx(other.pop("score"), abs=1e-5)
        assert one == other


def test_task_settings_of_the_recipe_replace_the_models(trained: Path, data: Path, tmp_path: Path) -> None:
    result = evaluate(recipe(data, settings__num_beams=1, settings__max_length=2), trained, tmp_path, quiet=True)
    assert result["settings"]["num_beams"] == 1 and result["settings"]["max_length"] == 2


@pytest.mark.parametrize("task", ["caption", "retrieval"])
def test_the_other_tasks_run_too(task: str, data: Path, tmp_path: Path) -> None:
    result = train(recipe(data, task, optim__epochs=1), tmp_path / "run", quiet=True)
    assert result["train_examples"] == 24 and result["step"] == 6
    scores = evaluate(recipe(data, task), tmp_path / "run", tmp_path / "out", quiet=True)
    assert scores["count"] == 12 and result["metric"] in scores["metrics"]


@pytest.mark.parametrize(("task", "workers"), [("vqa", 0), ("retrieval", 1)])
def test_a_real_task_resumes_bit_for_bit(task: str, workers: int, data: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"settings__distill": True} if task == "vqa" else {}
    config = recipe(data, task, data__workers=workers, run__validate_every=0, **changes)
    train(config, tmp_path / "whole", quiet=True)
    for stop in (2, 4):
        part = recipe(data, task, run__max_steps=stop, run__validate_every=0, **changes)
        train(part, tmp_path / "parts", resume=stop > 2, quiet=True)
    train(config, tmp_path / "parts", resume=True, quiet=True)
    for name in ("model.safetensors", "training.safetensors"):
        a, b = (load_file(tmp_path / run / "checkpoint-last" / name) for run in ("whole", "parts"))
        assert a.keys() == b.keys() and [key for key in a if not torch.equal(a[key], b[key])] == []
    assert any(key.startswith("task/twin") for key in a)


def test_starting_from_other_weights(trained: Path, data: Path, tmp_path: Path) -> None:
    config = recipe(data, "caption", init_from=str(trained), optim__epochs=1, run__max_steps=1, optim__lr=1e-9, optim__vision_lr=1e-9)
    train(config, tmp_path, quiet=True)
    source, started = (load_file(path / "model.safetensors") for path in (trained / "checkpoint-best", tmp_path / "checkpoint-last"))
    torch.testing.assert_close(started["vision.patches.weight"], source["vision.patches.weight"], atol=1e-6, rtol=0)
    assert (tmp_path / "checkpoint-last/vocab.txt").read_text() == (trained / "checkpoint-best/vocab.txt").read_text()


def test_starting_from_two_tasks_takes_each_part_where_it_is(trained: Path, data: Path, tmp_path: Path) -> None:
    train(recipe(data, "caption", init_from=str(trained), optim__epochs=1, run__max_steps=1), tmp_path / "caption", quiet=True)
    small = {"optim__epochs": 1, "run__max_steps": 1, "optim__lr": 1e-9, "optim__vision_lr": 1e-9}
    config = recipe(data, "retrieval", init_from=str(tmp_path / "caption"), run__max_steps=1)
    train(config, tmp_path / "retrieval", quiet=True)
    config = recipe(data, "vqa", init_from=[str(tmp_path / "retrieval"), str(tmp_path / "caption")], **small)
    train(config, tmp_path / "vqa", quiet=True)
    found, retrieval, caption = (
        load_file(tmp_path / name / "checkpoint-last" / "model.safetensors") for name in ("vqa", "retrieval", "caption")
    )
    assert {key.split(".")[0] for key in found} == {"vision", "text", "fusion", "decoder"}
    for key, value in found.items():
        source = caption if key.startswith("decoder.") else retrieval
        torch.testing.assert_close(value, source[key], atol=1e-6, rtol=0)
    assert not torch.equal(retrieval["vision.patches.weight"], caption["vision.patches.weight"])


def test_weights_of_another_vocabulary_are_refused(trained: Path, data: Path, tmp_path: Path) -> None:
    train(recipe(data, "caption", tokenizer__size=200, run__max_steps=1), tmp_path / "other", quiet=True)
    vocabulary = (tmp_path / "other/checkpoint-last/vocab.txt").read_text()
    assert vocabulary != (trained / "checkpoint-best/vocab.txt").read_text()
    config = recipe(data, "retrieval", init_from=[str(trained), str(tmp_path / "other")])
    with pytest.raises(ModelError, match="is not the run's; start from weights of one vocabulary"):
        train(config, tmp_path / "new", quiet=True)


def test_a_vocabulary_that_is_extended_keeps_the_weights_of_its_words(trained: Path, data: Path, tmp_path: Path) -> None:
    new = write_data(tmp_path / "new")
    said = (new / "caption-train.jsonl").read_text()
    (new / "caption-train.jsonl").write_text(said.replace("picture", "zyxomma"))
    small = {"init_from": str(trained), "run__max_steps": 1, "optim__lr": 1e-9, "optim__vision_lr": 1e-9}
    train(recipe(new, "caption", tokenizer__extend=True, **small), tmp_path / "run", quiet=True)
    before, after = (
        (path / "vocab.txt").read_text().splitlines() for path in (trained / "checkpoint-best", tmp_path / "run/checkpoint-last")
    )
    assert after[: len(before)] == before and "zyxomma" in after[len(before) :]
    was, now = (load_file(path / "model.safetensors") for path in (trained / "checkpoint-best", tmp_path / "run/checkpoint-last"))
    for name in ("decoder.embeddings.words.weight", "decoder.head.bias"):
        assert len(now[name]) == len(after)
        torch.testing.assert_close(now[name][: len(before)], was[name], atol=1e-6, rtol=0)
    assert now["decoder.embeddings.words.weight"][len(before) :].std() > 0
    with pytest.raises(UsageError, match=r"tokenizer\.extend gives new words, which lora\.rank would leave as they are drawn"):
        recipe(data, "vqa", tokenizer__extend=True, init_from=str(trained), lora__rank=2)


# ----------------------------------------------------------------------------------------------------------------- errors


def one_line(error: pytest.ExceptionInfo[OpenmplugError]) -> None:
    assert "\n" not in str(error.value)


def test_a_folder_that_holds_a_run_is_refused(trained: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds another run \(recipe.yaml\); go on with it by --resume, or give another --output"):
        train(recipe(data), trained, quiet=True)
    with pytest.raises(UsageError, match="holds no run to resume"):
        train(recipe(data), tmp_path, resume=True, quiet=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file; give a folder"):
        train(recipe(data), tmp_path / "file", quiet=True)


def test_resuming_with_another_recipe_names_what_changed(trained: Path, data: Path) -> None:
    with pytest.raises(
        UsageError, match=r"was started with another recipe: optim.lr \(0.003 before, 0.004 now\), seed \(0 before, 1 now\)"
    ):
        train(recipe(data, run__curves=True, optim__lr=4e-3, seed=1), trained, resume=True, quiet=True)
    before = read_yaml(trained / "recipe.yaml")
    assert train(recipe(data, run__log_every=7, data__workers=1), trained, resume=True, quiet=True)["step"] == 6
    assert read_yaml(trained / "recipe.yaml")["optim"] == before["optim"]


def spoil(root: Path, name: str, content: bytes | None) -> None:
    path = root / "images" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)


def jpeg(size: int = 64) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((size, size), 50).convert("RGB").save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("content", [None, b"just some words\n", jpeg()[:-400]], ids=["missing", "text", "truncated"])
@pytest.mark.parametrize("number", [0, 10], ids=["first", "late"])
def test_a_picture_that_cannot_be_read(content: bytes | None, number: int, tmp_path: Path) -> None:
    root = write_data(tmp_path / "set")
    spoil(root, f"{number}.png", content)
    with pytest.raises(DataError, match=rf"{number}.png") as caught:
        train(recipe(root, run__validate_every=0), tmp_path / "run", quiet=True)
    one_line(caught)
    # Before step 0 nothing has been written for the first pictures.
    assert (tmp_path / "run").exists() is (number == 10)


def test_unreadable_pictures_are_skipped_if_asked_for(tmp_path: Path) -> None:
    root = write_data(tmp_path / "set")
    spoil(root, "0.png", b"just some words\n")
    config = recipe(root, data__on_error="skip")
    assert train(config, tmp_path / "run", quiet=True)["failures"] == 2  # once per epoch
    result = evaluate(config, tmp_path / "run", tmp_path / "out", quiet=True)
    assert result["count"] == 11 and result["failures"] == 1
    assert read_lines(tmp_path / "out/failures.jsonl")[0]["name"] == "0.png"


def test_a_folder_of_pictures_none_of_which_can_be_read(tmp_path: Path) -> None:
    root = write_data(tmp_path / "set")
    for number in range(12):
        spoil(root, f"{number}.png", b"nothing")
    with pytest.raises(DataError, match=r"none of the first 8 pictures of split 'vqa-train' can be read: "):
        train(recipe(root, data__on_error="skip"), tmp_path / "run", quiet=True)


def test_a_row_without_an_answer_stops_before_anything_is_built(tmp_path: Path) -> None:
    root = write_data(tmp_path / "set")
    with (root / "vqa-train.jsonl").open("a") as file:
        file.write('{"image": "0.png", "question": "what?"}\n')
    with pytest.raises(DataError, match="answer") as caught:
        train(recipe(root), tmp_path / "run", quiet=True)
    one_line(caught)
    assert not (tmp_path / "run").exists()


def test_a_model_of_another_task_or_place_is_refused(trained: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"was trained for task 'vqa', the recipe is for 'caption'"):
        evaluate(recipe(data, "caption", settings={}), trained, tmp_path, quiet=True)
    with pytest.raises(ModelError, match=r"holds neither model.safetensors nor checkpoint-best nor checkpoint-last"):
        evaluate(recipe(data), tmp_path, tmp_path / "out", quiet=True)
    with pytest.raises(ModelError, match="is not a folder"):
        find_model(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["removed", "reshaped", "vocabulary", "settings"])
def test_a_damaged_model_is_refused(damage: str, trained: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for item in (trained / "checkpoint-best").iterdir():
        (folder / item.name).write_bytes(item.read_bytes())
    path = folder / "model.safetensors"
    tensors = load_file(path)
    if damage == "removed":
        del tensors["vision.positions"]
    elif damage == "reshaped":
        tensors["vision.positions"] = torch.zeros(3, 16)
    save_file(tensors, path)
    message = {
        "removed": r"1 missing \(vision.positions\)",
        "reshaped": r"1 of another shape \(vision.positions \(3, 16\) instead of \(5, 16\)\)",
    }
    if damage == "vocabulary":
        (folder / "vocab.txt").unlink()
        message[damage] = r"vocab.txt' is missing"
    if damage == "settings":
        config = json.loads((folder / "config.json").read_text())
        del config["settings"]
        (folder / "config.json").write_text(json.dumps(config))
        message[damage] = r"has no settings; it is not a folder that openmplug train wrote"
    with pytest.raises(ModelError, match=message[damage]) as caught:
        evaluate(recipe(data), folder, tmp_path / "out", quiet=True)
    one_line(caught)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there(data: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"device 'cuda' is not available here; found: cpu"):
        train(recipe(data), tmp_path / "run", device="cuda", quiet=True)
