"""The one training loop. It knows the ``Task`` contract and nothing about any one task."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openmplug.batch import Batch, Losses
from openmplug.checkpoints.atomic import atomic_folder, recover_folder
from openmplug.device import autocast, choose_precision
from openmplug.engine.guards import FailureCount, LossWatch, StopSignal, is_out_of_memory, memory_problem
from openmplug.engine.optim import OptimSettings, Position, build_optimizer, build_schedule, named_trainable, set_learning_rates
from openmplug.engine.recipe import LoopSettings
from openmplug.engine.resume import kept_random_state, load_training_state, save_training_state
from openmplug.engine.tracking import Advance, Display, Tracker, draw_curves
from openmplug.errors import DataError, OpenmplugError
from openmplug.tasks.base import Progress, Task

LAST = "checkpoint-last"
BEST = "checkpoint-best"

Batches = Callable[[int, int], Iterable[Batch]]
"""``batches(epoch, start)``: the micro-batches of an epoch from number ``start`` on."""

Validate = Callable[[Task, Advance], dict[str, float]]
"""``validate(task, advance)``: the metrics of the validation split."""


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


class _Interrupted(Exception):
    """A signal came while validating."""


class Trainer:
    """Runs a task over its batches: steps, logs, validates, saves, stops, resumes.

    Args:
        task: On ``device``, with its twin and queues (built for training).
        batches: Gives an epoch's micro-batches from any position on; the same arguments give the same batches.
        iterations_per_epoch: Micro-batches per epoch.
        optim: What is optimized how.
        loop: How the run proceeds.
        folder: The run's folder.
        device: Where to compute.
        write_model: Writes weights, configuration and vocabulary into the folder it is given.
        on_error: Policy for inputs that cannot be read.
        validate: Gives the validation metrics; None never validates.
        validate_count: Records it looks at, for the progress bar.
        display: Where people look.
    """

    def __init__(
        self,
        task: Task,
        batches: Batches,
        iterations_per_epoch: int,
        *,
        optim: OptimSettings,
        loop: LoopSettings,
        folder: Path,
        device: torch.device,
        write_model: Callable[[Path], None],
        on_error: str = "error",
        validate: Validate | None = None,
        validate_count: int = 0,
        display: Display | None = None,
    ) -> None:
        self.task = task
        self.batches = batches
        self.per_epoch = iterations_per_epoch
        self.optim = optim
        self.loop = loop
        self.folder = folder
        self.device = device
        self.write_model = write_model
        self.validate = validate
        self.validate_count = validate_count
        self.display = display or Display(quiet=True)
        self.precision = choose_precision(loop.precision, device)
        self.optimizer = build_optimizer(task.model, optim)
        self.schedule = build_schedule(optim, iterations_per_epoch)
        # Only fp16 needs its gradients scaled: bf16 has the range of fp32.
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.parameters = [parameter for _, parameter in named_trainable(task.model)]
        self.place = Place()
        self.failures = FailureCount(on_error)
        self._sums: dict[str, Tensor] = {}
        self._norm: Tensor | None = None
        self._watch = LossWatch(folder, immediate=device.type == "cpu")
        self._signal = StopSignal()
        self._tracker: Tracker

    # ------------------------------------------------------------------------------------------------------------ the run

    def fit(self, resume: bool = False) -> dict[str, Any]:
        """Train to the end, or until something stops the run.

        Args:
            resume: Go on from ``checkpoint-last`` if there is one.

        Returns:
            ``step``, ``epoch``, ``examples``, ``seconds``, ``best``, ``best_step``, ``metrics``, ``failures`` and ``stopped``: None for a
            finished run, else the reason.

        Raises:
            DataError: If an input cannot be read, as the policy says.
            ModelError: If the loss is not finite; ``nonfinite.json`` says where, the last good checkpoint stays.
            EnvironmentProblem: If memory or disk run out.
        """
        sizes = self._restore() if resume else {}
        self._tracker = Tracker(self.folder, self.display, self.place.step, sizes)
        self._begun = self._saved = time.monotonic()
        self._earlier = self.place.seconds
        self._window_clock, self._window_examples = self._begun, self.place.examples
        stopped: str | None = None
        self.task.train()
        self.optimizer.zero_grad(set_to_none=True)
        try:
            done = self.place.epoch * self.per_epoch + self.place.iteration
            with self._signal.caught(), self.display.bar("train", self.optim.epochs * self.per_epoch, done) as self._advance:
                self._validate_if_due()  # a run that was killed while validating
                # A run that had reached its last step takes no further one when it is resumed.
                stopped = self._stop_reason() if self.place.step else None
                while stopped is None and self.place.epoch < self.optim.epochs:
                    stopped = self._epoch()
            if self.loop.curves:
                draw_curves(self.folder)
        finally:
            self._tracker.close()
        return self._summary(stopped)

    def _epoch(self) -> str | None:
        """Train the rest of the current epoch and save; return why the run must stop, if it must."""
        place = self.place
        learned = 0
        with self._stream() as stream:
            for batch in stream:
                first = place.iteration - place.iteration % self.optim.accumulation
                group_size = min(self.optim.accumulation, self.per_epoch - first)
                for failure in self.failures.note(batch):
                    self._tracker.failure({"epoch": place.epoch, **asdict(failure)})
                if len(batch):
                    self._backward(batch, group_size)
                    learned += 1
                place.iteration += 1
                self._advance(1)
                if place.iteration - first < group_size:
                    continue
                if learned:
                    self._step()
                    learned = 0
                    if place.step % self.loop.log_every == 0:
                        self._log()
                stopped = self._stop_reason()
                if place.iteration == self.per_epoch:
                    break
                if stopped is not None or self._save_is_due():
                    self.save()
                if stopped is not None:
                    return stopped
        place.epoch, place.iteration = place.epoch + 1, 0
        if place.epoch == self.optim.epochs:
            self._log()
        self.save()
        self._validate_if_due()
        return None if place.epoch == self.optim.epochs and not self._validation_due() else self._stop_reason()

    @contextmanager
    def _stream(self) -> Iterator[Iterator[Batch]]:
        """Give the micro-batches of the current epoch from the current position on, without touching the random generators."""
        with kept_random_state():
            iterator = iter(self.batches(self.place.epoch, self.place.iteration))
            first = next(iterator, None)

        def chained() -> Iterator[Batch]:
            if first is not None:
                yield first
                yield from iterator

        yield chained()

    # ------------------------------------------------------------------------------------------------------------- a step

    def _backward(self, batch: Batch, group_size: int) -> None:
        place = self.place
        try:
            moved = batch.to(self.device, non_blocking=True)
            self.task.begin_step(Progress(place.step, place.epoch, place.iteration / self.per_epoch))
            with autocast(self.device, self.precision):
                losses: Losses = self.task(moved)
            self._watch.note(losses.total, batch, place.step, place.epoch, place.iteration)
            total = losses.total if group_size == 1 else losses.total / group_size
            self.scaler.scale(total).backward()
            self.task.end_step()
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, OpenmplugError) or not is_out_of_memory(error):
                raise
            setting = "optim.batch_size_per_device (and raise optim.accumulation as much to learn the same)"
            also = "" if self.loop.gradient_checkpointing is True else "run.gradient_checkpointing=true or "
            raise memory_problem(batch, self.precision, self.device, setting, f"at step {place.step}", also) from error
        place.examples += len(batch)
        place.window_count += 1
        # A part called "loss" is the total under another name.
        named = {"loss": losses.total} | {f"loss_{name}": part for name, part in losses.parts.items() if name != "loss"}
        for name, value in named.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def _step(self) -> None:
        place = self.place
        set_learning_rates(self.optimizer, self.schedule, Position(place.step, place.epoch, place.iteration - 1))
        if self.optim.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            self._norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.optim.clip_norm)
            # On a GPU looking at it would wait for the device at every step; there the next loss, or the look before a save, tells.
            if self.device.type == "cpu" and self.precision != "fp16":
                self._watch.require_finite("gradient norm", self._norm.item(), place.step)
        self._watch.step_done()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        place.step += 1

    # --------------------------------------------------------------------------------------------- log, validate, save

    def _log(self) -> None:
        place = self.place
        self._watch.look()
        if not place.window_count:
            return
        now = time.monotonic()
        values: dict[str, Any] = {"epoch": round(place.epoch + place.iteration / self.per_epoch, 4)}
        values |= {name: self._total(name) / place.window_count for name in self._sums}
        values |= self._rates()
        if self._norm is not None:
            values["grad_norm"] = self._norm.item()
        values["examples_per_second"] = round((place.examples - self._window_examples) / max(now - self._window_clock, 1e-9), 2)
        values["seconds"] = round(self._seconds(), 2)
        self._tracker.log("train", place.step, values)
        self._advance(0, note=f"loss {values['loss']:.4g}  lr {values['lr']:.2g}")
        self._sums, place.window, place.window_count = {}, {}, 0
        self._window_clock, self._window_examples = now, place.examples

    def _rates(self) -> dict[str, float]:
        """Return the learning rates of the last step: of the rest, and of the vision tower where there is one."""
        rates: dict[str, float] = {}
        for group in self.optimizer.param_groups:
            rates.setdefault("vision_lr" if group["names"][0].startswith("vision.") else "lr", group["lr"])
        return {
            "lr": rates["lr"] if "lr" in rates else rates["vision_lr"],
            **({"vision_lr": rates["vision_lr"]} if "vision_lr" in rates else {}),
        }

    def _total(self, name: str) -> float:
        return self._sums[name].item()

    def _seconds(self) -> float:
        return self._earlier + time.monotonic() - self._begun

    def _validation_due(self) -> bool:
        epoch, every = self.place.epoch, self.loop.validate_every
        if self.validate is None or every == 0 or epoch == self.place.validated or self.place.iteration:
            return False
        return epoch % every == 0 or epoch == self.optim.epochs

    def _validate_if_due(self) -> None:
        """Validate after an epoch, keep the best weights and save; a signal breaks it off, and a resumed run does it first."""
        if not self._validation_due():
            return
        assert self.validate is not None
        began, place = time.monotonic(), self.place
        try:
            with kept_random_state(), self.display.bar("validate", self.validate_count) as advance:

                def advance_or_stop(count: int) -> None:
                    if self._signal.name:
                        raise _Interrupted
                    advance(count)

                metrics = self.validate(self.task, advance_or_stop)
        except _Interrupted:
            return
        finally:
            self.task.train()
        if self.task.metric not in metrics:
            raise DataError(
                f"the validation split gives no {self.task.metric}: its records hold nothing to score against;"
                " choose another data.evaluate, or set run.validate_every=0"
            )
        place.metrics, place.validated = metrics, place.epoch
        score = metrics[self.task.metric]
        self._tracker.log("validation", place.step, {"epoch": place.epoch, **metrics})
        if math.isfinite(score) and (place.best is None or score > place.best):
            place.best, place.best_step = score, place.step
            with atomic_folder(self.folder / BEST) as folder:
                self.write_model(folder)
                record = {"step": place.step, "epoch": place.epoch, "metrics": metrics}
                (folder / "validation.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if self.loop.curves:
            draw_curves(self.folder)
        self._window_clock += time.monotonic() - began
        self.save()

    def save(self) -> None:
        """Write ``checkpoint-last``.

        Raises:
            ModelError: If a loss or a weight is not finite; the checkpoint before stays.
            EnvironmentProblem: If it cannot be written; the checkpoint before stays.
        """
        began = time.monotonic()
        self._watch.look()
        norm = torch.nn.utils.get_total_norm([parameter.detach() for parameter in self.parameters])
        self._watch.require_finite("the norm of the weights", norm.item(), self.place.step)
        place = self.place
        place.seconds = self._seconds()
        place.seen, place.failed = self.failures.seen, self.failures.failed
        place.window = {name: self._total(name) for name in self._sums}
        state = {**asdict(place), "logs": self._tracker.sizes(), "scaler": self.scaler.state_dict()}
        with atomic_folder(self.folder / LAST) as folder:
            self.write_model(folder)
            save_training_state(folder, self.task, self.optimizer, state)
        self._saved = time.monotonic()
        self._window_clock += self._saved - began

    def _save_is_due(self) -> bool:
        minutes, steps = self.loop.save_every_minutes, self.loop.save_every_steps
        return (minutes is not None and time.monotonic() - self._saved > 60 * minutes) or (
            steps is not None and self.place.step % steps == 0
        )

    def _restore(self) -> dict[str, int]:
        """Go back to ``checkpoint-last``; return to which length the logs are cut. Nothing saved yet: the run begins anew."""
        recover_folder(self.folder / BEST)
        if not recover_folder(self.folder / LAST):
            self.display.say("nothing was saved yet: starting from the beginning")
            return {}
        state = load_training_state(self.folder / LAST, self.task, self.optimizer)
        sizes: dict[str, int] = state.pop("logs")
        if (scaler := state.pop("scaler")) and self.scaler.is_enabled():
            self.scaler.load_state_dict(scaler)
        self.place = Place(**state)
        self.failures.seen, self.failures.failed = self.place.seen, self.place.failed
        self._sums = {name: torch.tensor(value, device=self.device) for name, value in self.place.window.items()}
        self.display.say(f"resuming at step {self.place.step}, epoch {self.place.epoch}, batch {self.place.iteration}")
        return sizes

    def _summary(self, stopped: str | None) -> dict[str, Any]:
        place = self.place
        return {
            "step": place.step,
            "epoch": place.epoch,
            "examples": place.examples,
            "seconds": round(place.seconds, 2),
            "best": place.best,
            "best_step": place.best_step if place.best is not None else None,
            "metrics": place.metrics,
            "failures": self.failures.failed,
            "stopped": stopped,
        }

    def _stop_reason(self) -> str | None:
        loop = self.loop
        if self._signal.name:
            return f"{self._signal.name} received"
        if loop.max_steps is not None and self.place.step >= loop.max_steps:
            return f"run.max_steps={loop.max_steps} reached"
        if loop.max_minutes is not None and time.monotonic() - self._begun > 60 * loop.max_minutes:
            return f"run.max_minutes={loop.max_minutes:g} reached"
        return None
