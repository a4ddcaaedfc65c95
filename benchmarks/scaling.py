"""Pre-training on 8, 64 and 512 GPUs, computed: memory, operations, bytes moved, expected throughput; and checked by a step measured here.

    python benchmarks/scaling.py                                              # print the page
    python benchmarks/scaling.py --page docs/scaling.md                       # write it
    python benchmarks/scaling.py --mfu 0.5 --gpus 16                          # other assumptions
    python benchmarks/scaling.py --check --json docs/scaling_check.json       # predicted against measured, tiny sizes, seconds on a CPU
    python benchmarks/scaling.py --check --sizes mplug-base --batch 64 --device cuda --precision bf16

The formulas are in step_plan.py (forwards), flops.py (operations), step_memory.py and step_traffic.py, and stand on the page.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from memory import start_counting, status
from rates import Peak, peak, synchronize
from scaling_page import page
from step_memory import Kept, memory, parameters
from step_plan import Plan, build, inputs, loss_of_step, step_flops
from step_traffic import Machine

from openmplug.device import autocast, choose_device, choose_precision
from openmplug.engine.circumstances import circumstances
from openmplug.engine.optim import OptimSettings, build_optimizer
from openmplug.models.families import named_config
from openmplug.models.mplug import MPLUGConfig

MEASURED = Path(__file__).resolve().parents[1] / "docs" / "scaling_check.json"


def check(size: str, plan: Plan, device: torch.device, precision: str, steps: int, best: Peak) -> dict[str, Any]:
    """Measure the plain step of the plan and say what was predicted for it.

    Args:
        size: A named size.
        plan: Of the step.
        device: Where to compute.
        precision: ``fp32`` or ``bf16``.
        steps: Timed ones, after one that is not.
        best: Of the device.
    """
    config = named_config(size)
    torch.manual_seed(0)
    _timed_steps(config, replace(plan, batch=2), device, precision, 1)  # what libraries take once is not the step's
    before = _begin(device)
    median = statistics.median(_timed_steps(config, plan, device, precision, steps + 1)[1:])
    used = _peak(device, before)
    compute = 2 if precision == "bf16" else 4
    mask = 0 if config.dropout == 0 else 1 if device.type == "cuda" else compute
    parts = memory(config, plan, Kept(compute, mask))
    work = step_flops(config, plan)
    return {
        "size": size,
        "batch": plan.batch,
        "precision": precision,
        "model_flops": work,
        "peak_flops": best.flops,
        "peak_source": best.source,
        "seconds_at_peak": work / best.flops,
        "seconds": median,
        "mfu": work / best.flops / median,
        "predicted_bytes": parts,
        "measured_bytes": used,
    }


def _timed_steps(config: MPLUGConfig, plan: Plan, device: torch.device, precision: str, steps: int) -> list[float]:
    """Return the seconds of each of some steps: twin, forwards, backward, AdamW."""
    with torch.device(device):
        model, twin = build(config, plan)
        given = inputs(config, plan)
    optimizer, seconds = build_optimizer(model, OptimSettings()), []
    for _ in range(steps):
        synchronize(device)
        began = time.perf_counter()
        twin.update(model)
        with autocast(device, precision):
            loss = loss_of_step(model, twin, given, plan)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return seconds


def _begin(device: torch.device) -> float:
    """Forget the peak so far and return the bytes in use."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return float(torch.cuda.memory_allocated(device))
    if platform.system() != "Linux":
        return 0.0
    start_counting()
    return status("VmRSS") * 2**30


def _peak(device: torch.device, before: float) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) - before
    return status("VmHWM") * 2**30 - before if platform.system() == "Linux" else None


def check_table(found: dict[str, Any]) -> str:
    """Write predicted and measured as Markdown."""
    rows = []
    for one in found["sizes"]:
        predicted, used = sum(one["predicted_bytes"].values()) / 2**20, one["measured_bytes"]
        bytes_shown = "| |" if used is None else f"| {used / 2**20:,.0f} | {predicted / (used / 2**20):.2f} |"
        times = f"{1e3 * one['seconds_at_peak']:,.0f} | {1e3 * one['seconds']:,.0f} | {one['mfu']:.0%}"
        rows.append(f"| {one['size']}, {one['precision']}, batch {one['batch']} | {times} | {predicted:,.0f} {bytes_shown}")
    head = "| step | ms at peak | ms measured | MFU | MiB predicted | MiB measured | predicted / measured |\n|" + "---|" * 7
    sources = "; ".join(dict.fromkeys(f"{one['peak_flops'] / 1e9:,.0f} GFLOP/s ({one['peak_source']})" for one in found["sizes"]))
    about = found["about"]
    where = (
        f"{about['hardware']}, {about['threads']} thread{'s' if about['threads'] > 1 else ''}, torch {about['torch']}, {about['date'][:10]}"
    )
    return f"{where}. Peak: {sources}.\n\n{head}\n" + "\n".join(rows)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--page", type=Path, help="write the page here instead of printing it")
    parser.add_argument("--measured", type=Path, default=MEASURED, help="what --check wrote, for the page; left out where it is missing")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 512], help="how many; whole nodes of 8, or fewer than one")
    parser.add_argument("--mfu", type=float, default=Machine.mfu, help="model FLOPs utilisation that is assumed, of one GPU by itself")
    parser.add_argument("--efficiency", type=float, default=Machine.efficiency, help="part of the links' rate that collectives reach")
    parser.add_argument("--check", action="store_true", help="measure a step here and compare it with what is predicted")
    parser.add_argument("--sizes", nargs="+", default=["mplug-tiny", "mplug2-tiny"], help="of --check")
    parser.add_argument("--batch", type=int, default=16, help="of --check")
    parser.add_argument("--frames", type=int, default=0, help="of --check: clips of so many frames; 0 = pictures")
    parser.add_argument("--steps", type=int, default=5, help="of --check: timed steps; the median counts")
    parser.add_argument("--device", default="cpu", help="of --check: cpu, cuda or auto")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of --check")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of --check, on a CPU")
    parser.add_argument("--peak-tflops", type=float, help="of --check: the device's peak; published or measured without")
    parser.add_argument("--json", type=Path, help="of --check: write the numbers here too")
    given = parser.parse_args(arguments)
    if not 0 < given.mfu <= 1 or not 0 < given.efficiency <= 1:
        parser.error("--mfu and --efficiency are parts of a whole: above 0, at most 1")
    if any(gpus < 1 or (gpus > Machine.node and gpus % Machine.node) for gpus in given.gpus):
        parser.error(f"--gpus {' '.join(map(str, given.gpus))}: take whole nodes of {Machine.node}, or fewer than one")
    if given.check:
        if given.batch < 2 or given.steps < 1:
            parser.error("--batch must be at least 2 (matching needs a wrong picture), --steps at least 1")
        device = choose_device(given.device)
        torch.set_num_threads(given.threads)
        precision = choose_precision(given.precision, device)
        found: dict[str, Any] = {"about": {**circumstances(device, given.threads), "torch": torch.__version__}, "sizes": []}
        best = peak(device, precision, given.peak_tflops)
        for size in given.sizes:
            plan = Plan(given.batch, frames=given.frames, queue=4096)
            found["sizes"].append(check(size, plan, device, precision, given.steps, best))
        print(check_table(found))
        if given.json:
            given.json.write_text(json.dumps(found, indent=2) + "\n")
        return 0
    measured = check_table(json.loads(given.measured.read_text())) if given.measured.is_file() else None
    text = page(given.gpus, Machine(mfu=given.mfu, efficiency=given.efficiency), measured, parameters)
    if given.page:
        given.page.write_text(text)
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
