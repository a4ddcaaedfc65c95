"""The comparison with BLIP runs, and both sides write captions of the full length."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "blip.py"


def test_it_runs_on_few_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("blip_benchmark", FILE)
    assert spec is not None and spec.loader is not None
    blip = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(blip)
    output, threads = tmp_path / "blip.json", torch.get_num_threads()
    try:
        assert blip.main(f"--size tiny --threads 1 --repeat 1 --tokens 3 --image-size 32 --batches 2 --json {output}".split()) == 0
    finally:
        torch.set_num_threads(threads)
    report = json.loads(output.read_text())
    assert abs(report["parameters"]["ours"] / report["parameters"]["blip"] - 1) < 0.05  # the same size, so the comparison is fair
    numbers = report["batches"]["2"]
    assert numbers["ratio"] == pytest.approx(numbers["blip"] / numbers["ours"])
    assert "| 2 |" in capsys.readouterr().out
