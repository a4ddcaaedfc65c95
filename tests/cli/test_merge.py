"""``openmplug merge`` through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.command import TINY, run


def test_train_merge_evaluate(shapes: Path, trained: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    data, folder, recipe = f"data.root={shapes / 'vqa'}", tmp_path / "lora", "vqa/shapes_mplug_tiny"
    outcome = run("train", recipe, data, *TINY, "lora.rank=2", f"init_from={trained('vqa')}", "--output", folder)
    assert outcome.code == 0, outcome.err
    assert f"adapters are in {folder}; openmplug merge {folder} --output DIR" in outcome.out
    assert " of which " in outcome.err  # how many parameters learn
    outcome = run("merge", folder, "--output", tmp_path / "model", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["output"] == str(tmp_path / "model")
    outcome = run("evaluate", recipe, "--model", tmp_path / "model", data, "data.limit=4", "--output", tmp_path / "dev", "--json")
    assert json.loads(outcome.out)["model_hash"] == json.loads(run("merge", folder, "--output", tmp_path / "b", "--json").out)["sha256"]


def test_refusals_are_one_line(trained: Callable[[str], Path], tmp_path: Path) -> None:
    assert "holds no adapters" in run("merge", trained("vqa"), "--output", tmp_path / "out").error(2)
    assert "is not a folder" in run("merge", tmp_path / "none", "--output", tmp_path / "out").error(4)
    error = run("train", "vqa/shapes_mplug_tiny", "data.root=x", "lora.rank=2", "--output", tmp_path / "run").error(2)
    assert "lora.rank=2 needs weights to adapt: give init_from=DIR" in error
