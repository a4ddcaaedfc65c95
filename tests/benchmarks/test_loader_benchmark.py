"""The loader's benchmark runs, and both sides see the same pictures."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

PLACE = Path(__file__).resolve().parents[2] / "benchmarks" / "loader.py"


def test_tiny_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("loader", PLACE)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    threads = torch.get_num_threads()
    try:
        assert benchmark.main(["--tiny", "--json", str(tmp_path / "numbers.json")]) == 0
        with pytest.raises(SystemExit):
            benchmark.main(["--rounds", "0"])
        with pytest.raises(SystemExit):
            benchmark.main([str(tmp_path), "--data", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["samples"] == 8 and 0 < numbers["shards"] == numbers["shards_per_core"]
    assert min(numbers[name] for name in ("plain", "draft", "fast")) > 0
    assert "Pillow, draft and resize" in capsys.readouterr().out
