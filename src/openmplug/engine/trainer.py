"""The one training loop. It knows the ``Task`` contract and nothing about any one task."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openmplug import distributed
from openmplug.batch import Batch
from openmplug.device import autocast, choose_precision
from openmplug.engine.checkpointing import Checkpoints, WriteModel, check_shared
from openmplug.engine.feeding import Batches, count_batch, grouped, stream
from openmplug.engine.guards import FailureCount, LossWatch, is_out_of_memory, memory_problem
from openmplug.engine.optim import OptimSettings, Position, build_optimizer, build_schedule, named_trainable, set_learning_rates
from openmplug.engine.parallel import ParallelTask, as_plain, choose_parallel
from openmplug.engine.place import Place
from openmplug.engine.recipe import LoopSettings
from openmplug.engine.resume import branch_random_state
from openmplug.engine.stopping import Stops
from openmplug.engine.tracking import Display
from openmplug.engine.training_log import TrainingLog
from openmplug.engine.validating import Validate, validated
from openmplug.errors import OpenmplugError
from openmplug.tasks.base import Progress, Task


class Trainer:
    """Runs a task over its batches: steps, logs, validates, saves, stops, resumes.

    Several processes run one each, of which all do the same at the same time; the main one logs and writes.

    Args:
        task: On ``device``, with its twin and queues (built for training); the same on every process.
        batches: Gives an epoch's micro-batches from any position on, of several processes this one's part of each; the same arguments
            give the same batches.
        iterations_per_epoch: Micro-batches per epoch.
        optim: What is optimized how.
        loop: How the run proceeds.
        folder: The run's folder.
        device: Where to compute.
        write_model: Writes weights, configuration and vocabulary into the folder it is given, on the main process.
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
        write_model: WriteModel,
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
        self.validate = validate
        self.validate_count = validate_count
        self.display = display or Display(quiet=True)
        self.precision = choose_precision(loop.precision, device)
        self.parallel = ParallelTask(
            task, choose_parallel(loop.parallel), device, self.precision, shard_size=loop.shard_size, compiled=loop.compile
        )
        self.optimizer = build_optimizer(task.model, optim)
        self.schedule = build_schedule(optim, iterations_per_epoch)
        # Only fp16 needs its gradients scaled: bf16 has the range of fp32.
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.parameters = [parameter for _, parameter in named_trainable(task.model)]
        self.checkpoints = Checkpoints(folder, task, self.optimizer, write_model, loop.save_in_background)
        self.place = Place()
        self.failures = FailureCount(on_error)
        self.stops = Stops(loop)
        self._norm: Tensor | None = None
        self._watch = LossWatch(folder, immediate=device.type == "cpu")
        self.log: TrainingLog
        branch_random_state(distributed.rank())

    # ------------------------------------------------------------------------------------------------------------ the run

    def fit(self, resume: bool = False) -> dict[str, Any]:
        """Train to the end, or until something stops the run.

        Args:
            resume: Go on from ``checkpoint-last`` if there is one.

        Returns:
            ``step``, ``epoch``, ``examples``, ``seconds``, ``best``, ``best_step``, ``metrics``, ``failures`` and ``stopped``: None for a
            finished run, else the reason; of a mixture ``sources`` too: examples, failures and mean loss of each.

        Raises:
            DataError: If an input cannot be read, as the policy says.
            ModelError: If the loss is not finite; ``nonfinite.json`` says where, the last good checkpoint stays.
            EnvironmentProblem: If memory or disk run out.
        """
        sizes = self._restore() if resume else {}
        self.log = TrainingLog(self.folder, self.loop, self.display, self.device, self.place, sizes)
        self._begun, self._earlier = time.monotonic(), self.place.seconds
        stopped: str | None = None
        self.task.train()
        self.optimizer.zero_grad(set_to_none=True)
        try:
            done = self.place.epoch * self.per_epoch + self.place.iteration
            with self.stops.watched(), self.display.bar("train", self.optim.epochs * self.per_epoch, done) as self._advance:
                self._validate_if_due()  # a run that was killed while validating
                # A run that had reached its last step takes no further one when it is resumed.
                stopped = self.stops.agree(self.place.step)[0] if self.place.step else None
                while stopped is None and self.place.epoch < self.optim.epochs:
                    stopped = self._epoch()
            self.log.draw()
        finally:
            self.log.close()
        self.checkpoints.finish()
        return self.place.summary(self.failures.failed, stopped)

    def _epoch(self) -> str | None:
        """Train the rest of the current epoch and save; return why the run must stop, if it must."""
        place = self.place
        learned = 0
        batches = stream(self.batches, place.epoch, place.iteration)
        if self.task.looks_ahead:
            batches = grouped(batches, lambda: self._group()[1], self._look_ahead)
        for batch in batches:
            first, group_size = self._group()
            counts, failures = count_batch(batch, self.failures)
            self.log.failures(failures)
            if counts:
                self.log.samples(batch)
                self._backward(batch, group_size, counts, last=place.iteration + 1 == first + group_size)
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
            stopped, save_is_due = self.stops.agree(place.step)
            if place.iteration == self.per_epoch:
                break
            if stopped is not None or save_is_due:
                self.save()
            if stopped is not None:
                return stopped
        place.epoch, place.iteration = place.epoch + 1, 0
        if place.epoch == self.optim.epochs:
            self._log()
        self.save()
        self._validate_if_due()
        return None if place.epoch == self.optim.epochs and not self._validation_due() else self.stops.agree(place.step)[0]

    def _group(self) -> tuple[int, int]:
        """Return the first micro-batch of the current step, and how many it has."""
        first = self.place.iteration - self.place.iteration % self.optim.accumulation
        return first, min(self.optim.accumulation, self.per_epoch - first)

    # ------------------------------------------------------------------------------------------------------------- a step

    def _begin(self) -> None:
        self.task.begin_step(Progress(self.place.step, self.place.epoch, self.place.iteration / self.per_epoch))

    def _look_ahead(self, batches: list[Batch]) -> None:
        self._begin()
        moved = (batch.to(self.device, non_blocking=True) for batch in batches)
        with autocast(self.device, self.precision):
            self.parallel.step.look_ahead(moved)

    def _backward(self, batch: Batch, group_size: int, counts: list[int], last: bool) -> None:
        place = self.place
        # Processes that left out what they could not read count as much as they have; else the mean is over equal parts.
        weight = 1.0 if len(set(counts)) == 1 else len(batch) * len(counts) / sum(counts)
        try:
            moved = batch.to(self.device, non_blocking=True)
            if not self.task.looks_ahead:
                self._begin()
            # A micro-batch that is passed over cannot be the one at which gradients are exchanged.
            with self.parallel.gathering(last or self.failures.policy != "error"):
                with autocast(self.device, self.precision):
                    losses = self.parallel.losses(moved)
                self._watch.note(losses.total, batch, place.step, place.epoch, place.iteration)
                total = losses.total if group_size == 1 else losses.total / group_size
                self.scaler.scale(total if weight == 1.0 else total * weight).backward()
            self.task.end_step()
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, OpenmplugError) or not is_out_of_memory(error):
                raise
            setting = "optim.batch_size_per_device (and raise optim.accumulation as much to learn the same)"
            also = "" if self.loop.gradient_checkpointing is True else "run.gradient_checkpointing=true or "
            raise memory_problem(batch, self.precision, self.device, setting, f"at step {place.step}", also) from error
        place.examples += sum(counts)
        self.log.add(batch, losses, weight)

    def _step(self) -> None:
        place = self.place
        set_learning_rates(self.optimizer, self.schedule, Position(place.step, place.epoch, place.iteration - 1))
        if self.optim.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            self._norm = as_plain(torch.nn.utils.clip_grad_norm_(self.parameters, self.optim.clip_norm))
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
        values = self.log.line(place.epoch + place.iteration / self.per_epoch, self.optimizer, self._norm, self._seconds())
        if values:
            self._advance(0, note=f"loss {values['loss']:.4g}  lr {values['lr']:.2g}")

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
        with self.display.bar("validate", self.validate_count) as advance:
            metrics = validated(self.validate, self.parallel, self.stops, advance)
        if metrics is None:
            return
        place.metrics, place.validated = metrics, place.epoch
        score = metrics[self.task.metric]
        self.log.validation(metrics)
        if math.isfinite(score) and (place.best is None or score > place.best):
            place.best, place.best_step = score, place.step
            self.checkpoints.save_best({"step": place.step, "epoch": place.epoch, "metrics": metrics})
        self.log.draw()
        self.log.leave_out(time.monotonic() - began)
        self.save()

    def save(self) -> None:
        """Write ``checkpoint-last``.

        Raises:
            ModelError: If a loss or a weight is not finite; the checkpoint before stays.
            EnvironmentProblem: If it cannot be written; the checkpoint before stays.
        """
        began = time.monotonic()
        self._watch.look()
        norm = as_plain(torch.nn.utils.get_total_norm([parameter.detach() for parameter in self.parameters]))
        self._watch.require_finite("the norm of the weights", norm.item(), self.place.step)
        place = self.place
        place.seconds = self._seconds()
        place.seen, place.failed = self.failures.seen, self.failures.failed
        place.window, place.window_sources = self.log.sums(), self.log.source_sums()
        shared = {"processes": distributed.world_size(), "batch_size_per_device": self.optim.batch_size_per_device}
        self.checkpoints.save_last({**asdict(place), "logs": self.log.sizes(), "scaler": self.scaler.state_dict(), **shared})
        self.stops.saved()
        self.log.leave_out(time.monotonic() - began)

    def _restore(self) -> dict[str, int]:
        """Go back to ``checkpoint-last``; return to which length the logs are cut. Nothing saved yet: the run begins anew."""
        state = self.checkpoints.restore()
        if state is None:
            self.display.say("nothing was saved yet: starting from the beginning")
            return {}
        with distributed.alike():
            size = self.optim.batch_size_per_device
            check_shared(state.pop("processes", 1), state.pop("batch_size_per_device", size), size)
        sizes: dict[str, int] = state.pop("logs")
        if (scaler := state.pop("scaler")) and self.scaler.is_enabled():
            self.scaler.load_state_dict(scaler)
        self.place = Place(**state)
        self.failures.seen, self.failures.failed = self.place.seen, self.place.failed
        self.failures.by_source = self.place.failed_by_source()
        self.display.say(f"resuming at step {self.place.step}, epoch {self.place.epoch}, batch {self.place.iteration}")
        return sizes
