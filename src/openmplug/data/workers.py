"""Worker processes that read and decode ahead of whoever needs it: how many, how they start, and what is said when one dies."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from openmplug.device import usable_cores
from openmplug.errors import EnvironmentProblem, OpenmplugError

_MOST_WORKERS = 8


def choose_workers(rows: int | None, batch_size: int) -> int:
    """Return how many worker processes suit this machine: one core is left to the model, and a few pictures need none.

    Args:
        rows: How many there are; None if unknown.
        batch_size: Rows that a worker decodes at a time.
    """
    if rows is not None and rows <= 2 * batch_size:
        return 0
    return max(1, min(_MOST_WORKERS, usable_cores() - 1))


def start_worker(_: int) -> None:
    """Prepare a worker process: one thread each, as the processes are the parallelism."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends its workers


def from_workers(loader: DataLoader[Any], advice: str) -> Iterator[Any]:
    """Iterate a loader; a worker that dies is one line that says what to do.

    Args:
        loader: With workers.
        advice: What the user can do, such as "lower the batch size".

    Raises:
        EnvironmentProblem: If a worker dies.
    """
    try:
        yield from iter(loader)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or isinstance(error, OpenmplugError):
            raise
        raise EnvironmentProblem(f"a data worker died ({str(error).splitlines()[0]}), often for lack of memory; {advice}") from error
