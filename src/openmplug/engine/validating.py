"""A validation in the middle of a run: it changes nothing of what is learned, and a signal breaks it off."""

from __future__ import annotations

from collections.abc import Callable

from openmplug import distributed
from openmplug.engine.parallel import ParallelTask
from openmplug.engine.resume import kept_random_state
from openmplug.engine.stopping import Stops
from openmplug.engine.tracking import Advance
from openmplug.errors import DataError
from openmplug.tasks.base import Task

Validate = Callable[[Task, Advance], dict[str, float]]
"""``validate(task, advance)``: the metrics of the validation split."""


class _Interrupted(Exception):
    """A signal came while validating."""


def validated(validate: Validate, parallel: ParallelTask, stops: Stops, advance: Callable[..., None]) -> dict[str, float] | None:
    """Validate with all processes and leave the task in training mode.

    Returns:
        The metrics, the main process's; None if a signal came.

    Raises:
        DataError: If the task's own metric is not among them.
    """

    def advance_or_stop(count: int) -> None:
        # One of several processes would leave the others waiting: they stop after the validation.
        if stops.interrupted and distributed.world_size() == 1:
            raise _Interrupted
        advance(count)

    task = parallel.task
    try:
        with kept_random_state(), parallel.whole():
            metrics = distributed.share(validate(task, advance_or_stop))
    except _Interrupted:
        return None
    finally:
        task.train()
    with distributed.alike():
        if task.metric not in metrics:
            raise DataError(
                f"the validation split gives no {task.metric}: its records hold nothing to score against;"
                " choose another data.evaluate, or set run.validate_every=0"
            )
    return metrics
