"""What a device could do at most: dense matrix products per second, published or measured here."""

from __future__ import annotations

import statistics
import time
from typing import NamedTuple

import torch

PUBLISHED = {"H200": 989e12, "H100": 989e12, "GH200": 989e12, "A100": 312e12}  # dense bf16, SXM parts, NVIDIA's data sheets
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Peak(NamedTuple):
    """Operations per second, and where the number is from."""

    flops: float
    source: str


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured_peak(device: torch.device, precision: str, side: int = 1024, runs: int = 5) -> float:
    """Multiply two square matrices of ``side`` and return operations per second, median of ``runs``."""
    one = torch.randn(side, side, device=device, dtype=DTYPES[precision])
    seconds = []
    for turn in range(runs + 1):
        synchronize(device)
        began = time.perf_counter()
        one @ one
        synchronize(device)
        if turn:
            seconds.append(time.perf_counter() - began)
    return 2 * side**3 / statistics.median(seconds)


def peak(device: torch.device, precision: str, given_tflops: float | None = None) -> Peak:
    """Return the peak that utilisation is a part of: the one given, the published one, or a matrix product's here."""
    if given_tflops is not None:
        return Peak(given_tflops * 1e12, "given")
    if device.type == "cuda" and precision in ("bf16", "fp16"):
        name = torch.cuda.get_device_name(device)
        found = [flops for part, flops in PUBLISHED.items() if part in name and "PCIe" not in name and "NVL" not in name]
        if found:
            return Peak(found[0], f"published for {name}, dense {precision}")
    side = 1024 if device.type == "cpu" else 8192
    return Peak(measured_peak(device, precision, side), f"a {precision} product of {side} x {side} matrices, measured here")
