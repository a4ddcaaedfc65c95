"""The benchmark of the vector index runs, and its exact search is exact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmark_files import load_benchmark

pytest.importorskip("lancedb")


def test_it_runs_on_few_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    search = load_benchmark("search", monkeypatch)
    for setting in ("PROBED_ROWS", "REFINE"):  # the benchmark may change them
        monkeypatch.setattr(search.front_door, setting, getattr(search.front_door, setting))
    assert search.main(f"--rows 1000 --size 16 --queries 20 --sets clustered --json {tmp_path / 'n.json'}".split()) == 0
    numbers = json.loads((tmp_path / "n.json").read_text())["clustered"]
    assert numbers["exact"]["recall_at_10"] == numbers["filtered"]["recall_at_10"] == 1
    assert numbers["index"]["recall_at_10"] >= 0.98
    assert numbers["filtered by the index"]["recall_at_10"] > 0.5
    assert "recall@10" in capsys.readouterr().out
