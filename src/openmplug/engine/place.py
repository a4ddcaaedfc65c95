"""Where a run stands, and what its losses were since the last line of the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from openmplug import distributed
from openmplug.batch import Losses


@dataclass
class Place:
    """Where a run stands; written into every checkpoint.

    Args:
        step: Optimizer steps done.
        epoch: Current epoch.
        iteration: Micro-batches of it that are done.
        examples: Examples learned from so far.
        best: Best validation score so far, and ``best_step`` where it was.
        metrics: The last validation's; ``validated`` is the number of epochs that were over then.
        seconds: Wall time spent so far, resumed parts included.
        window: Sums of the losses since the last line of the log, ``window_count`` micro-batches, so that a resumed log is the same.
        seen: Inputs so far, ``failed`` of which could not be read.
    """

    step: int = 0
    epoch: int = 0
    iteration: int = 0
    examples: int = 0
    best: float | None = None
    best_step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    validated: int = 0
    seconds: float = 0.0
    window: dict[str, float] = field(default_factory=dict)
    window_count: int = 0
    seen: int = 0
    failed: int = 0


class LossSums:
    """Adds up the losses of micro-batches where they are computed; several processes' sums are averaged when they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, losses: Losses, weight: float = 1.0) -> None:
        """Add the losses of a micro-batch; ``weight`` is this process's share of its samples times the number of processes."""
        # A part called "loss" is the total under another name.
        named = {"loss": losses.total} | {f"loss_{name}": part for name, part in losses.parts.items() if name != "loss"}
        for name, value in named.items():
            value = value.detach().float()
            if weight != 1.0:
                value = value * weight
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def read(self) -> dict[str, float]:
        """Return the sums, averaged over the processes; every process must ask."""
        if not self._sums:
            return {}
        if distributed.world_size() == 1:
            return {name: value.item() for name, value in self._sums.items()}
        means = distributed.mean(torch.stack([value.reshape(()) for value in self._sums.values()]))
        return dict(zip(self._sums, means.tolist(), strict=True))

    def restart(self, window: Mapping[str, float], device: torch.device) -> None:
        """Begin anew, from sums that were read before."""
        self._sums = {name: torch.tensor(value, device=device) for name, value in window.items()}
