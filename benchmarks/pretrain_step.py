"""Measure one full training step of a recipe: samples per second, model FLOPs utilisation, peak memory, eager against compiled, costs.

    python benchmarks/pretrain_step.py retrieval/coco_mplug_large --batch 64 --json step.json                         # on a GPU, bf16
    python benchmarks/pretrain_step.py retrieval/coco_mplug_large model.name=mplug-tiny model.image_size=64 --batch 4 --steps 3  # on a CPU

The recipe says task, model, settings, precision, recomputation and optimizer, as for ``openmplug train``; settings after it go over it.
Weights, pictures and words are made up: speed does not depend on them, and neither data nor loader take part. Tasks of one picture or clip
and a text. A step is everything the trainer does between two batches: twin and ramps, forward, backward, queue, clipping, AdamW.

    samples per second            batch / median seconds of a step
    model FLOPs utilisation       FLOPs of a step / (median seconds * peak)

FLOPs of a step are those of the matrix products of forward and backward as torch.utils.flop_counter counts them in this very task, with
attention written out (2 for every multiply-add, nothing for what is recomputed), on ``--count-batch`` samples and scaled to the batch. The
peak is the published dense rate of the GPU (H100, H200: 989, A100: 312 TFLOP/s in bf16), ``--peak-tflops``, or else a large product's rate
here. The profile lists the operators with the most time of their own (on a GPU: of its kernels) over ``--profile-steps`` steps.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fusion_stacks import attention_kind
from memory import batch_of, build, start_counting, status
from rates import Peak, peak, synchronize
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from openmplug.batch import Batch
from openmplug.device import autocast, choose_device, choose_precision
from openmplug.engine.circumstances import circumstances
from openmplug.engine.guards import is_out_of_memory
from openmplug.engine.optim import build_optimizer, named_trainable
from openmplug.engine.recipe import RunConfig, load_recipe
from openmplug.engine.recompute import recompute_layers
from openmplug.errors import OpenmplugError
from openmplug.tasks.base import Progress, Task

COSTS = 5


class Step:
    """One training step of a task, as the trainer takes it.

    Args:
        task: On its device, in training mode.
        batch: On the same device.
        config: The recipe; its optimizer settings.
        device: Where.
        precision: Of autocast.
    """

    def __init__(self, task: Task, batch: Batch, config: RunConfig, device: torch.device, precision: str) -> None:
        self.task, self.batch, self.device, self.precision = task, batch, device, precision
        self.clip_norm = config.optim.clip_norm
        self.optimizer = build_optimizer(task.model, config.optim)
        self.parameters = [parameter for _, parameter in named_trainable(task.model)]
        # Only fp16 needs its gradients scaled.
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def forward_and_backward(self) -> None:
        """Everything up to the gradients."""
        # In the middle of the second epoch: whatever is ramped up has its full weight.
        self.task.begin_step(Progress(step=1000, epoch=1, fraction=0.5))
        with autocast(self.device, self.precision):
            total = self.task(self.batch).total
        self.scaler.scale(total).backward()
        self.task.end_step()

    def __call__(self) -> None:
        """Take the step."""
        self.forward_and_backward()
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)


def count_flops(step: Step) -> int:
    """Count the products of a step's forward and backward, attention written out."""
    with attention_kind("eager"), FlopCounterMode(display=False) as counter:
        step.forward_and_backward()
    step.optimizer.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def measure(step: Step, steps: int, warmup: int) -> dict[str, Any]:
    """Time steps after a warm-up and find the most memory they hold; what does not fit or cannot be compiled says so."""
    device, seconds = step.device, []
    try:
        began = time.perf_counter()
        step()
        synchronize(device)
        first = time.perf_counter() - began
        for _ in range(warmup):
            step()
        synchronize(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif platform.system() == "Linux":
            start_counting()
        for _ in range(steps):
            synchronize(device)
            began = time.perf_counter()
            step()
            synchronize(device)
            seconds.append(time.perf_counter() - began)
    except OpenmplugError:
        raise
    except (RuntimeError, MemoryError) as error:  # torch's compiler raises RuntimeErrors too
        step.optimizer.zero_grad(set_to_none=True)
        lines = str(error).strip().splitlines()
        return {"problem": "out of memory" if is_out_of_memory(error) else f"{type(error).__name__}: {lines[0] if lines else ''}"}
    if device.type == "cuda":
        held: float | None = torch.cuda.max_memory_allocated(device)
    else:
        held = status("VmHWM") * 2**30 if platform.system() == "Linux" else None
    return {"seconds": statistics.median(seconds), "first_seconds": first, "peak_bytes": held}


def largest_costs(step: Step, steps: int) -> list[dict[str, Any]]:
    """Profile steps and return the operators with the most time of their own: share of all time, milliseconds and calls a step."""
    cuda = step.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=kinds) as found:
        for _ in range(steps):
            step()
        synchronize(step.device)
    rows = [(one.self_device_time_total if cuda else one.self_cpu_time_total, one) for one in found.key_averages()]
    # An operator is credited with the time of the kernels it starts, so the kernels themselves would count twice.
    rows = [(spent, one) for spent, one in rows if spent > 0 and (not cuda or one.self_cpu_time_total > 0)]
    total = sum(spent for spent, _ in rows)
    largest = sorted(rows, key=lambda row: row[0], reverse=True)[:COSTS]
    return [
        {"name": one.key, "share": spent / total, "milliseconds": spent / 1e3 / steps, "calls": one.count / steps} for spent, one in largest
    ]


