"""What a training run tells on its way: losses since the last line, rates, speed, validations, the samples of each step."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openmplug import distributed
from openmplug.batch import Batch, Failure, Losses
from openmplug.engine.place import Place
from openmplug.engine.recipe import LoopSettings
from openmplug.engine.source_sums import SourceSums, Sums, added, told
from openmplug.engine.tracking import Display, SilentTracker, Tracker, draw_curves


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


class TrainingLog:
    """Keeps a run's log; of several processes the main one writes it, and all of them call alike.

    Args:
        folder: The run's.
        loop: ``curves`` and ``log_ids``.
        display: Where people look.
        device: Where losses are added up.
        place: Where the run stands.
        sizes: Bytes to which each log is cut back, by file name.
    """

    def __init__(
        self, folder: Path, loop: LoopSettings, display: Display, device: torch.device, place: Place, sizes: Mapping[str, int]
    ) -> None:
        self.folder = folder
        self.loop = loop
        self.device = device
        self.place = place
        main = distributed.is_main()
        self._tracker = Tracker(folder, display, place.step, sizes, loop.log_ids) if main else SilentTracker()
        self._sums, self._sources = LossSums(), SourceSums()
        self._sums.restart(place.window, device)
        self._sources.restart(place.window_sources, device)
        self._clock, self._examples = time.monotonic(), place.examples

    def add(self, batch: Batch, losses: Losses, weight: float) -> None:
        """Add the losses of a micro-batch; see ``LossSums.add`` and ``SourceSums.add``."""
        self._sums.add(losses, weight)
        self._sources.add(batch, losses.total)
        self.place.window_count += 1

    def samples(self, batch: Batch) -> None:
        """Write which samples a micro-batch holds, if that is asked for."""
        if self.loop.log_ids:
            ids = [name for some in distributed.gather_objects([sample.id for sample in batch.samples]) for name in some]
            place = self.place
            self._tracker.samples({"step": place.step, "epoch": place.epoch, "iteration": place.iteration, "ids": ids})

    def failures(self, failures: list[Failure]) -> None:
        """Write which inputs of all processes could not be read, and count them by source."""
        if distributed.is_main():
            self._sources.add_failures(failures)
        for failure in failures:
            self._tracker.failure({"epoch": self.place.epoch, **{name: value for name, value in asdict(failure).items() if value}})

    def line(self, epochs: float, optimizer: torch.optim.Optimizer, norm: Tensor | None, seconds: float) -> dict[str, Any]:
        """Write a line about the micro-batches since the last one.

        Args:
            epochs: Done so far.
            optimizer: Its rates are told.
            norm: Of the last step's gradients.
            seconds: Of the whole run.

        Returns:
            What was written; nothing if there was no micro-batch.
        """
        place, now = self.place, time.monotonic()
        if not place.window_count:
            return {}
        values: dict[str, Any] = {"epoch": round(epochs, 4)}
        values |= {name: value / place.window_count for name, value in self._sums.read().items()}
        values |= _rates(optimizer)
        if norm is not None:
            values["grad_norm"] = norm.item()
        values["examples_per_second"] = round((place.examples - self._examples) / max(now - self._clock, 1e-9), 2)
        values["seconds"] = round(seconds, 2)
        if sources := self._sources.read():
            values["sources"] = told(sources)
            place.sources = added(place.sources, sources)
        self._tracker.log("train", place.step, values)
        self._sums.restart({}, self.device)
        self._sources.restart({}, self.device)
        place.window, place.window_sources, place.window_count = {}, {}, 0
        self._clock, self._examples = now, place.examples
        return values

    def validation(self, metrics: Mapping[str, float]) -> None:
        """Write what a validation found."""
        self._tracker.log("validation", self.place.step, {"epoch": self.place.epoch, **metrics})

    def sums(self) -> dict[str, float]:
        """Return the losses since the last line, for a checkpoint."""
        return self._sums.read()

    def source_sums(self) -> Sums:
        """Return what each source gave since the last line, for a checkpoint."""
        return self._sources.read()

    def sizes(self) -> dict[str, int]:
        """Return the length of each log in bytes, for a checkpoint."""
        return self._tracker.sizes()

    def leave_out(self, seconds: float) -> None:
        """Leave out of the speed what was spent on something else than training."""
        self._clock += seconds

    def draw(self) -> None:
        """Draw the curves, if they are asked for."""
        if self.loop.curves and distributed.is_main():
            draw_curves(self.folder)

    def close(self) -> None:
        """Close every file."""
        self._tracker.close()


def _rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the learning rates of the last step: of the rest, and of the vision tower where there is one."""
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        rates.setdefault("vision_lr" if group["names"][0].startswith("vision.") else "lr", group["lr"])
    return {
        "lr": rates["lr"] if "lr" in rates else rates["vision_lr"],
        **({"vision_lr": rates["vision_lr"]} if "vision_lr" in rates else {}),
    }
