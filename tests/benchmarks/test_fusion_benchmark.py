"""The fusion benchmark runs, its stacks compute what they say, and its operations are those of the modules."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmark_files import load_benchmark
from openmplug.models import layers
from tiny_models import randomise, right_padded

SIZES = {"width": 32, "heads": 4, "intermediate": 128, "layers": 4, "dropout": 0.0}
KINDS = ["connected", "co-attention", "skip S=1", "skip S=3", "skip S=4"]


@pytest.fixture
def fusion(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_benchmark("fusion", monkeypatch)


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_benchmark("fusion_stacks", monkeypatch)


@pytest.mark.parametrize("kind", KINDS)
def test_operations_are_those_of_the_stack(stacks: ModuleType, kind: str) -> None:
    stack = stacks.build_stack(kind, **SIZES)
    vision, text = torch.randn(3, 9, 32, requires_grad=True), torch.randn(3, 5, 32, requires_grad=True)
    with stacks.attention_kind("eager"), FlopCounterMode(display=False) as counter:
        fused = stack(vision, text, torch.ones(3, 5, dtype=torch.bool))
        forward = counter.get_total_flops()
        (fused.vision.sum() + fused.text.sum()).backward()
    assert forward == 3 * stacks.stack_flops(kind, 9, 5, 32, 128, 4)
    assert counter.get_total_flops() == 3 * forward


def test_operations_of_a_whole_model(fusion: ModuleType, stacks: ModuleType) -> None:
    grid = fusion.GRIDS["tiny"]
    for setting in [one for one in fusion.settings(grid) if one.scope == "whole"][1::2]:
        bench = fusion.Bench(grid, torch.device("cpu"), dropout=0.0)
        model, inputs = bench.models(setting)["skip S=1"], bench.inputs(setting)
        with stacks.attention_kind("eager"), FlopCounterMode(display=False) as counter:
            bench.call(model, inputs, setting.mode)()
        assert counter.get_total_flops() == fusion.operations(grid, setting, "skip S=1")


@pytest.mark.parametrize("kind", KINDS)
def test_both_kinds_of_attention_give_the_same(stacks: ModuleType, kind: str) -> None:
    stack = randomise(stacks.build_stack(kind, **SIZES), std=0.1)
    vision, text, mask = torch.randn(3, 9, 32), torch.randn(3, 5, 32), right_padded([5, 2, 3])
    with torch.no_grad():
        fused = stack(vision, text, mask)
        with stacks.attention_kind("eager"):
            assert layers.attend is stacks.eager_attention
            plain = stack(vision, text, mask)
    assert layers.attend is not stacks.eager_attention
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_each_stream_sees_the_other_and_no_padding(stacks: ModuleType) -> None:
    """A change of vision reaches the text everywhere; a change of padded words reaches nothing that is real."""
    vision, text, mask = torch.randn(1, 9, 32), torch.randn(1, 5, 32), right_padded([3], width=5)
    other_padding = text.clone()
    other_padding[:, 3:] += 1
    for kind in KINDS:
        stack = randomise(stacks.build_stack(kind, **SIZES), std=0.1)
        with torch.no_grad():
            fused, seen, padded = stack(vision, text, mask), stack(vision + 1, text, mask), stack(vision, other_padding, mask)
            told = stack(vision, text + 1, mask)
        assert not torch.allclose(fused.text[:, :3], seen.text[:, :3], atol=1e-3), kind
        torch.testing.assert_close(fused.text[:, :3], padded.text[:, :3])
        torch.testing.assert_close(fused.vision, padded.vision)
        # S=4 of 4 layers connects none: vision passes untouched.
        assert torch.equal(fused.vision, told.vision) == (kind == "skip S=4"), kind


def test_the_grid_is_the_protocol(fusion: ModuleType) -> None:
    grid = fusion.GRIDS["full"]
    assert (grid.layers, grid.vision, grid.text, grid.strides) == ((6, 12), (197, 257, 577, 1297), (25, 30), (1, 2, 3, 6))
    assert (grid.width, grid.heads) == (768, 12) and grid.runs >= 30 and grid.warmup > 0
    keys = [one.key() for one in fusion.settings(grid)]
    assert len(set(keys)) == len(keys) == 2 * 2 * 4 * 2 * 4 * 2 + 2 * 4 * 4 * 2


def run(fusion: ModuleType, *arguments: str) -> int:
    threads = torch.get_num_threads()
    try:
        return int(fusion.main(["--tiny", "--threads", "1", "--device", "cpu", *arguments]))
    finally:
        torch.set_num_threads(threads)


def test_it_runs_goes_on_and_draws(
    fusion: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusion, "start_counting", lambda: None)  # it collects garbage, which is most of the time here
    output, plots = tmp_path / "fusion.json", tmp_path / "plots"
    some = ("--json", str(output), "--scope", "fusion", "--modes", "forward")
    assert run(fusion, *some, "--attention", "sdpa") == 0
    first = json.loads(output.read_text())
    assert len(first["cells"]) == 2  # V
    measured = []
    measure = fusion.Bench.measure
    monkeypatch.setattr(fusion.Bench, "measure", lambda self, setting: measured.append(setting) or measure(self, setting))
    assert run(fusion, *some, "--plots", str(plots)) == 0
    assert [setting.attention for setting in measured] == ["eager"] * 2  # the other kind was there
    assert run(fusion, "--json", str(output), "--scope", "whole", "--vision", "5", "--attention", "sdpa") == 0
    assert measured[-1].scope == "whole"
    record = json.loads(output.read_text())
    assert {key: record["cells"][key] for key in first["cells"]} == first["cells"]
    for cell in record["cells"].values():
        assert set(cell["stacks"]) == {"connected", "co-attention", "skip S=1", "skip S=2"}
        assert all(one["seconds"] > 0 and one["parameters"] > 0 and one["gflop"] > 0 for one in cell["stacks"].values())
        assert all(one["tflops_per_second"] == pytest.approx(one["gflop"] / 1e3 / one["seconds"]) for one in cell["stacks"].values())
    assert [path.name for path in plots.iterdir()] == ["fusion_L2_T4_b2_forward_fp32.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in plots.iterdir())
    assert "| skip S=2 |" in capsys.readouterr().out


def test_a_stack_that_does_not_fit_says_so(fusion: ModuleType) -> None:
    def too_large(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    grid = fusion.GRIDS["tiny"]
    bench = fusion.Bench(grid, torch.device("cpu"), dropout=0.0)
    setting = next(fusion.settings(grid))
    bench.models(setting)["connected"].forward = too_large
    cells = bench.measure(setting)
    assert cells["connected"] == {"problem": "out of memory"} and cells["skip S=1"]["seconds"] > 0
    assert cells["skip S=1"]["peak_bytes"] is None or cells["skip S=1"]["peak_bytes"] >= 4 * cells["skip S=1"]["parameters"]
    assert "| connected | out of memory |" in fusion.table(cells)


def test_numbers_of_two_machines_are_not_mixed(fusion: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "fusion.json"
    output.write_text(json.dumps({"about": {"hardware": "another"}, "cells": {}}))
    with pytest.raises(SystemExit):
        run(fusion, "--json", str(output))
    assert "was measured with another hardware, threads" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--runs", "-1"], ["--vision", "3"], ["--modes", "sideways"]])
def test_wrong_arguments_are_refused(fusion: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(fusion, *arguments)
    assert stopped.value.code == 2
    assert "nothing is left to measure" in capsys.readouterr().err


def test_the_plan_starts_nothing(fusion: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(fusion, "--plan") == 0
    assert "12 settings of 4 stacks, 3 calls each" in capsys.readouterr().out
