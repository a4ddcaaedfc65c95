"""``openmplug models``: what it prints, and that a fault in a checkpoint is one line with exit code 4."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from checkpoints.originals_made import original_state, with_training, write_original
from cli.command import run
from openmplug.models.families import build_network, named_config
from openmplug.models.selections import SELECTIONS, selected_modules


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return original_state(folder=tmp_path_factory.mktemp("made"))


def test_list_names_sizes_and_known_weights() -> None:
    listed = run("models", "list")
    assert listed.code == 0
    assert "mplug-base" in listed.out
    assert "mplug.en.large.v2.pth" in listed.out
    found = json.loads(run("models", "list", "--json").out)
    assert [row["name"] for row in found["sizes"]][-3:] == ["mplug2-small", "mplug2-base", "mplug2-large"]
    assert {row["name"]: row["universal"] for row in found["sizes"]}["mplug2-large"] == 2
    assert next(row for row in found["sizes"] if row["name"] == "mplug-base")["million"] == pytest.approx(344.8, abs=0.1)


@pytest.mark.parametrize("task", SELECTIONS)
def test_show_lists_exactly_the_modules_that_a_task_builds(task: str) -> None:
    found = json.loads(run("models", "show", "mplug2-large", "--task", task, "classes=400", "--json").out)
    config = named_config("mplug2-large", classes=400)
    with torch.device("meta"):
        model = build_network(config, selected_modules(config, task))
    expected = {name: f"{sum(p.numel() for p in child.parameters()):,}" for name, child in model.named_children()}
    assert found["modules"] == list(expected)
    rows = {row["part"]: row["parameters"] for row in found["parts"]}
    assert rows.pop("all") == f"{sum(p.numel() for p in model.parameters()):,}"
    assert rows == expected
    assert found["notes"] == []


def test_a_head_without_classes_says_how_it_was_counted() -> None:
    shown = run("models", "show", "mplug2-tiny", "--task", "text-classification")
    assert "counted with 2 classes" in shown.out + shown.err and "text, universal, classification" in shown.out


def test_show_names_the_parts_a_task_runs() -> None:
    parts = {part["part"] for part in json.loads(run("models", "show", "mplug-large", "--task", "caption", "--json").out)["parts"]}
    assert parts == {"vision", "vision_projection", "decoder", "all"}
    assert "did you mean 'mplug-large'" in run("models", "show", "mplug-lage").error(2)
    assert "did you mean 'caption'" in run("models", "show", "mplug-base", "--task", "captoin").error(2)


def test_there_and_back(state: dict[str, Tensor], tmp_path: Path) -> None:
    source = write_original(tmp_path / "source", with_training(state))
    dry = run("models", "convert", source, "--output", tmp_path / "ours", "--dry-run")
    assert dry.out.splitlines()[-1] == "dry run: nothing was written"
    assert not (tmp_path / "ours").exists()
    done = run("models", "convert", source, "--output", tmp_path / "ours")
    assert "a momentum copy" in done.out
    assert run("models", "verify", tmp_path / "ours", "--against", source).out.splitlines()[-1] == "all of it is in order"
    shown = json.loads(run("models", "show", tmp_path / "ours", "--json").out)
    assert (shown["kind"], shown["task"]) == ("folder", None)
    assert run("models", "convert", tmp_path / "ours", "--output", tmp_path / "back.pth").code == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert all(torch.equal(back[key], value) for key, value in with_training(state).items())
    report = json.loads(run("models", "convert", source, "--output", tmp_path / "again", "--json").out)
    assert set(report["mapped"]) | set(report["unused"]) == set(with_training(state))


def test_faults_have_exit_code_4(state: dict[str, Tensor], tmp_path: Path) -> None:
    key = "text_encoder.encoder.layer.1.output.dense.weight"
    removed = write_original(tmp_path / "removed", {name: value for name, value in state.items() if name != key})
    assert f"1 missing ({key})" in run("models", "convert", removed, "-o", tmp_path / "ours").error(4)
    reshaped = write_original(tmp_path / "reshaped", {**state, key: state[key].T.contiguous()})
    assert f"1 of another shape ({key}" in run("models", "convert", reshaped, "-o", tmp_path / "ours").error(4)
    double = write_original(tmp_path / "double", {**state, key: state[key].double()})
    assert "is float64" in run("models", "verify", double).error(4)
    cut = write_original(tmp_path / "cut", state)
    cut.write_bytes(cut.read_bytes()[:-4000])
    assert "cut off" in run("models", "show", cut).error(4)
    assert "does not exist" in run("models", "convert", tmp_path / "nothing.pth", "-o", tmp_path / "ours").error(4)
    assert not (tmp_path / "ours").exists()


def test_bad_flags(state: dict[str, Tensor], tmp_path: Path) -> None:
    source = write_original(tmp_path / "source", state)
    assert "unknown --keep 'some'" in run("models", "convert", source, "-o", tmp_path / "ours", "--keep", "some").error(2)
    assert "unknown size 'head'" in run("models", "convert", source, "head=4", "-o", tmp_path / "ours").error(2)
    assert "unknown task 'vqq'" in run("models", "convert", source, "-o", tmp_path / "ours", "--task", "vqq").error(4)


def test_predict_takes_a_released_file(tmp_path: Path) -> None:
    state = original_state(("vision", "text", "fusion", "decoder"), tmp_path / "made")
    Image.new("RGB", (20, 30), "red").save(tmp_path / "a.png")
    source = write_original(tmp_path / "source", state, config={"prompt": "", "beam_size": 2, "min_length": 1, "max_length": 4})
    outcome = run("predict", "caption", tmp_path / "a.png", "--model", source, "--output", tmp_path / "out.jsonl")
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "out.jsonl").read_text())["image"].endswith("a.png")
