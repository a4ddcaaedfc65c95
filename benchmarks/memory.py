"""How much memory a model takes, by size and setting: inference and fine-tuning on a CPU, random weights, one process per cell.

A cell is the most memory the process held (VmHWM, Linux) while it answered or trained, after the model was there: what Python, torch and
the program take is in it, and said apart in the first line. Reading weights holds them once more in the page cache, which is not in it.

    OMP_NUM_THREADS=1 python benchmarks/memory.py --sizes mplug-tiny mplug-small mplug-base --json memory.json

    python benchmarks/memory.py --sizes mplug2-large --task caption --frames 16 --batch-sizes 1 --inference fp32 --training checkpointing

Prints two Markdown tables. Cells whose process was killed, or that were left out by ``--limit-gib``, say so.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

INFERENCE = ("fp32", "bf16", "int8", "int4")
TRAINING = {
    "whole model": {},
    "bf16": {"precision": "bf16"},
    "checkpointing": {"recompute": True},
    "LoRA 8": {"rank": 8},
    "LoRA 8, bf16": {"rank": 8, "precision": "bf16"},
    "LoRA 8, checkpointing": {"rank": 8, "recompute": True},
    "LoRA 8, bf16, checkpointing": {"rank": 8, "precision": "bf16", "recompute": True},
}
WORDS = 1000  # words of the generated vocabulary; the table of the model has its size's own number of rows


def status(name: str) -> float:
    """Return a line of /proc/self/status in GiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 2**20
    raise OSError(f"/proc/self/status has no {name}")


def peak() -> float:
    """Return the most memory this process ever held, building the model too, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def start_counting() -> None:
    """Give freed memory back and forget the peak so far."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def made_up(count: int, words: int, numbers: bool = False) -> list[Any]:
    """Make records with a text of so many words, an answer (one of two, or a number) and a box each."""
    from openmplug.batch import Sample

    text, answers = " ".join(f"w{n + 1}" for n in range(words)), (("1",), ("2",)) if numbers else (("w1 w2",), ("w2 w1",))
    return [Sample(str(n), f"{n}.jpg", text, answers[n % 2], (1.0,), answers[n % 2], n, box=(8.0, 8.0, 24.0, 24.0)) for n in range(count)]


def batch_of(task: Any, count: int, training: bool, frames: int = 0, words: int = 10) -> Any:
    """Make a batch of random pictures, or clips of so many frames, with a question of so many words and an answer, or a caption."""
    import torch

    from openmplug.batch import Item
    from openmplug.tasks.pretrain import PretrainTask

    size = task.model.config.image_size
    shape = (*((frames,) if frames else ()), 3, size, size)
    samples = made_up(count, words, getattr(task.settings, "regression", False))
    if isinstance(task, PretrainTask):
        samples = [replace(sample, targets=(sample.text,)) for sample in samples]
    return task.collator(training)([Item(sample, torch.randn(shape), boxes=((0.5, 0.5, 0.25, 0.25),)) for sample in samples])


def build(size: str | dict[str, Any], training: bool, task: str = "vqa", clips: bool = False, **settings: Any) -> Any:
    """Build a task with random weights and the size's own vocabulary, of which a few words are real.

    Args:
        size: A named size, or a recipe's ``model`` section.
        training: Build the twin and the queue too.
        task: A key of ``TASKS``.
        clips: It will see videos.
        settings: The task's.
    """
    import torch

    from openmplug.data.tokenizer import Tokenizer, build_vocabulary
    from openmplug.engine.recipe import model_config
    from openmplug.models.families import build_network, network_class
    from openmplug.tasks import TASKS

    torch.manual_seed(0)
    cls = TASKS[task]
    checked = cls.Settings(**cls.prepared(settings, made_up(2, 10, settings.get("regression", False))))
    texts = [" ".join(f"w{n}" for n in range(WORDS))]
    tokenizer = Tokenizer.from_vocab(build_vocabulary(texts, min_count=1, own=cls.own_words))
    fields = {"name": size} if isinstance(size, str) else size
    config = model_config({**fields, **cls.model_sizes(checked)})
    modules = network_class(config).selection(cls.needed_modules(checked), clips)
    return cls(build_network(config, modules), tokenizer, checked, training)


def infer(size: str, kind: str, batch_size: int, task_name: str = "vqa", frames: int = 0) -> dict[str, float]:
    """Answer, or describe, twice."""
    import torch

    from openmplug.device import autocast
    from openmplug.models.quantize import quantize

    task = build(size, False, task_name, frames > 0, num_beams=5, min_length=1, max_length=6).eval()
    if kind.startswith("int"):
        quantize(task.model, kind)
    batch = batch_of(task, batch_size, False, frames)
    start_counting()
    with torch.inference_mode(), autocast(torch.device("cpu"), "bf16" if kind == "bf16" else "fp32"):
        task.predict(batch)
        began = time.perf_counter()
        task.predict(batch)
    return {"gib": status("VmHWM"), "peak_gib": peak(), "seconds": time.perf_counter() - began}


