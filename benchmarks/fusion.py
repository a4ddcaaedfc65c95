"""Time three ways to fuse vision and text at equal depth: connected attention, co-attention on both streams, skip-connected fusion.

    python benchmarks/fusion.py --json fusion.json --plots fusion/                    # the protocol: for a GPU
    python benchmarks/fusion.py --json fusion.json --plots fusion/ --dtypes bf16      # a part of it; what the file has is not repeated
    python benchmarks/fusion.py --quick --threads 1 --json quick.json --plots quick/  # about five minutes on one core
    python benchmarks/fusion.py --plan                                                # what it would compute; starts nothing

All stacks are built from the same post-LN blocks (width 768, 12 heads), random weights. Skip-connected fusion is ours, with the layers
connected that the released code connects for a stride S: j > 0 with j % S == 0. ``forward`` is without gradients in evaluation mode,
``forward+backward`` in training mode, gradients of both inputs included. bf16 has weights and activations in bf16, fp32 no TF32.
``eager`` writes scores and probabilities to memory as the originals do, ``sdpa`` is torch's fused attention. The stacks of a setting take
turns and the median of the runs after a warm-up counts. Peak memory is that of the weights and of what a call allocates: of the
allocator on a GPU, of the process on Linux. GFLOP are by formula (benchmarks/flops.py), of the whole call.

``whole`` is the same with mPLUG base's encoders (ViT-B/16, 6 text layers) before the stack: the tower takes most of it, so the gain is
smaller.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from fusion_grid import BOTH, FORWARD, GRIDS, Grid, Setting, operations, settings
from fusion_plots import draw
from fusion_stacks import PATCH, WORDS, WholeModel, attention_kind, build_encoders, build_stack, variants
from memory import start_counting, status
from torch import Tensor, nn

from openmplug.device import choose_device
from openmplug.engine.circumstances import circumstances
from openmplug.engine.guards import is_out_of_memory

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# ------------------------------------------------------------------------------------------------------------------ measuring


class Bench:
    """Builds what settings need, keeps it while it serves, and times it."""

    def __init__(self, grid: Grid, device: torch.device, dropout: float) -> None:
        self.grid, self.device, self.dropout = grid, device, dropout
        self._stacks: tuple[tuple[int, str], dict[str, nn.Module]] = ((0, ""), {})
        self._encoders: tuple[tuple[int, str], Any] = ((0, ""), None)

    def models(self, setting: Setting) -> dict[str, nn.Module]:
        """Return the stacks of a setting by name, or the whole models around them."""
        grid, block = self.grid, (self.grid.width, self.grid.heads, 4 * self.grid.width)
        with torch.device(self.device):
            if self._stacks[0] != (setting.layers, setting.dtype):
                self._stacks = (0, ""), {}  # freed before the next ones are built
                built = {name: build_stack(name, *block, setting.layers, self.dropout) for name in variants(grid.strides)}
                self._stacks = (setting.layers, setting.dtype), {name: one.to(DTYPES[setting.dtype]) for name, one in built.items()}
            if setting.scope == "fusion":
                return self._stacks[1]
            if self._encoders[0] != (setting.vision, setting.dtype):
                encoders = build_encoders(grid.encoders, setting.vision, *block, self.dropout)
                self._encoders = (setting.vision, setting.dtype), [one.to(DTYPES[setting.dtype]) for one in encoders]
        return {name: WholeModel(*self._encoders[1], stack) for name, stack in self._stacks[1].items()}

    def inputs(self, setting: Setting) -> tuple[Tensor, Tensor, Tensor]:
        """Make what the models of a setting are called with."""
        rows, tokens, dtype = setting.batch, setting.text, DTYPES[setting.dtype]
        mask = torch.ones(rows, tokens, dtype=torch.bool, device=self.device)
        if setting.scope == "whole":
            side = round((setting.vision - 1) ** 0.5) * PATCH
            images = torch.randn(rows, 3, side, side, device=self.device, dtype=dtype)
            return images, torch.randint(1000, WORDS, (rows, tokens), device=self.device), mask
        shapes = ((rows, setting.vision, self.grid.width), (rows, tokens, self.grid.width))
        learned = setting.mode == BOTH
        vision, text = (torch.randn(shape, device=self.device, dtype=dtype).requires_grad_(learned) for shape in shapes)
        return vision, text, mask

    def call(self, model: nn.Module, inputs: tuple[Tensor, ...], mode: str) -> Callable[[], None]:
        """Return what is timed: a forward pass, or one with the gradients of everything that learns."""

        def forward() -> None:
            with torch.no_grad():
                model(*inputs)

        def forward_and_backward() -> None:
            fused = model(*inputs)
            (fused.vision.float().mean() + fused.text.float().mean()).backward()
            for tensor in (*model.parameters(), *inputs):
                tensor.grad = None

        model.train(mode == BOTH)
        return forward if mode == FORWARD else forward_and_backward

    def synchronize(self) -> None:
        """Wait for a GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak(self, call: Callable[[], None]) -> int | None:
        """Return the bytes a call allocates beyond what is there, at most; None where it cannot be told."""
        if self.device.type == "cuda":
            self.synchronize()
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            call()
            return torch.cuda.max_memory_allocated(self.device) - before
        if platform.system() != "Linux":
            call()
            return None
        start_counting()
        before_gib = status("VmRSS")
        call()
        return max(0, round((status("VmHWM") - before_gib) * 2**30))

    def measure(self, setting: Setting) -> dict[str, dict[str, Any]]:
        """Time the stacks of a setting in turns; one that does not fit into memory says so."""
        models, inputs = self.models(setting), self.inputs(setting)
        cells: dict[str, dict[str, Any]] = {}
        seconds: dict[str, list[float]] = {name: [] for name in models}
        with attention_kind(setting.attention):
            for turn in range(-self.grid.warmup - 1, self.grid.runs):
                for name, model in models.items():
                    if "problem" in cells.get(name, {}):
                        continue
                    try:
                        call = self.call(model, inputs, setting.mode)
                        if turn == -self.grid.warmup - 1:
                            if self.device.type == "cuda":
                                call()  # the very first call loads kernels and takes workspaces, which are not the stack's
                            cells[name] = self._facts(setting, name, model, self.peak(call))
                            continue
                        self.synchronize()
                        began = time.perf_counter()
                        call()
                        self.synchronize()
                    except (RuntimeError, MemoryError) as error:
                        if not is_out_of_memory(error):
                            raise
                        cells[name] = {"problem": "out of memory"}
                        continue
                    if turn >= 0:
                        seconds[name].append(time.perf_counter() - began)
                if self.device.type == "cuda" and turn < 0:
                    torch.cuda.empty_cache()
        for name, cell in cells.items():
            if "problem" not in cell:
                cell["seconds"] = statistics.median(seconds[name])
                cell["tflops_per_second"] = cell["gflop"] / 1e3 / cell["seconds"]
        return cells

    def _facts(self, setting: Setting, name: str, model: nn.Module, working: int | None) -> dict[str, Any]:
        weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        return {
            "gflop": operations(self.grid, setting, name) / 1e9,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "peak_bytes": None if working is None else weights + working,
        }


