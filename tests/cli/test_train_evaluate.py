"""From a recipe to weights to numbers, through the commands."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.command import TINY, run
from openmplug.config import read_yaml

TASKS = {"vqa": "accuracy", "caption": "cider", "retrieval": "r_mean"}


@pytest.mark.parametrize("task", TASKS)
def test_train_and_evaluate(task: str, shapes: Path, trained: Callable[[str], Path], tmp_path: Path) -> None:
    folder = trained(task)
    for name in ("recipe.yaml", "metrics.jsonl", "checkpoint-last/model.safetensors"):
        assert (folder / name).exists(), name
    recipe = f"{task}/shapes_mplug_tiny"
    outcome = run("evaluate", recipe, "--model", folder, f"data.root={shapes / task}", "--output", tmp_path, "--json", "data.limit=4")
    assert outcome.code == 0, outcome.err
    metrics = json.loads(outcome.out)
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["split"] == "dev"
    assert metrics["count"] == 4
    assert TASKS[task] in metrics["metrics"]
    assert len(metrics["model_hash"]) == 64
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == 4


def test_evaluate_prints_a_table(shapes: Path, trained: Callable[[str], Path], tmp_path: Path) -> None:
    arguments = ("--model", trained("vqa"), f"data.root={shapes / 'vqa'}", "data.limit=4", "--output", tmp_path, "--batch-size", "2")
    outcome = run("evaluate", "vqa/shapes_mplug_tiny", *arguments)
    assert "accuracy" in outcome.out
    assert "predictions and metrics are in" in outcome.err


def test_train_as_json_keeps_stdout_clean(shapes: Path, tmp_path: Path) -> None:
    flags = ("--seed", "3", "--device", "cpu", "--dtype", "fp32", "--batch-size", "8")
    root = f"data.root={shapes / 'caption'}"
    outcome = run("train", "caption/shapes_mplug_tiny", root, *TINY, "run.max_steps=1", *flags, "--output", tmp_path / "run", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["task"] == "caption"
    resolved = read_yaml(tmp_path / "run" / "recipe.yaml")
    assert resolved["seed"] == 3
    assert resolved["optim"]["batch_size_per_device"] == 8
    assert resolved["run"]["device"] == "cpu"


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_dry_run_writes_nothing(verb: str, tmp_path: Path) -> None:
    more = ("--model", tmp_path) if verb == "evaluate" else ()
    arguments = (verb, "vqa/shapes_mplug_tiny", *more, "data.root=somewhere", "--output", tmp_path / "out", "--dry-run")
    assert "somewhere" in run(*arguments).out + run(*arguments).err
    assert json.loads(run(*arguments, "--json").out)["recipe"]["data"]["root"] == "somewhere"
    assert not (tmp_path / "out").exists()


def test_data_check(shapes: Path, tmp_path: Path) -> None:
    outcome = run("data", "check", "vqa/shapes_mplug_tiny", f"data.root={shapes / 'vqa'}")
    assert outcome.code == 0, outcome.err
    assert "no problem found" in outcome.err
    report = json.loads(run("data", "check", "vqa/shapes_mplug_tiny", f"data.root={shapes / 'vqa'}", "--json").out)
    assert report["ok"]
    assert [split["name"] for split in report["splits"]] == ["train", "dev"]
    assert report["splits"][0]["pictures"] == 12


def test_data_check_says_what_is_wrong(tmp_path: Path) -> None:
    rows = [{"image": f"{number}.png", "caption": "a"} for number in range(3)]
    for split in ("train", "dev"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "1.png").write_text("not a picture")
    outcome = run("data", "check", "caption/shapes_mplug_tiny", f"data.root={tmp_path}")
    line = outcome.error(3) if outcome.err.count("error:") == 1 else outcome.err
    assert "split 'train': 2 of 3 pictures are not in" in line
    assert "'0.png', '2.png'" in line
    assert "1 of 1 opened pictures cannot be read: image '1.png' is not a picture" in line
    as_json = run("data", "check", "caption/shapes_mplug_tiny", f"data.root={tmp_path}", "--json")
    assert as_json.code == 3
    assert json.loads(as_json.out)["splits"][0]["missing"] == ["0.png", "2.png"]


def test_make_shapes(tmp_path: Path) -> None:
    plan = run("data", "make", "shapes", "--output", tmp_path / "s", "--dry-run", "--json")
    assert json.loads(plan.out)["train_images"] == 3000
    assert not (tmp_path / "s").exists()
    outcome = run("data", "make", "shapes", "--output", tmp_path / "s", "--train-images", "3", "--dev-images", "2")
    assert outcome.code == 0, outcome.err
    assert "vqa/train" in outcome.out
    assert (tmp_path / "s" / "vqa" / "dev_images.zip").is_file()


def test_make_nlvr1(tmp_path: Path) -> None:
    plan = run("data", "make", "nlvr1", "--output", tmp_path / "n", "--dry-run")
    assert "would draw 4,000 + 200 scenes" in plan.out and not (tmp_path / "n").exists()
    outcome = run("data", "make", "nlvr1", "--output", tmp_path / "n", "--train-scenes", "3", "--dev-scenes", "2", "--json")
    assert json.loads(outcome.out)["records"] == {"train": 3, "dev": 2}


def test_an_interrupted_run_is_saved_and_goes_on(shapes: Path, tmp_path: Path) -> None:
    settings = [setting for setting in TINY if "max_steps" not in setting]
    arguments = ["caption/shapes_mplug_tiny", f"data.root={shapes / 'caption'}", *settings, "--output", str(tmp_path / "run")]
    endless = [*arguments, "optim.epochs=100000", "run.validate_every=0"]
    process = subprocess.Popen([sys.executable, "-m", "openmplug", "train", *endless], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "train step" not in (line := process.stderr.readline()):
        assert line, "the run ended by itself"
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "error: interrupted at step" in rest
    assert "Traceback" not in rest
    outcome = run("train", *endless, "--resume", "run.max_minutes=0.001", "--json")
    assert outcome.code == 0, outcome.err
    assert "resuming at step" in outcome.err
    assert json.loads(outcome.out)["stopped"] == "run.max_minutes=0.001 reached"


@pytest.mark.parametrize("task", TASKS)
def test_evaluation_leaves_a_page_to_look_at(task: str, shapes: Path, trained: Callable[[str], Path], tmp_path: Path) -> None:
    arguments = ("evaluate", f"{task}/shapes_mplug_tiny", "--model", trained(task), f"data.root={shapes / task}", "data.limit=4")
    outcome = run(*arguments, "--output", tmp_path / "a")
    assert outcome.code == 0, outcome.err
    text = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert "data:image/jpeg;base64," in text
    assert f"{task}/shapes_mplug_tiny on split" in text
    facts = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert facts["recipe"] == f"{task}/shapes_mplug_tiny"
    assert facts["command"].startswith(f"openmplug evaluate {task}/shapes_mplug_tiny --model ")
    assert facts["date"].endswith("Z") and facts["hardware"] and facts["threads"] >= 1
    assert run(*arguments, "--no-report", "--output", tmp_path / "b").code == 0
    assert not (tmp_path / "b" / "report.html").exists()
