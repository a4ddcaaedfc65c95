"""The two folders a run keeps: ``checkpoint-last``, all it needs to go on, and ``checkpoint-best``, the weights that scored best.

Both are replaced whole or not at all. One process writes its state as ``training.safetensors``; several write theirs together, each what
it holds, into ``checkpoint-last/state`` (``engine.sharded``). Either can be read by any number of processes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openmplug import distributed
from openmplug.checkpoints.atomic import atomic_folder, recover_folder
from openmplug.engine import sharded
from openmplug.engine.parallel import whole_state
from openmplug.engine.resume import STATE, load_training_state, save_training_state, training_tensors
from openmplug.errors import UsageError
from openmplug.tasks.base import Task

LAST = "checkpoint-last"
BEST = "checkpoint-best"

WriteModel = Callable[[Path, Mapping[str, Tensor]], None]
"""``write_model(folder, weights)``: writes weights (the model's ``state_dict()``, whole), configuration and vocabulary."""


class Checkpoints:
    """Writes and reads a run's checkpoints.

    Args:
        folder: The run's folder; of several processes on several machines, one that all of them see.
        task: What is learned.
        optimizer: Over the task's parameters.
        write_model: Called on the main process.
        background: Write ``checkpoint-last`` while the run goes on; the state is copied to the CPU's memory first.
    """

    def __init__(
        self, folder: Path, task: Task, optimizer: torch.optim.Optimizer, write_model: WriteModel, background: bool = False
    ) -> None:
        self.folder = folder
        self.task = task
        self.optimizer = optimizer
        self.write_model = write_model
        self.background = background
        self._group = sharded.new_group() if background else None
        self._writing: threading.Thread | None = None
        self._problem: BaseException | None = None

    def save_best(self, record: Mapping[str, Any]) -> None:
        """Write ``checkpoint-best`` and what the validation found.

        Raises:
            EnvironmentProblem: If it cannot be written; the one before stays.
        """
        weights = whole_state(self.task.model)
        with distributed.agreed():
            if distributed.is_main():
                with atomic_folder(self.folder / BEST) as folder:
                    self.write_model(folder, weights)
                    (folder / "validation.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def save_last(self, state: Mapping[str, Any]) -> None:
        """Write ``checkpoint-last``.

        Args:
            state: Position and counters, plain JSON.

        Raises:
            EnvironmentProblem: If it cannot be written, or the one before, in the background, could not; the last good one stays.
        """
        self.finish()
        weights = whole_state(self.task.model)
        if distributed.world_size() > 1:
            self._save_together(weights, state)
        elif self.background:
            tensors = _copied(training_tensors(self.task, self.optimizer))
            self._start(lambda: self._write(_copied(weights), tensors, state))
        else:
            self._write(weights, training_tensors(self.task, self.optimizer), state)

    def _write(self, weights: Mapping[str, Tensor], tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        with atomic_folder(self.folder / LAST) as folder:
            self.write_model(folder, weights)
            save_training_state(folder, tensors, state)

    def _save_together(self, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        main = distributed.is_main()
        stack = ExitStack()
        with distributed.agreed():
            place = stack.enter_context(atomic_folder(self.folder / LAST)) if main else None
        folder = Path(distributed.share(str(place)))
        tensors = {f"model/{name}": value for name, value in self.task.model.state_dict().items()}
        tensors |= training_tensors(self.task, self.optimizer, distributed.rank())

        def complete(written: Callable[[], None], weights: Mapping[str, Tensor]) -> None:
            """Add what the main process alone writes; the folder takes its place then, or is removed if something failed."""
            with stack:
                written()
                if main:
                    self.write_model(folder, weights)
                    (folder / STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")

        if self.background:
            written, kept = sharded.save_in_background(folder, tensors, self._group), _copied(weights)
            self._start(lambda: complete(written, kept))
            return
        with distributed.agreed():  # torch agrees on its own errors first: a failure to write is everybody's
            complete(lambda: sharded.save(folder, tensors), weights)

    # -------------------------------------------------------------------------------------------------- in the background

    def _start(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # handed over to the run, which raises it
                self._problem = error

        self._writing = threading.Thread(target=run, name="openmplug-checkpoint")
        self._writing.start()

    def finish(self) -> None:
        """Wait until nothing is being written.

        Raises:
            EnvironmentProblem: If it could not be written.
        """
        if self._writing is None:
            return
        self._writing.join()
        self._writing, problem = None, self._problem
        self._problem = None
        with distributed.agreed():
            if problem is not None:
                raise problem

    # -------------------------------------------------------------------------------------------------------------- reading

    def restore(self) -> dict[str, Any] | None:
        """Go back to ``checkpoint-last``.

        Returns:
            The state that ``save_last`` was given; None if nothing was saved yet.

        Raises:
            ModelError: If something is missing, damaged, or does not fit the model.
        """
        with distributed.agreed():
            if distributed.is_main():
                recover_folder(self.folder / BEST)
                recover_folder(self.folder / LAST)
        if not distributed.share((self.folder / LAST).is_dir()):
            return None
        with distributed.alike() if sharded.holds_state(self.folder / LAST) else distributed.agreed():
            state = load_training_state(self.folder / LAST, self.task, self.optimizer)
        return state


def check_shared(processes: int, size: int, now: int) -> None:
    """Refuse to go on with other batches: processes times their batch must be what it was.

    Args:
        processes: That saved the run.
        size: Of the batches each of them had.
        now: Size of this process's batches.

    Raises:
        UsageError: If together they are not the same.
    """
    world_size = distributed.world_size()
    if processes * size == world_size * now:
        return
    fitting, rest = divmod(processes * size, world_size)
    advice = "choose a number of processes that divides it" if rest else f"set optim.batch_size_per_device={fitting}"
    raise UsageError(
        f"the run was saved by {processes} processes with batches of {size}, together {processes * size};"
        f" {world_size} with batches of {now} would see other ones: {advice}"
    )


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors into the CPU's memory, for them to stay as they are now."""
    return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}