# ------------------------------------------------------------------------------------------------------------------ reporting


def number(value: float) -> str:
    return f"{value:,.1f}" if value >= 1 else f"{value:.4f}"


def row(name: str, cell: dict[str, Any], reference: dict[str, Any]) -> str:
    """Write one stack of a setting; ratios are connected attention's numbers over its own."""
    if "problem" in cell:
        return f"| {name} | {cell['problem']} | | | | | |"
    faster = f"{reference['seconds'] / cell['seconds']:.2f}" if "seconds" in reference else ""
    fewer = f"{reference['gflop'] / cell['gflop']:.2f}" if "gflop" in reference else ""
    peak = "" if cell["peak_bytes"] is None else number(cell["peak_bytes"] / 2**20)
    numbers = f"{1e3 * cell['seconds']:,.2f} | {faster} | {number(cell['gflop'])} | {fewer} | {peak} | {cell['parameters'] / 1e6:.2f}"
    return f"| {name} | {numbers} |"


def table(cells: dict[str, dict[str, Any]]) -> str:
    head = "| | ms | connected / this | GFLOP | connected / this | peak MiB | M parameters |\n|" + "---|" * 7
    return "\n".join([head, *(row(name, cell, cells["connected"]) for name, cell in cells.items())])


def chosen_grid(given: argparse.Namespace) -> Grid:
    """Return the grid with everything left out that was not asked for."""
    grid = GRIDS["tiny" if given.tiny else "quick" if given.quick else "full"]
    kept = {name: tuple(one for one in getattr(grid, name) if one in (getattr(given, name) or [one])) for name in FILTERS}
    work = {
        name: tuple(pair for pair in getattr(grid, name) if pair[0] in (given.modes or pair) and pair[1] in (given.batches or pair))
        for name in ("work", "whole")
    }
    if given.scope:
        work["whole" if given.scope == "fusion" else "work"] = ()
    return replace(grid, **kept, **work, runs=given.runs or grid.runs)


