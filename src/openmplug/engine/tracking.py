"""What a run tells while it goes on: ``metrics.jsonl`` always, TensorBoard where installed, a progress bar, curves.

The log is the record: every line is flushed, and a resumed run cuts it back to where its checkpoint was written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from openmplug.errors import write_problem

METRICS = "metrics.jsonl"
FAILURES = "failures.jsonl"
SAMPLES = "samples.jsonl"

Advance = Callable[[int], None]


class JsonLines:
    """An append-only file of one JSON object per line, flushed line by line.

    Args:
        path: The file.
        size: Cut it back to this many bytes first; None appends to what is there.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        self.path = path
        try:
            # Unbuffered: nothing is left to be written when a full disk ends the run.
            self._file: IO[bytes] = path.open("ab", buffering=0)
            if size is not None and size < path.stat().st_size:
                self._file.truncate(size)
        except OSError as error:
            raise write_problem(error, path) from error

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record.

        Raises:
            EnvironmentProblem: If the disk is full.
        """
        try:
            self._file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
        except OSError as error:
            raise write_problem(error, self.path) from error

    def size(self) -> int:
        """Return the length of the file in bytes."""
        return self.path.stat().st_size

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines; a last line that a crash cut short is left out."""
    if not path.is_file():
        return []
    records = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for line in lines[:-1]:  # what follows the last line break is empty or cut short
        records.append(json.loads(line))
    return records


class Display:
    """A progress bar on a terminal, plain lines elsewhere; on stderr, so that stdout stays free for results.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._progress: Progress | None = None
        if not quiet and self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self._console,
            )
            self._progress.start()

    @property
    def is_bar(self) -> bool:
        """Whether a bar is drawn."""
        return self._progress is not None

    def say(self, text: str) -> None:
        """Print one line."""
        if not self._quiet:
            # Elsewhere than on a terminal the console would wrap the line at 80 columns.
            self._console.print(text, markup=False) if self._progress else print(text, file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, description: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
        """Show a bar while the block runs.

        Yields:
            ``advance(n, note="")``; it does nothing where no bar is drawn.
        """
        progress = self._progress
        if progress is None:
            yield lambda count, note="": None
            return
        task: TaskID = progress.add_task(description, total=total, completed=done, note="")

        def advance(count: int, note: str = "") -> None:
            if note:
                progress.update(task, advance=count, note=note)
            else:
                progress.advance(task, count)

        try:
            yield advance
        finally:
            progress.update(task, visible=description == "train")

    def close(self) -> None:
        """Stop drawing."""
        if self._progress is not None:
            self._progress.stop()


class Tracker:
    """Writes what happens to ``metrics.jsonl``, to TensorBoard where it is installed, and to the display.

    Args:
        folder: The run's folder.
        display: Where people look.
        step: Steps already done; TensorBoard drops what a broken run wrote after it.
        sizes: Bytes to which each log is cut back, by file name; empty starts all anew.
        samples: Keep ``samples.jsonl`` too.
    """

    def __init__(
        self, folder: Path, display: Display, step: int = 0, sizes: Mapping[str, int] | None = None, samples: bool = False
    ) -> None:
        sizes = sizes or {}
        self.display = display
        self._samples = JsonLines(folder / SAMPLES, sizes.get(SAMPLES, 0)) if samples else None
        self._metrics = JsonLines(folder / METRICS, sizes.get(METRICS, 0))
        self._failures = JsonLines(folder / FAILURES, sizes.get(FAILURES, 0))
        self._board: Any = _tensorboard(folder / "tensorboard", step)

    def sizes(self) -> dict[str, int]:
        """Return the length of each log in bytes, for a checkpoint."""
        sizes = {METRICS: self._metrics.size(), FAILURES: self._failures.size()}
        return sizes if self._samples is None else {**sizes, SAMPLES: self._samples.size()}

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Write one line of ``metrics.jsonl``.

        Args:
            kind: ``train`` or ``validation``.
            step: Optimizer steps done.
            values: What was measured.
        """
        self._metrics.write({"kind": kind, "step": step, **values})
        for name, value in _flat(values).items():
            if self._board is not None and isinstance(value, float | int):
                self._board.add_scalar(f"{kind}/{name}", value, step)
        if kind != "train" or not self.display.is_bar:
            numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if isinstance(value, float | int))
            self.display.say(f"{kind} step {step}  {numbers}")

    def failure(self, record: Mapping[str, Any]) -> None:
        """Write one line of ``failures.jsonl``: an input that was skipped, and why."""
        self._failures.write(record)

    def samples(self, record: Mapping[str, Any]) -> None:
        """Write one line of ``samples.jsonl``: which samples a micro-batch held."""
        if self._samples is not None:
            self._samples.write(record)

    def close(self) -> None:
        """Close every file; an empty ``failures.jsonl`` is removed."""
        if self._samples is not None:
            self._samples.close()
        self._metrics.close()
        self._failures.close()
        if self._failures.size() == 0:
            self._failures.path.unlink()
        if self._board is not None:
            try:
                self._board.close()
            except OSError as error:
                self.display.say(f"TensorBoard's file was not finished: {error}")


class SilentTracker(Tracker):
    """The tracker of a process that is not the main one: it writes nothing."""

    def __init__(self) -> None:
        """Open nothing."""

    def sizes(self) -> dict[str, int]:
        """Return nothing."""
        return {}

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Write nothing."""

    def failure(self, record: Mapping[str, Any]) -> None:
        """Write nothing."""

    def samples(self, record: Mapping[str, Any]) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Close nothing."""


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Name what lies inside of values by the way to it: ``sources/web/loss``."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= {f"{name}/{inner}": each for inner, each in _flat(value).items()} if isinstance(value, Mapping) else {name: value}
    return flat


def _tensorboard(folder: Path, step: int) -> Any:
    """Return a TensorBoard writer, or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def draw_curves(folder: Path) -> Path | None:
    """Draw ``curves.png`` from ``metrics.jsonl``: loss and its parts, learning rates, validation metrics.

    Args:
        folder: The run's folder.

    Returns:
        The picture, or None if nothing was logged yet.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    records = read_lines(folder / METRICS)
    train = [record for record in records if record["kind"] == "train"]
    validation = [record for record in records if record["kind"] == "validation"]
    if not train:
        return None
    losses = [name for name in train[-1] if name == "loss" or name.startswith("loss_")]
    if len(losses) == 2:
        losses = ["loss"]  # a single part is the loss itself
    metrics = [name for name, value in (validation[-1] if validation else {}).items() if isinstance(value, float)]
    rates = ["lr", "vision_lr"] if any(row["lr"] != row.get("vision_lr", row["lr"]) for row in train) else ["lr"]
    panels = [("training loss", train, losses), ("learning rate", train, rates)]
    if metrics:
        panels.insert(1, ("validation", validation, metrics))
    figure = Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, rows, names) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            marker = "o" if len(points) < 30 else None
            axes.plot(*zip(*points, strict=True), label=name, marker=marker, markersize=3, linewidth=1.4)
        axes.set_title(title)
        axes.set_xlabel("optimizer step")
        axes.ticklabel_format(axis="y", scilimits=(-3, 4))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if len(names) > 1:
            axes.legend(fontsize=8, frameon=False)
        else:
            axes.set_ylabel(names[0])
    path = folder / "curves.png"
    temporary = folder / ".curves.png"
    try:
        figure.savefig(temporary, format="png", dpi=110)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise write_problem(error, path) from error
    return path