def prepare(config: RunConfig, count: int, given: argparse.Namespace, device: torch.device) -> tuple[Task, Batch]:
    """Build the task a recipe says with random weights, and a made-up batch of ``count`` samples."""
    task = build(config.model, True, config.task, given.frames > 0, **config.settings).to(device).train()
    return task, batch_of(task, count, True, given.frames, given.words).to(device)


def run(config: RunConfig, given: argparse.Namespace, device: torch.device, precision: str, best: Peak) -> dict[str, Any]:
    """Count, measure and profile; return everything that is known."""
    task, few = prepare(config, given.count_batch, given, device)
    flops = count_flops(Step(task, few, config, device, precision)) / given.count_batch * given.batch
    facts: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
        "flops_per_sample": flops / given.batch,
        "peak_flops": best.flops,
        "peak_source": best.source,
        "modes": {},
    }
    del task, few
    for mode in given.modes:
        task, batch = prepare(config, given.batch, given, device)
        recompute_layers(task.model, config.run.gradient_checkpointing)
        if mode == "compiled":
            task.compile(backend=given.backend)
        step = Step(task, batch, config, device, precision)
        found = measure(step, given.steps, given.warmup)
        if "seconds" in found:
            found["samples_per_second"] = given.batch / found["seconds"]
            found["mfu"] = flops / (found["seconds"] * best.flops)
            found["costs"] = largest_costs(step, given.profile_steps)
        facts["modes"][mode] = found
        del task, batch, step
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return facts


def report(facts: dict[str, Any]) -> str:
    """Write the numbers as Markdown."""
    lines = ["| | samples/s | ms a step | MFU | peak GiB | first step s |\n|---|---|---|---|---|---|"]
    for mode, one in facts["modes"].items():
        if "problem" in one:
            lines.append(f"| {mode} | {one['problem']} | | | | |")
            continue
        held = "" if one["peak_bytes"] is None else f"{one['peak_bytes'] / 2**30:.2f}"
        numbers = f"{one['samples_per_second']:,.1f} | {1e3 * one['seconds']:,.1f} | {one['mfu']:.1%} | {held} | {one['first_seconds']:.1f}"
        lines.append(f"| {mode} | {numbers} |")
    for mode, one in facts["modes"].items():
        if "costs" in one:
            lines.append(f"\n{mode}: where the time goes\n\n| operator | share | ms a step | calls a step |\n|---|---|---|---|")
            lines += [
                f"| {cost['name']} | {cost['share']:.1%} | {cost['milliseconds']:,.2f} | {cost['calls']:,.0f} |" for cost in one["costs"]
            ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("recipe", help="name of a recipe, or path of one")
    parser.add_argument("overrides", nargs="*", help="settings that go over it, a.b=c")
    parser.add_argument("--batch", type=int, help="samples of a step; the recipe's without")
    parser.add_argument("--count-batch", type=int, default=4, help="samples on which the FLOPs are counted")
    parser.add_argument("--frames", type=int, default=0, help="clips of so many frames; 0 = pictures")
    parser.add_argument("--words", type=int, default=20, help="words of a made-up text")
    parser.add_argument("--steps", type=int, default=20, help="timed steps; the median counts")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them, besides the first")
    parser.add_argument("--profile-steps", type=int, default=3, help="profiled steps")
    parser.add_argument("--modes", nargs="+", choices=("eager", "compiled"), default=["eager", "compiled"], help="what is measured")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--peak-tflops", type=float, help="peak of the device; published or measured without")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    given = parser.parse_intermixed_args(arguments)
    try:
        return measured(given, parser)
    except OpenmplugError as error:
        parser.error(str(error))


def measured(given: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Do what was asked for and print it."""
    config, device = load_recipe(given.recipe, given.overrides), choose_device(given.device)
    given.batch = given.batch or config.optim.batch_size_per_device
    if min(given.batch, given.count_batch) < 2 or min(given.steps, given.profile_steps, given.threads, given.words) < 1 or given.warmup < 0:
        parser.error("--batch and --count-batch must be at least 2, --steps, --profile-steps, --words and --threads at least 1")
    torch.set_num_threads(given.threads)
    precision = choose_precision(config.run.precision, device)
    best = peak(device, precision, given.peak_tflops)
    about = {**circumstances(device, given.threads), "torch": torch.__version__}
    facts = run(config, given, device, precision, best)
    said = {"recipe": given.recipe, "overrides": given.overrides, "model": config.model, "precision": precision, "batch": given.batch}
    print(
        f"{given.recipe}, {config.model['name']}, {config.image.size} px, batch {given.batch}, {precision} on {about['hardware']},"
        f" {facts['parameters'] / 1e6:.1f} M parameters,\n{facts['flops_per_sample'] / 1e9:,.2f} GFLOP per sample (forward and backward),"
        f" peak {best.flops / 1e12:,.3g} TFLOP/s: {best.source}\n\n{report(facts)}"
    )
    if given.json:
        shown = {"frames": given.frames, "words": given.words, "steps": given.steps, "backend": given.backend}
        given.json.write_text(json.dumps({"about": about, **said, **shown, **facts}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