FILTERS = {"layers": int, "vision": int, "text": int, "strides": int, "dtypes": str, "attention": str}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="fewer tokens, small batches, 3 runs: for a CPU")
    size.add_argument("--tiny", action="store_true", help="two narrow layers: to see that it runs")
    for name, kind in {**FILTERS, "modes": str, "batches": int}.items():
        parser.add_argument(f"--{name}", nargs="+", type=kind, help="of the grid, these only")
    parser.add_argument("--scope", choices=("fusion", "whole"), help="the stacks alone, or whole models only")
    parser.add_argument("--runs", type=int, help="timed runs of each stack; the grid's number without")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--dropout", type=float, default=0.0, help="of training; 0 lets every kernel serve")
    parser.add_argument("--json", type=Path, help="write the numbers here; a file that is there is continued")
    parser.add_argument("--plots", type=Path, help="folder of PNG files: time, ratio and GFLOP against V")
    parser.add_argument("--plan", action="store_true", help="say what would be computed, and stop")
    given = parser.parse_args(arguments)
    grid = chosen_grid(given)
    todo = list(settings(grid))
    if not todo or given.threads < 1 or grid.runs < 1:
        parser.error("nothing is left to measure: each filter must keep something of the grid, --runs and --threads be at least 1")
    if given.plan:
        calls = grid.runs + grid.warmup + 1
        total = sum(operations(grid, one, name) for one in todo for name in variants(grid.strides)) * calls
        print(f"{len(todo)} settings of {len(variants(grid.strides))} stacks, {calls} calls each: {total / 1e15:,.3f} PFLOP")
        return 0
    device = choose_device(given.device)
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    facts = {"dropout": given.dropout, "runs": grid.runs, "width": grid.width, "torch": torch.__version__}
    about = {**circumstances(device, given.threads), **facts}
    record: dict[str, Any] = {"about": about, "grid": asdict(grid), "cells": {}}
    if given.json and given.json.is_file():
        record = json.loads(given.json.read_text())
        other = [name for name in ("hardware", "threads", *facts) if record["about"].get(name) != about[name]]
        if other:
            parser.error(f"'{given.json}' was measured with another {', '.join(other)}; give another --json, or remove it")
    bench = Bench(grid, device, given.dropout)
    print(f"{about['hardware']}, {given.threads} threads, torch {torch.__version__}, median of {grid.runs}\n")
    for setting in todo:
        if setting.key() not in record["cells"] or not set(variants(grid.strides)) <= set(record["cells"][setting.key()]["stacks"]):
            record["cells"][setting.key()] = {**asdict(setting), "stacks": bench.measure(setting)}
            if given.json:
                given.json.write_text(json.dumps(record, indent=1) + "\n")
        print(f"**{setting.key()}**\n\n{table(record['cells'][setting.key()]['stacks'])}\n", flush=True)
    if given.plots:
        for path in draw(list(record["cells"].values()), given.plots, str(about["hardware"])):
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
