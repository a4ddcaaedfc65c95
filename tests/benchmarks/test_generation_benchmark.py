"""The benchmark runs, and the side it compares against is correct: equal to the oracle of the tests, item by item."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from parity.plain import plain_beam_search, plain_rank
from tiny_models import random_ids, right_padded, tiny_decoder

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a file of ``benchmarks/`` the way it runs: its own folder first on the path."""
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("end_bias", [0.0, 4.0, 6.0])
@pytest.mark.parametrize("masked", [False, True])
def test_batched_plain_search_equals_the_oracle(end_bias: float, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = load("plain", monkeypatch)
    for seed in range(4):
        decoder, states = tiny_decoder(seed, end_bias), torch.randn(3, 6, 32)
        mask = right_padded([6, 2, 4]) if masked else None
        found = plain.plain_beam_search(decoder, states, mask, num_beams=4, min_length=1, max_length=6)
        expected = plain_beam_search(decoder, states, mask, 4, 1, 6)
        assert [ids for ids, _ in found] == [item[0][0] for item in expected]
        assert [score for _, score in found] == pytest.approx([item[0][1] for item in expected], abs=1e-4)


def test_batched_plain_ranking_equals_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = load("plain", monkeypatch)
    decoder, states, mask = tiny_decoder(0), torch.randn(2, 6, 32), right_padded([6, 2])
    ids, real = random_ids(7, 5), right_padded([5, 3, 4, 2, 5, 3, 4])
    found = plain.plain_rank(decoder, states, mask, ids, real, 4)
    for one, other in zip(found, plain_rank(decoder, states, mask, ids, real, 4), strict=True):
        torch.testing.assert_close(one, other)


def test_benchmark_runs_and_both_sides_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = load("generation", monkeypatch)
    output = tmp_path / "numbers.json"
    threads = torch.get_num_threads()
    arguments = ["--size", "mplug-tiny", "--repeat", "1", "--threads", "1", "--only", "answer-4", "rank-100", "--json", str(output)]
    try:
        assert benchmark.main(arguments) == 0
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "answer, 10 tokens, batch 4" in printed and "rank 100 answers" in printed
    cases = json.loads(output.read_text())["cases"]
    assert set(cases) == {"answer-4", "rank-100"}
    assert all(case["same_ids"] and case["plain_seconds"] > 0 < case["cached_seconds"] for case in cases.values())


@pytest.mark.parametrize("arguments", [["--repeat", "0"], ["--only", "caption-9"], ["--size", "mplug-bass"]])
def test_wrong_arguments_are_refused(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = load("generation", monkeypatch)
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(arguments)
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err
