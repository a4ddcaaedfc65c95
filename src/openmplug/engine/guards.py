"""What may stop a run early: unreadable inputs, memory, losses that are not finite, signals."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from openmplug import distributed
from openmplug.batch import Batch, Failure
from openmplug.checkpoints.atomic import write_atomic
from openmplug.errors import DataError, EnvironmentProblem, ModelError

ALLOWED_FAILURES = 0.01
"""Share of unreadable inputs above which a run stops even when they are to be skipped."""

SURE_AFTER = 100
"""Inputs seen before that share is looked at: one bad file among the first ten is no reason to stop."""


@dataclass
class FailureCount:
    """Counts inputs that could not be read and decides when they are too many.

    Args:
        policy: ``error`` stops at the first, ``skip`` goes on until more than 1 % fail.
        seen: Inputs so far, failed ones included.
        failed: Inputs that could not be read.
        last: The last of them.
        by_source: How many of them each source of a mixture had.
    """

    policy: str
    seen: int = 0
    failed: int = 0
    last: Failure | None = None
    by_source: dict[str, int] = field(default_factory=dict)

    def note(self, batch: Batch) -> tuple[Failure, ...]:
        """Count one batch.

        Returns:
            The failures of the batch.

        Raises:
            DataError: At the first failure (``error``), or when too many inputs failed (``skip``).
        """
        self.count(len(batch) + len(batch.failures), batch.failures)
        return batch.failures

    def count(self, seen: int, failures: Sequence[Failure]) -> None:
        """Count so many inputs, some of which failed.

        Raises:
            DataError: As ``note``.
        """
        self.seen += seen
        for failure in failures:
            self.failed, self.last = self.failed + 1, failure
            if failure.source:
                self.by_source[failure.source] = self.by_source.get(failure.source, 0) + 1
            if self.policy == "error":
                raise DataError(f"{failure.reason} (record '{failure.id}'); mend or remove it, or set data.on_error=skip")
        if self.seen >= SURE_AFTER and self.failed > ALLOWED_FAILURES * self.seen:
            last = "" if self.last is None else f"; the last was record '{self.last.id}': {self.last.reason}"
            among = ", ".join(f"{count} of {source}" for source, count in self.by_source.items())
            raise DataError(
                f"{self.failed} of {self.seen} inputs could not be read, more than {ALLOWED_FAILURES:.0%}{among and f' ({among})'}{last};"
                " to find them all run: openmplug data check"
            )


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out, on a GPU or on the CPU."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in text for sign in ("not enough memory", "can't allocate memory", "out of memory"))
    )


def memory_problem(batch: Batch, precision: str, device: torch.device, setting: str, where: str, also: str = "") -> EnvironmentProblem:
    """Say in one line what did not fit into memory and which settings help."""
    shape = "" if batch.images is None else f" pictures of {' x '.join(map(str, batch.images.shape[1:]))}"
    other = "run.precision=bf16" if precision == "fp32" and device.type == "cuda" else "a smaller model.image_size"
    return EnvironmentProblem(
        f"out of memory {where}: batch of {len(batch)}{shape}, {precision} on {device.type}; lower {setting}, or set {also}{other}"
    )


@dataclass(frozen=True, slots=True)
class _Noted:
    """A loss and where it came from."""

    loss: Tensor
    ids: list[str]
    step: int
    epoch: int
    iteration: int


class LossWatch:
    """Looks for losses that are not finite without making a GPU wait at every step. Of several processes, one stops all.

    Args:
        folder: Where ``nonfinite.json`` is written.
        immediate: Look at each loss as it comes (CPU); else only at ``look()``, at all of them at once.
    """

    def __init__(self, folder: Path, immediate: bool) -> None:
        number = distributed.rank()
        self.path = folder / (f"nonfinite-{number}.json" if number else "nonfinite.json")
        self.immediate = immediate
        self._noted: list[_Noted] = []

    def note(self, loss: Tensor, batch: Batch, step: int, epoch: int, iteration: int) -> None:
        """Remember a micro-batch's loss.

        Raises:
            ModelError: If it is looked at now and is not finite.
        """
        self._noted.append(_Noted(loss.detach(), [sample.id for sample in batch.samples], step, epoch, iteration))
        if self.immediate:
            value = loss.item()
            with distributed.agreed():
                if not math.isfinite(value):
                    self._stop("loss", value, self._noted[-1:], step)

    def step_done(self) -> None:
        """Forget what is known to be good."""
        if self.immediate:
            self._noted.clear()

    def look(self) -> None:
        """Look at every loss since the last look.

        Raises:
            ModelError: If one is not finite.
        """
        if not self._noted or self.immediate:
            return
        values = torch.stack([noted.loss.float() for noted in self._noted]).tolist()
        with distributed.agreed():
            for noted, value in zip(self._noted, values, strict=True):
                if not math.isfinite(value):
                    self._stop("loss", value, [noted], noted.step)
        self._noted.clear()

    def require_finite(self, what: str, value: float, step: int) -> None:
        """Stop if a number that all processes have alike is not finite.

        Raises:
            ModelError: If it is not; the micro-batches not yet known to be good are written down.
        """
        with distributed.alike():
            if not math.isfinite(value):
                self._stop(what, value, self._noted, step)

    def _stop(self, what: str, value: float, noted: list[_Noted], step: int) -> None:
        places = [{"step": item.step, "epoch": item.epoch, "iteration": item.iteration, "ids": item.ids} for item in noted]
        write_atomic(self.path, json.dumps({"what": what, "value": str(value), "step": step, "batches": places}, indent=2) + "\n")
        raise ModelError(
            f"{what} is {value} at step {step}; the samples are in '{self.path}', the last good checkpoint is kept;"
            " lower optim.lr, set optim.clip_norm, or look at these samples"
        )


class StopSignal:
    """Turns SIGTERM and the first SIGINT into a name that the loop looks at between steps; a second SIGINT stops at once."""

    def __init__(self) -> None:
        self.name = ""

    @property
    def number(self) -> int:
        """Number of the signal that came; 0 if none did."""
        return signal.Signals[self.name].value if self.name else 0

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch the signals while the block runs (in the main thread; elsewhere Python cannot)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        owner = os.getpid()

        def stop(number: int, frame: FrameType | None) -> None:
            if os.getpid() != owner:
                # A loader's worker inherited this handler. The main process ends its workers itself, by SIGTERM where needed.
                if number == signal.SIGTERM:
                    os._exit(0)
                return
            self.name = signal.Signals(number).name
            signal.signal(signal.SIGINT, signal.default_int_handler)

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
