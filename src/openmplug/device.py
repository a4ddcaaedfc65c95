"""Where to compute and in which precision."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from openmplug.errors import EnvironmentProblem, UsageError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str | None) -> torch.device:
    """Return the device a setting names; None and ``auto`` take a CUDA GPU, then Apple's, then the CPU.

    Raises:
        UsageError: If the name is none that torch knows.
        EnvironmentProblem: If this machine has no such device.
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name in (None, "auto"):
        return torch.device(next(kind for kind, there in here.items() if there))
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device '{name}'; one of auto, cpu, cuda, cuda:N, mps") from None
    if chosen.type not in here:
        raise UsageError(f"unknown device '{name}'; one of auto, cpu, cuda, cuda:N, mps")
    if not here[chosen.type] or (chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count()):
        found = ", ".join(kind for kind, there in here.items() if there)
        raise EnvironmentProblem(f"device '{name}' is not available here; found: {found}; choose one of these, or 'auto'")
    return chosen


def usable_cores(listing: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many cores this process may keep busy: in a container or a system service often fewer than the machine has.

    Args:
        listing: Where the system names the process's control group.
        groups: Where it says what a control group may use.

    Returns:
        The cores that the process is bound to, or its group's quota of CPU time if that is less, rounded up; at least 1.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _quotas(listing, groups))]))


def _quotas(listing: Path, groups: Path) -> Iterator[float]:
    """Yield the quotas, in cores, of the process's control group and those around it (version 2)."""
    try:
        lines = listing.read_text().splitlines()
    except (OSError, ValueError):  # no Linux
        return
    inner = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    for group in (groups / inner, *(groups / parent for parent in Path(inner).parents)):
        try:
            quota, period = (group / "cpu.max").read_text().split()
            if quota != "max":
                yield int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):  # the outermost group has none
            continue


def choose_precision(name: str | None, device: torch.device) -> str:
    """Return ``fp32``, ``bf16`` or ``fp16``; None and ``auto`` are bf16 on a CUDA GPU that computes in it, fp32 elsewhere.

    Raises:
        UsageError: If the name is unknown.
    """
    if name in (None, "auto"):
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if name not in ("fp32", *DTYPES):
        raise UsageError(f"unknown dtype '{name}'; one of auto, fp32, {', '.join(DTYPES)}")
    return name


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return the autocast context of a precision; fp32 has none."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=DTYPES[precision])


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Let the CPU treat numbers below 1e-38 as zero while the block runs.

    AdamW's moment of a word that stays away shrinks by a tenth each step and after some 700 steps rests at the smallest float there is,
    where CPUs compute through microcode: measured, half of an embedding's rows gone quiet make its step 6 times slower. Threads take the
    setting over when they are started, so this comes before the first large operation.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def limited_threads(threads: int | None) -> Iterator[None]:
    """Compute on the CPU with this many threads while the block runs; None changes nothing."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
