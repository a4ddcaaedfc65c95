"""What one command asks for, and whether it can be done: everything that is found before a model is loaded."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmplug.checkpoints.adapters import folder_hash, holds_adapters
from openmplug.checkpoints.folder import file_hash, find_folder, is_ours
from openmplug.checkpoints.locating import find_checkpoint
from openmplug.checkpoints.store import CONFIG, WEIGHTS, open_tensors, read_config
from openmplug.device import choose_device, choose_precision
from openmplug.errors import UsageError
from openmplug.inference.bulk.inputs import Inputs
from openmplug.inference.bulk.outputs import check_output
from openmplug.inference.bulk.verbs import VERBS
from openmplug.inference.model import check_trained_for
from openmplug.tasks import PRETRAINING

ENGINES = ("local", "ray")


@dataclass(frozen=True, slots=True)
class Job:
    """What one command asks for.

    Args:
        verb: A key of ``VERBS``.
        inputs: The rows.
        model: A trained folder, or a run's folder.
        output: The table to write; its ending names the format.
        device: As for ``load``.
        dtype: As for ``load``.
        batch_size: Rows the model works on at once.
        workers: Processes that decode ahead of the model; 0 decodes in this one, None chooses.
        on_error: ``error`` stops at the first picture that cannot be read; ``skip`` gives it a row with ``error``.
        max_failures: Under ``skip``, stop when more rows than this have failed: a number, or a fraction below 1 as a float.
        quantize: As for ``load``.
        restart: Throw away what a stopped run has left.
        engine: ``local`` or ``ray``.
        ray_workers: Models that Ray loads.
        frames: As for ``load``.
    """

    verb: str
    inputs: Inputs
    model: Path
    output: Path
    device: str | None = None
    dtype: str | None = None
    batch_size: int = 16
    workers: int | None = None
    on_error: str = "error"
    max_failures: int | float | None = None
    quantize: str | None = None
    restart: bool = False
    engine: str = "local"
    ray_workers: int = 1
    frames: int | None = None

    @property
    def journal(self) -> Path:
        """Where finished rows are kept until the table is written."""
        return self.output.with_name(f".{self.output.name}.journal")


def parse_limit(text: str) -> int | float:
    """Read ``--max-failures``: a number of rows, or a part of them as ``0.01`` or ``1%``.

    Raises:
        UsageError: If it is neither.
    """
    with suppress(ValueError):
        if text.isdecimal():
            return int(text)
        part = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        if 0 <= part < 1:
            return part
    raise UsageError(f"--max-failures is '{text}'; expected a number of rows, or a part of them such as 0.01 or 1%")


def check_options(output: Path, on_error: str, max_failures: int | float | None, engine: str) -> None:
    """Find what is wrong with a command before its inputs are listed.

    Raises:
        UsageError: If a value is unknown or two contradict each other.
        EnvironmentProblem: If a package is needed that is not installed.
    """
    check_output(output)
    if on_error not in ("error", "skip"):
        raise UsageError(f"unknown on-error policy '{on_error}'; one of error, skip")
    if max_failures is not None and on_error != "skip":
        raise UsageError("--max-failures limits the failures that --on-error skip lets pass; give both")
    if engine not in ENGINES:
        raise UsageError(f"unknown engine '{engine}'; one of {', '.join(ENGINES)}")
    if engine == "ray":
        from openmplug.inference.bulk.cluster import check_ray

        check_ray()


def check_model(job: Job) -> dict[str, Any]:
    """Check a job's model without loading it.

    Returns:
        What its results depend on: weights, description, vocabulary, precision.

    Raises:
        ModelError: If the folder is no trained model.
        UsageError: If it was trained for another task, or device or dtype is unknown.
        EnvironmentProblem: If this machine has no such device.
    """
    device = choose_device(job.device)
    choose_precision(job.dtype, device)
    precision = f"{job.dtype or f'auto on {device.type}'}{f', {job.quantize}' if job.quantize else ''}"
    precision += f", {job.frames} frames of a video" if job.frames else ""
    folder = find_folder(job.model)
    if not is_ours(folder):
        found = find_checkpoint(job.model)
        digests = {path.name: _digest(path) for path in (*found.configs, found.vocabulary) if path is not None}
        return {"weights": file_hash(found.file), **digests, "precision": precision}
    # A description without a task is refused when the model is loaded.
    trained_for = read_config(folder).get("task")
    check_trained_for(None if trained_for == PRETRAINING else trained_for, VERBS[job.verb].task)
    if not holds_adapters(folder):
        with open_tensors(folder / WEIGHTS):  # whole, before it is read from end to end
            pass
    weights = folder_hash(folder)
    digests = {name: _digest(folder / name) for name in (CONFIG, "vocab.txt") if (folder / name).is_file()}
    return {"weights": weights, **digests, "precision": precision}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
