"""mPLUG-2 large on a clip of 16 frames: a forward and a training step fit into the memory of an ordinary machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "memory.py"
LIMIT_GIB = 20


@pytest.mark.slow
@pytest.mark.parametrize("work", ["infer", "train"])
def test_large_fits_into_20_gib(work: str) -> None:
    """Random weights, batch of 1, 16 frames of 224 pixels: 4,097 vision tokens.

    The task is captioning, in bf16 autocast; the step has AdamW's moments, as in a run, and layers are recomputed.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    if memory < LIMIT_GIB:
        pytest.skip(f"needs {LIMIT_GIB} GiB, this machine has {memory:.0f}")
    arguments = {"work": work, "size": "mplug2-large", "batch_size": 1, "task_name": "caption", "frames": 16}
    arguments |= {"kind": "bf16"} if work == "infer" else {"recompute": True, "precision": "bf16", "steps": 1}
    done = subprocess.run([sys.executable, str(BENCHMARK), "--cell", json.dumps(arguments)], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(work, found)
    assert 2 < found["peak_gib"] < LIMIT_GIB
    if work == "train":
        assert found["parameters"] > 6e8 and 0 < found["loss"] < 100
