"""A job from its first row to its table: finished rows go to a journal, and a run that was stopped goes on where it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from openmplug.errors import DataError
from openmplug.inference.bulk.job import Job, check_model
from openmplug.inference.bulk.outputs import write_table
from openmplug.inference.bulk.predicting import Record, predict_here
from openmplug.inference.bulk.verbs import VERBS, Verb
from openmplug.inference.journal import Journal
from openmplug.inference.loading import load
from openmplug.lock import alone

_NAMED = 5  # failures that are named; the others are in the table
_ENOUGH = 100  # rows before a fraction of failures means anything


@dataclass(slots=True)
class Tally:
    """How far a run is.

    Args:
        done: Rows with a result, those of earlier runs among them.
        failed: Rows whose picture could not be read, likewise.
        resumed: Rows that earlier runs finished.
        seconds: Since this run began to predict.
        failures: The first reasons.
    """

    done: int = 0
    failed: int = 0
    resumed: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows finished, well or not."""
        return self.done + self.failed

    @property
    def items_per_second(self) -> float:
        """Rows this run has finished, per second."""
        return (self.rows - self.resumed) / self.seconds if self.seconds > 0 else 0.0

    def add(self, record: Record) -> None:
        """Count one record."""
        if "error" not in record:
            self.done += 1
            return
        self.failed += 1
        if len(self.failures) < _NAMED:
            self.failures.append(record["error"])


def predict(job: Job, report: Callable[[Tally], None] = lambda tally: None) -> Tally:
    """Predict a job's rows and write its table.

    Finished rows are on the disk after each chunk. The next run of the same job, on the same inputs and with the same model, goes on
    behind them; ``on_error``, ``batch_size``, ``workers``, ``device`` and ``engine`` may differ, as they change no result.

    Args:
        job: What to do; see ``check_options``.
        report: Called before the first chunk and after each.

    Returns:
        The counts.

    Raises:
        UsageError: If the journal holds the rows of another job, or the model was trained for another task.
        DataError: For an unreadable picture under ``error``, too many of them, or if none could be read.
        ModelError: If the model cannot be loaded.
        EnvironmentProblem: If something cannot be written, or a worker dies.
    """
    verb = VERBS[job.verb]
    identity = {"verb": job.verb, "model": check_model(job), **job.inputs.identity()}
    with _journal(job, identity) as journal:
        tally = Tally()
        for record in journal.rows():
            tally.add(record)
        tally.resumed = tally.rows
        report(tally)
        if job.inputs.total is None or journal.done < job.inputs.total:
            chunks = _chunks(job, verb, journal.done)
            began = time.perf_counter()
            with closing(chunks):
                for records in chunks:
                    _keep(records, journal, job, tally)
                    tally.seconds = time.perf_counter() - began
                    report(tally)
        if tally.failed and not tally.done:
            journal.remove()  # a run of nothing but failures is nothing to go on with
            raise DataError(f"none of the {tally.rows:,} pictures could be read; the first: {tally.failures[0]}")
        check_failures(tally, job.max_failures, enough=1)
        write_table(job.output, journal.rows, verb.columns())
        journal.remove()
    return tally


def _chunks(job: Job, verb: Verb, start: int) -> Generator[list[Record], None, None]:
    """Make everything ready, and return what yields the records."""
    if job.engine == "ray":
        from openmplug.inference.bulk.cluster import predict_on_ray

        return predict_on_ray(
            job.verb,
            job.inputs,
            job.model,
            job.device,
            job.dtype,
            job.batch_size,
            start,
            job.ray_workers,
            job.quantize,
            job.frames,
        )
    model = load(job.model, job.device, job.dtype, job.batch_size, quantize=job.quantize, frames=job.frames)
    return predict_here(model, verb, job.inputs, start, job.workers)


@contextmanager
def _journal(job: Job, identity: dict[str, Any]) -> Iterator[Journal]:
    """Open the job's journal; one that stays without rows is taken away again."""
    with (
        alone(job.output.with_name(f".{job.output.name}.lock"), "this output", "choose another --output"),
        Journal(job.journal, identity, job.restart) as journal,
    ):
        try:
            yield journal
        finally:
            if journal.done == 0:
                journal.remove()


def _keep(records: list[Record], journal: Journal, job: Job, tally: Tally) -> None:
    """Push records to the disk and count them; under ``error`` those before the first failure."""
    bad = next((position for position, record in enumerate(records) if "error" in record), None) if job.on_error == "error" else None
    good = records[:bad]
    journal.append(good)
    for record in good:
        tally.add(record)
    if bad is not None:
        kept = f"; the {journal.done:,} rows before it are kept for the next run" if journal.done else ""
        raise DataError(f"{records[bad]['error']} (to go on without it: --on-error skip{kept})")
    check_failures(tally, job.max_failures)


def check_failures(tally: Tally, limit: int | float | None, enough: int = _ENOUGH) -> None:
    """Stop where more could not be read than the user lets pass.

    Args:
        tally: How far the run is.
        limit: Rows, or a fraction of them as a float; None is no limit.
        enough: Rows before a fraction means anything.

    Raises:
        DataError: If there are more.
    """
    if limit is None:
        return
    allowed = limit * tally.rows if isinstance(limit, float) else limit
    if tally.failed > allowed and (isinstance(limit, int) or tally.rows >= enough):
        raise DataError(
            f"{tally.failed:,} of {tally.rows:,} pictures could not be read, more than --max-failures; the first: {tally.failures[0]}"
            " (the rows are kept: a larger --max-failures goes on)"
        )