def train(
    size: str,
    batch_size: int,
    rank: int = 0,
    precision: str = "fp32",
    recompute: bool = False,
    task_name: str = "vqa",
    frames: int = 0,
    steps: int = 2,
) -> dict[str, float]:
    """Take optimizer steps: the second one has AdamW's moments beside the gradients."""
    import torch

    from openmplug.device import autocast
    from openmplug.engine.lora import LoraSettings, add_adapters
    from openmplug.engine.optim import OptimSettings, build_optimizer
    from openmplug.engine.recompute import recompute_layers

    task = build(size, True, task_name, frames > 0).train()
    if rank:
        add_adapters(task, LoraSettings(rank=rank), (), ())
    recompute_layers(task.model, recompute)
    optimizer = build_optimizer(task.model, OptimSettings())
    batch = batch_of(task, batch_size, True, frames)
    start_counting()
    for _ in range(steps):
        began = time.perf_counter()
        with autocast(torch.device("cpu"), precision):
            loss = task(batch).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    count = sum(parameter.numel() for parameter in task.model.parameters())
    return {"gib": status("VmHWM"), "peak_gib": peak(), "seconds": time.perf_counter() - began, "parameters": count, "loss": loss.item()}


def cell(arguments: dict[str, Any], limit_seconds: float) -> dict[str, Any]:
    """Measure one cell in a process of its own."""
    command = [sys.executable, __file__, "--cell", json.dumps(arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_seconds)
    except subprocess.TimeoutExpired:
        return {"problem": f"over {limit_seconds:.0f} s"}
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"signal {-done.returncode}"
        return {"problem": "out of memory" if done.returncode == -9 else reason}
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(title: str, sizes: list[str], columns: list[str], cells: dict[tuple[str, str], dict[str, Any]]) -> str:
    """Write GiB (seconds) as Markdown."""

    def shown(one: dict[str, Any]) -> str:
        return one["problem"] if "problem" in one else f"{one['gib']:.2f} ({one['seconds']:.2f} s)"

    rows = [f"| {size} | " + " | ".join(shown(cells[size, column]) for column in columns) + " |" for size in sizes]
    return "\n".join([f"**{title}**", "", "| size | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|", *rows, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["mplug-tiny", "mplug-small", "mplug-base", "mplug-large"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8], help="of fine-tuning; inference takes 1")
    parser.add_argument("--inference", nargs="*", default=list(INFERENCE))
    parser.add_argument("--training", nargs="*", default=list(TRAINING))
    parser.add_argument("--task", default="vqa", choices=("vqa", "caption"))
    parser.add_argument("--frames", type=int, default=0, help="of a clip; 0 = pictures")
    parser.add_argument("--limit-seconds", type=float, default=300.0, help="of a cell")
    parser.add_argument("--json", type=Path, help="write every number here too")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        arguments = json.loads(options.cell)
        kind = arguments.pop("work")
        if kind == "nothing":
            import openmplug.tasks  # noqa: F401 - what is measured is that it is there

            print(json.dumps({"gib": status("VmRSS"), "seconds": 0.0}))
        else:
            print(json.dumps((infer if kind == "infer" else train)(**arguments)))
        return
    import torch

    what = {"task_name": options.task, "frames": options.frames}
    found: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    empty = cell({"work": "nothing"}, options.limit_seconds)
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}")
    print(f"Python, torch and openmplug alone: {empty['gib']:.2f} GiB\n")
    about = f"{options.task}, {options.frames} frames" if options.frames else options.task
    title = f"Inference ({about}, 5 beams), GiB (seconds)"
    found[title] = {
        (size, kind): cell({"work": "infer", "size": size, "kind": kind, "batch_size": 1, **what}, options.limit_seconds)
        for size in options.sizes
        for kind in options.inference
    }
    if options.inference:
        print(table(title, options.sizes, options.inference, found[title]), flush=True)
    for batch_size in options.batch_sizes if options.training else ():
        title = f"Fine-tuning ({about}), batch of {batch_size}, GiB (seconds of a step)"
        found[title] = {
            (size, name): cell({"work": "train", "size": size, "batch_size": batch_size, **TRAINING[name], **what}, options.limit_seconds)
            for size in options.sizes
            for name in options.training
        }
        print(table(title, options.sizes, options.training, found[title]), flush=True)
    if options.json:
        flat = {title: {f"{size} / {name}": one for (size, name), one in cells.items()} for title, cells in found.items()}
        options.json.write_text(json.dumps(flat, indent=2) + "\n")


if __name__ == "__main__":
    main()
