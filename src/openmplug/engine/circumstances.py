"""When, on what and with which code a number was measured, in words that name no machine and no person."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import openmplug


def circumstances(device: torch.device, threads: int | None = None) -> dict[str, Any]:
    """Return ``date``, ``hardware``, ``threads`` and, in a checkout, ``commit``.

    Args:
        device: Where the model computes.
        threads: Of the CPU, where a setting says so.
    """
    facts = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "hardware": hardware(device),
        "threads": threads or torch.get_num_threads(),
    }
    commit = find_commit(Path(openmplug.__file__).resolve().parents[2])
    return facts if commit is None else {**facts, "commit": commit}


def hardware(device: torch.device) -> str:
    """Name the GPU, or the CPU and its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple silicon GPU"
    return f"{_cpu()}, {os.cpu_count()} cores"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return " ".join(named.split()) or platform.processor() or platform.machine()


def find_commit(checkout: Path) -> str | None:
    """Return the short commit of a checkout, with ``-dirty`` where files differ from it; None where it is none, or git is missing."""
    if not (checkout / ".git").exists():  # a package installed inside somebody's own repository is not at that one's commit
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
