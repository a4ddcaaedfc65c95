"""Bad input, each kind once: one line that says what to do, the exit code of its kind, no trace, and nothing good is lost."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cli.command import TINY, Outcome, run

RECIPE = "vqa/shapes_mplug_tiny"


def png_header(width: int, height: int) -> bytes:
    """Return a PNG of this size whose pixels compress to almost nothing: a decompression bomb."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(width + 1) * 16)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Own data: four pictures with a question each, as train and as dev."""
    root = tmp_path / "own"
    root.mkdir()
    rows = []
    for number in range(4):
        Image.effect_noise((64, 48), 60 + number).convert("RGB").save(root / f"{number}.jpg")
        rows.append(json.dumps({"image": f"{number}.jpg", "question": "what colour?", "answer": "red"}))
    for split in ("train", "dev"):
        (root / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    return root


def break_picture(root: Path, kind: str) -> str:
    """Spoil picture 2 and return what the error must say."""
    path = root / "2.jpg"
    if kind == "missing":
        path.unlink()
        return "'2.jpg' not found in"
    if kind == "truncated":
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        return "'2.jpg' is truncated or damaged"
    if kind == "text":
        path.write_text("I am not a picture, whatever my name says.")
        return "'2.jpg' is not a picture"
    path.write_bytes(png_header(20_000, 20_000))
    return "'2.jpg' has too many pixels"


def train(own: Path, *more: str) -> Outcome:
    return run("train", RECIPE, f"data.root={own}", *TINY, *more, "--output", own.parent / "run")


@pytest.mark.parametrize("kind", ["missing", "truncated", "text", "huge"])
def test_a_picture_that_cannot_be_read(kind: str, own: Path, trained: Callable[[str], Path]) -> None:
    message = break_picture(own, kind)
    assert message in train(own).error(3)
    assert not (own.parent / "run" / "checkpoint-last").exists()
    assert message in run("data", "check", RECIPE, f"data.root={own}").err or kind == "missing"
    assert run("data", "check", RECIPE, f"data.root={own}").code == 3

    model, output = trained("vqa"), own.parent / "answers.jsonl"
    arguments = ("predict", "vqa", own / "dev.jsonl", "--model", model, "--output", output)
    line = run(*arguments).error(3)
    assert message in line
    assert "--on-error skip" in line
    assert not output.exists()

    outcome = run(*arguments, "--on-error", "skip", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["failed"] == 1
    records = [json.loads(text) for text in output.read_text().splitlines()]
    assert message in records[2]["error"]
    assert [("answer" in record) for record in records] == [True, True, False, True]

    evaluation = ("evaluate", RECIPE, "--model", model, f"data.root={own}", "--output", own.parent / "evaluation")
    assert message in run(*evaluation).error(3)
    skipped = run(*evaluation, "data.on_error=skip", "--json")
    assert skipped.code == 0, skipped.err
    assert json.loads(skipped.out)["failures"] == 1
    assert message in json.loads((own.parent / "evaluation" / "failures.jsonl").read_text())["reason"]


def test_an_empty_table(own: Path, trained: Callable[[str], Path]) -> None:
    (own / "train.jsonl").write_text("")
    assert "train.jsonl has no records" in train(own).error(3)
    table = own / "train.jsonl"
    assert "has no records" in run("predict", "vqa", table, "--model", trained("vqa"), "--output", own / "a.csv").error(3)


def test_a_row_without_answer(own: Path) -> None:
    with (own / "train.jsonl").open("a") as file:
        file.write(json.dumps({"image": "0.jpg", "question": "what?"}) + "\n")
    line = train(own).error(3)
    assert "train.jsonl line 5: no 'answer'" in line
    assert "found image, question" in line


def test_an_unknown_setting(own: Path) -> None:
    assert train(own, "optim.lrr=1").error(2) == "error: unknown setting 'optim.lrr'; did you mean 'optim.lr'?"
    assert (
        train(own, "settings.max_lenght=3").error(2) == "error: unknown setting 'settings.max_lenght'; did you mean 'settings.max_length'?"
    )


def test_an_unknown_recipe(own: Path) -> None:
    outcome = run("train", "vqa/shapes_mplug_tinny", "--output", own.parent / "run")
    assert "unknown recipe 'vqa/shapes_mplug_tinny'; did you mean 'vqa/shapes_mplug_tiny'?" in outcome.error(2)
    assert "does not exist" in run("train", own / "none.yaml", "--output", own.parent / "run").error(2)


@pytest.mark.parametrize("recipe", [RECIPE, "caption/shapes_mplug_tiny"])
def test_lengths_that_contradict_each_other(recipe: str, own: Path) -> None:
    outcome = run("train", recipe, f"data.root={own}", "settings.min_length=30", *TINY, "--output", own.parent / "run")
    assert "min_length 30 is above max_length" in outcome.error(2)
    assert not (own.parent / "run").exists()


def remove_a_key(tensors: dict[str, torch.Tensor]) -> str:
    name = sorted(tensors)[0]
    del tensors[name]
    return f"1 missing ({name})"


def reshape_a_key(tensors: dict[str, torch.Tensor]) -> str:
    name = next(name for name in sorted(tensors) if tensors[name].ndim == 2)
    tensors[name] = tensors[name][:-1].contiguous()
    return f"1 of another shape ({name}"


def add_a_key(tensors: dict[str, torch.Tensor]) -> str:
    tensors["left.over"] = torch.zeros(1)
    return "1 unexpected (left.over)"


@pytest.mark.parametrize("change", [remove_a_key, reshape_a_key, add_a_key])
def test_weights_that_were_changed(
    change: Callable[[dict[str, torch.Tensor]], str], own: Path, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(trained("vqa") / "checkpoint-last", model)
    tensors = load_file(model / "model.safetensors")
    message = change(tensors)
    save_file(tensors, model / "model.safetensors")
    predict = ("predict", "vqa", own / "0.jpg", "--question", "what?", "--model", model, "--output", tmp_path / "a.jsonl")
    assert message in run(*predict).error(4)
    assert not (tmp_path / "a.jsonl").exists()
    evaluate = ("evaluate", RECIPE, "--model", model, f"data.root={own}", "--output", tmp_path / "evaluation")
    assert message in run(*evaluate).error(4)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"12"), "is not a whole safetensors file"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors' does not exist"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda folder: (folder / "config.json").write_text('{"format": 1}'), "has no task, model, settings, image"),
        (lambda folder: (folder / "vocab.txt").unlink(), "vocab.txt' is missing"),
        (shutil.rmtree, "does not exist; give a checkpoint file or a folder"),
    ],
)
def test_a_damaged_folder(spoil: Callable[[Path], object], message: str, own: Path, trained: Callable[[str], Path], tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(trained("vqa") / "checkpoint-last", model)
    spoil(model)
    predict = ("predict", "vqa", own / "0.jpg", "--question", "what?", "--model", model, "--output", tmp_path / "a.jsonl")
    assert message in run(*predict).error(4)


def test_a_full_disk_while_a_checkpoint_is_written(own: Path, tmp_path: Path) -> None:
    """The limit on file sizes stands in for a full disk: the write of the weights really fails, in the middle of the file."""
    assert train(own, "run.validate_every=0").code == 0
    folder = own.parent / "run"
    before = {path.name: path.read_bytes() for path in (folder / "checkpoint-last").iterdir()}
    size = (folder / "checkpoint-last" / "model.safetensors").stat().st_size
    arguments = ["train", RECIPE, f"data.root={own}", *TINY, "run.validate_every=0", "run.max_steps=4", "--output", str(folder), "--resume"]
    limited = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2}, resource.RLIM_INFINITY));"
        "from openmplug.cli.app import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", limited, *arguments], capture_output=True, text=True)
    line = Outcome(result.returncode, result.stdout, result.stderr).error(5)
    assert "checkpoint-last'" in line
    assert "File too large" in line
    assert {path.name: path.read_bytes() for path in (folder / "checkpoint-last").iterdir()} == before
    # With room again the run goes on from there, and the surviving checkpoint answers.
    assert run(*arguments).code == 0
    predict = ("predict", "vqa", own / "0.jpg", "--question", "what?", "--model", folder, "--output", tmp_path / "a.jsonl")
    assert run(*predict).code == 0


def test_results_that_cannot_be_written(own: Path, trained: Callable[[str], Path]) -> None:
    predict = ("predict", "vqa", own / "0.jpg", "--question", "what?", "--model", trained("vqa"), "--output")
    assert "the name must end in .jsonl, .csv or .parquet" in run(*predict, own / "a.xlsx").error(2)
    (own / "file").write_text("")
    assert "cannot write" in run(*predict, own / "file" / "a.jsonl").error(5)


def test_a_run_that_is_there_already(own: Path) -> None:
    assert train(own).code == 0
    assert "holds another run" in train(own).error(2)
    assert "was started with another recipe: optim.epochs" in train(own, "--resume", "optim.epochs=9").error(2)
