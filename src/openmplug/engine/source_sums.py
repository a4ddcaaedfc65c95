"""What each source of a mixture gave to a run: examples learned from, inputs that could not be read, the loss where it took part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from openmplug import distributed
from openmplug.batch import Batch, Failure

Sums = dict[str, dict[str, float]]
"""Source -> ``examples``, ``failed``, and ``loss``: summed over its examples, each with the loss of its micro-batch."""


class SourceSums:
    """Adds up what a process sees of each source; of several processes the sums are those of all when they are read."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._losses: dict[str, Tensor] = {}

    def add(self, batch: Batch, loss: Tensor) -> None:
        """Add this process's part of a micro-batch and its loss; samples that come from no mixture are not counted."""
        loss = loss.detach().float()
        for source, count in Counter(sample.source for sample in batch.samples if sample.source).items():
            self._counts[source] += count
            self._losses[source] = self._losses.get(source, torch.zeros_like(loss)) + count * loss

    def add_failures(self, failures: Sequence[Failure]) -> None:
        """Add what could not be read; of several processes the main one adds that of all."""
        self._failed.update(failure.source for failure in failures if failure.source)

    def read(self) -> Sums:
        """Return the sums of all processes; every process must ask."""
        mine = {
            source: {
                "examples": float(self._counts[source]),
                "failed": float(self._failed[source]),
                "loss": self._losses[source].item() if source in self._losses else 0.0,
            }
            for source in sorted(self._counts.keys() | self._failed.keys())
        }
        return added(*distributed.gather_objects(mine))

    def restart(self, sums: Mapping[str, Mapping[str, float]], device: torch.device) -> None:
        """Begin anew, from sums that were read before."""
        self._counts, self._failed, self._losses = Counter(), Counter(), {}
        for source, values in sums.items() if distributed.is_main() else ():
            self._counts[source], self._failed[source] = int(values["examples"]), int(values["failed"])
            self._losses[source] = torch.tensor(values["loss"], device=device)


def added(*several: Mapping[str, Mapping[str, float]]) -> Sums:
    """Add sums up."""
    names = dict.fromkeys(source for sums in several for source in sums)
    fields = ("examples", "failed", "loss")
    return {name: {field: sum(sums[name][field] for sums in several if name in sums) for field in fields} for name in names}


def told(sums: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | int]]:
    """Return what is written of sums: whole numbers, and the mean loss of an example's micro-batch where there was one."""
    return {
        source: {
            "examples": int(values["examples"]),
            "failed": int(values["failed"]),
            **({"loss": values["loss"] / values["examples"]} if values["examples"] else {}),
        }
        for source, values in sums.items()
    }
