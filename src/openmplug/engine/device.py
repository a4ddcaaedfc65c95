"""Where to compute and in which precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from openmplug.errors import EnvironmentProblem

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """Return the device a setting names; ``auto`` takes a CUDA GPU, then Apple's, then the CPU.

    Raises:
        EnvironmentProblem: If the named device is not there.
    """
    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if have[kind]))
    if not have.get(name.split(":")[0], False):
        found = ", ".join(kind for kind, there in have.items() if there)
        raise EnvironmentProblem(f"device '{name}' is not available here; found: {found}; choose one of these, or 'auto'")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> str:
    """Return ``fp32``, ``bf16`` or ``fp16``; ``auto`` is bf16 on a CUDA GPU that computes in it, fp32 elsewhere."""
    if name != "auto":
        return name
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


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
