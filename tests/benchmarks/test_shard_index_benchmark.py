"""The benchmark of large indices runs, and sees every sample."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmark_files import load_benchmark


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_small_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = load_benchmark("shard_index", monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(Path(benchmark.__file__).parent))
    arguments = ["--samples", "300", "--per-shard", "100", "--workers", "0", "1", "--batches", "1", "--json", str(tmp_path / "n.json")]
    assert benchmark.main(arguments) == 0
    assert [(case["samples"], case["workers"]) for case in json.loads((tmp_path / "n.json").read_text())] == [(300, 0), (300, 1)]
    with pytest.raises(SystemExit):
        benchmark.main(["--samples", "5"])
