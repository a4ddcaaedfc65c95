"""The model processes: started, given batches, watched, started again when one ends."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

from openmplug import errors
from openmplug.errors import ModelError, OpenmplugError
from openmplug.serving import worker
from openmplug.serving.batching import Batcher, Job
from openmplug.serving.work import About, Work

_FIRST_PAUSE_SECONDS = 1.0  # before a process that ended is started again; doubled up to the longest
_LONGEST_PAUSE_SECONDS = 30.0
_LOOK_SECONDS = 1.0  # between two looks at whether an idle process still runs
_STEADY_SECONDS = 60.0  # a process that worked so long did not end because of how it was started

END_SECONDS = 5.0
"""For the thread of a process that has been ended."""


class Watcher(Protocol):
    """Who hears of the processes; called from their threads."""

    def on_ready(self, number: int, about: About) -> None:
        """Process ``number`` has loaded its model."""

    def on_answered(self, jobs: Sequence[Job], results: Sequence[Any], seconds: float) -> None:
        """A batch is done; a result may be ``worker.Failed``."""

    def on_lost(self, number: int, jobs: Sequence[Job], reason: str) -> None:
        """Process ``number`` ended while it worked on jobs, or between two batches."""

    def on_unfit(self, number: int, error: OpenmplugError) -> None:
        """Process ``number`` could not load the model."""


class Running(Protocol):
    """What was launched: a ``multiprocessing.Process`` or what behaves like one."""

    @property
    def pid(self) -> int | None:
        """Its id."""

    @property
    def exitcode(self) -> int | None:
        """How it ended; None while it runs."""

    def is_alive(self) -> bool:
        """Whether it runs."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""

    def kill(self) -> None:
        """End it."""


Launch = Callable[[Connection, Mapping[str, Any]], Running]


def launch_process(pipe: Connection, options: Mapping[str, Any]) -> Running:
    """Run ``worker.run`` in a process of its own."""
    process = multiprocessing.get_context("spawn").Process(
        target=worker.run, args=(pipe, dict(options)), name="openmplug-model", daemon=True
    )
    process.start()
    pipe.close()  # the process holds the only copy: when it ends, reading ends
    return process


class ModelProcess:
    """One model process and the thread that feeds it.

    Args:
        number: Which one, for logs.
        options: For ``worker.run``.
        batcher: Where batches come from.
        watcher: Who hears of it.
        stuck_seconds: A batch that takes longer ends the process.
        launch: Starts the process.
    """

    def __init__(
        self,
        number: int,
        options: Mapping[str, Any],
        batcher: Batcher,
        watcher: Watcher,
        stuck_seconds: float,
        launch: Launch = launch_process,
    ) -> None:
        self._launch = launch
        self.number = number
        self._options = dict(options)
        self._batcher = batcher
        self._watcher = watcher
        self._stuck_seconds = stuck_seconds
        self._stopping = threading.Event()
        self._kept: list[Job] = []  # taken, and not sent because the process had ended by then
        self._process: Running | None = None
        self._loaded = False
        self._thread = threading.Thread(target=self._run, name=f"model-{number}", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and bool(self._process.is_alive())

    @property
    def pid(self) -> int | None:
        """The process's id; None while there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the thread, which starts the process."""
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Wait for the end, which comes once the queue is closed and empty; end the process by force when it takes too long."""
        self._stopping.set()
        if self._loaded:
            self._thread.join(timeout_seconds)
        if self._process is not None and self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._thread.join(END_SECONDS)

    def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            begun = time.monotonic()
            if self._one_life():
                return
            pause = _FIRST_PAUSE_SECONDS if time.monotonic() - begun > _STEADY_SECONDS else pause
            self._stopping.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _one_life(self) -> bool:
        """Start a process and feed it to its end; True if there is nothing more to do."""
        if self._stopping.is_set():
            return True
        pipe, other = multiprocessing.get_context("spawn").Pipe()
        process = self._process = self._launch(other, self._options)
        with pipe:
            try:
                said = pipe.recv()
            except (EOFError, OSError):
                process.join()
                if self._stopping.is_set():
                    return True
                self._watcher.on_lost(self.number, (), f"it ended while it loaded the model (exit code {process.exitcode})")
                return False
            if isinstance(said, worker.Unfit):
                process.join()
                kind = getattr(errors, said.kind, ModelError)
                self._watcher.on_unfit(self.number, kind(said.message))
                return False
            self._loaded = True
            self._watcher.on_ready(self.number, said)
            try:
                return self._feed(pipe, process)
            finally:
                self._loaded = False

    def _feed(self, pipe: Connection, process: Running) -> bool:
        while (jobs := self._kept or self._batcher.take(_LOOK_SECONDS)) is not None:
            if not process.is_alive():
                self._kept = jobs
                self._watcher.on_lost(self.number, (), f"it ended (exit code {process.exitcode})")
                return False
            if not jobs:
                continue
            self._kept = []
            reason = self._work(pipe, jobs)
            if reason is not None:
                process.kill()
                process.join()
                self._watcher.on_lost(self.number, jobs, f"{reason} (exit code {process.exitcode})")
                return False
        with contextlib.suppress(OSError):  # it may have ended by itself
            pipe.send(None)
        process.join()
        return True

    def _work(self, pipe: Connection, jobs: Sequence[Job]) -> str | None:
        """Have one batch worked on; returns why not, if it could not."""
        try:
            work = jobs[0].key
            assert isinstance(work, Work)
            worker.send_batch(pipe, work, [job.content for job in jobs])
            if not pipe.poll(self._stuck_seconds):
                return f"a batch took longer than {self._stuck_seconds:g} seconds"
            results, seconds = pipe.recv()
        except (EOFError, OSError):
            return "it ended while it worked on a batch"
        except Exception as error:  # nothing may end this thread: there would be no other for the queue
            return f"a batch could not be handed over: {type(error).__name__}"
        self._batcher.finished(sum(job.weight for job in jobs), seconds)
        self._watcher.on_answered(jobs, results, seconds)
        return None
