"""A mixture on two processes: what one process sees, divided; and one process goes on where two stopped, with the same samples."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data.shards_made import write_shards, write_words
from engine.test_text_shards import MODEL
from openmplug.config import dump_yaml
from openmplug.engine.recipe import check_recipe
from openmplug.engine.run import train

SOURCES = {"web": 2, "words": 1, "more": 1}


def recipe(root: Path, batch: int, **run: Any) -> dict[str, Any]:
    sources = {name: {"reader": "shards", "root": str(root / name), "train": ["."], "weight": weight} for name, weight in SOURCES.items()}
    return {
        "task": "pretrain",
        "model": MODEL,
        "tokenizer": {"size": 300, "min_count": 1},
        "data": {"reader": "shards", "root": str(root / "words"), "evaluate": ".", "sources": sources},
        "settings": {"queue_size": 0, "alpha": 0.0, "itm": 0, "distill": False},
        "optim": {"lr": 1e-3, "epochs": 2, "batch_size_per_device": batch, "warmup_steps": 1},
        "run": {"precision": "fp32", "device": "cpu", "log_every": 1, "curves": False, "validate_every": 0, "log_ids": True, **run},
    }


def samples(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_divide_a_mixture_and_one_goes_on_with_the_same_samples(tmp_path: Path) -> None:
    write_shards(tmp_path / "web", [9, 6, 9])
    write_words(tmp_path / "words", [6, 5])
    write_shards(tmp_path / "more", [7])
    train(check_recipe(recipe(tmp_path, 4)), tmp_path / "whole", quiet=True)
    whole = samples(tmp_path / "whole")
    kinds = [{name.partition("/")[0] for name in row["ids"]} for row in whole]
    assert {"words"} in kinds and any(kind <= {"web", "more"} for kind in kinds) and all(len(row["ids"]) == 4 for row in whole)
    half = len(whole) // 2 + 1
    assert {"words"} in kinds[:half] and {"words"} in kinds[half:]

    (tmp_path / "two.yaml").write_text(dump_yaml(recipe(tmp_path, 2, max_steps=half)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "openmplug", "train"]
    words = [str(tmp_path / "two.yaml"), "--output", str(tmp_path / "parts")]
    done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    # The processes' parts stand behind each other: equal to the one process's batches, so nothing is seen twice and nothing is left out.
    assert samples(tmp_path / "parts") == whole[:half]

    train(check_recipe(recipe(tmp_path, 4)), tmp_path / "parts", resume=True, quiet=True)
    assert samples(tmp_path / "parts") == whole
