"""When a run stops before its end, and when it saves on the way: the same for all of its processes."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from openmplug import distributed
from openmplug.engine.guards import StopSignal
from openmplug.engine.recipe import LoopSettings


class Stops:
    """Looks at signals, steps and the clock between optimizer steps.

    Args:
        loop: ``max_steps``, ``max_minutes``, ``save_every_steps`` and ``save_every_minutes``.
    """

    def __init__(self, loop: LoopSettings) -> None:
        self.loop = loop
        self._signal = StopSignal()
        self._begun = self._saved = time.monotonic()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Catch signals while the block runs, and let the clock start with it."""
        self._begun = self._saved = time.monotonic()
        with self._signal.caught():
            yield

    @property
    def interrupted(self) -> bool:
        """Whether a signal came to this process."""
        return bool(self._signal.name)

    def saved(self) -> None:
        """Take note of a save."""
        self._saved = time.monotonic()

    def agree(self, step: int) -> tuple[str | None, bool]:
        """Return why all processes stop after ``step`` steps, if they do, and whether a save is due.

        Clocks differ between processes, and a signal may reach one of them alone.
        """
        loop, now = self.loop, time.monotonic()
        late = loop.max_minutes is not None and now - self._begun > 60 * loop.max_minutes
        unsaved = loop.save_every_minutes is not None and now - self._saved > 60 * loop.save_every_minutes
        seen = distributed.everyone([self._signal.number, late, unsaved])
        number, late, unsaved = (max(column) for column in zip(*seen, strict=True))
        save_is_due = bool(unsaved) or (loop.save_every_steps is not None and step % loop.save_every_steps == 0)
        if number:
            return f"{signal.Signals(int(number)).name} received", save_is_due
        if loop.max_steps is not None and step >= loop.max_steps:
            return f"run.max_steps={loop.max_steps} reached", save_is_due
        return f"run.max_minutes={loop.max_minutes:g} reached" if late else None, save_is_due
