"""Where a run stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from openmplug.engine.source_sums import Sums, added, told


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
        sources: Of a mixture what each source gave until the last line of the log, ``window_sources`` since then: see ``SourceSums``.
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
    sources: Sums = field(default_factory=dict)
    window_sources: Sums = field(default_factory=dict)

    def failed_by_source(self) -> dict[str, int]:
        """Return how many inputs of each source of a mixture could not be read."""
        sums = added(self.sources, self.window_sources)
        return {source: int(values["failed"]) for source, values in sums.items() if values["failed"]}

    def summary(self, failures: int, stopped: str | None) -> dict[str, Any]:
        """Return what a run tells at its end; ``stopped`` is why it ended early."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "examples": self.examples,
            "seconds": round(self.seconds, 2),
            "best": self.best,
            "best_step": self.best_step if self.best is not None else None,
            "metrics": self.metrics,
            "failures": failures,
            **({"sources": told(sources)} if (sources := added(self.sources, self.window_sources)) else {}),
            "stopped": stopped,
        }
