"""The one evaluation loop: predictions of a split, their metrics, and the two files that record them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from openmplug import distributed
from openmplug.batch import Batch, Failure, Prediction
from openmplug.checkpoints.atomic import write_atomic
from openmplug.device import autocast
from openmplug.engine.guards import FailureCount, is_out_of_memory, memory_problem
from openmplug.engine.resume import kept_random_state
from openmplug.engine.tracking import FAILURES, Advance
from openmplug.errors import DataError, OpenmplugError
from openmplug.tasks.base import Task

PREDICTIONS = "predictions.jsonl"
RESULTS = "metrics.json"


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Args:
        metrics: Name to value.
        predictions: One per input that could be read, in order.
        failures: Inputs that could not be read.
        seconds: Wall time of predicting and scoring.
    """

    metrics: dict[str, float]
    predictions: list[Prediction]
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0


def evaluate_task(
    task: Task,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    precision: str = "fp32",
    on_error: str = "error",
    advance: Advance | None = None,
    shared: bool = False,
) -> Evaluation:
    """Predict a split and score it. The task's mode and the random generators are left as they were.

    Args:
        task: On ``device`` already.
        batches: The split, in order.
        device: Where to compute.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        on_error: Policy for inputs that cannot be read.
        advance: Called with the number of inputs of each batch that was handed out.
        shared: ``batches`` are this process's part of the split, in the order of the processes; all of them score the whole.

    Raises:
        DataError: If an input cannot be read and the policy says so, or nothing at all could be read.
        EnvironmentProblem: If memory runs out.
    """
    failures: list[Failure] = []
    count = FailureCount(on_error)
    current: list[Batch] = []

    def moved() -> Iterator[Batch]:
        for batch in batches:
            failures.extend(count.note(batch))
            if len(batch):
                current[:] = [batch]
                yield batch.to(device, non_blocking=True)
            if advance is not None:
                advance(len(batch) + len(batch.failures))

    was_training = task.training
    task.eval()
    start = time.monotonic()
    try:
        with kept_random_state(), torch.no_grad():
            with distributed.agreed(), autocast(device, precision):
                predictions = list(task.evaluate(moved()))
            if shared:
                predictions = [one for some in distributed.gather_objects(predictions) for one in some]
            with distributed.alike():
                if not predictions:
                    raise DataError(f"none of the {count.seen} inputs could be read; run: openmplug data check")
            metrics = {name: float(value) for name, value in task.score(predictions).items()}
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, OpenmplugError) or not is_out_of_memory(error) or not current:
            raise
        raise memory_problem(current[0], precision, device, "run.evaluate_batch_size", "in evaluation") from error
    finally:
        task.train(was_training)
    return Evaluation(metrics, predictions, failures, time.monotonic() - start)


def prediction_record(prediction: Prediction) -> dict[str, Any]:
    """Return the line of ``predictions.jsonl``: id, text, score, references, then the task's own fields."""
    fixed = {"id": prediction.id, "text": prediction.text, "score": prediction.score, "references": list(prediction.references)}
    return {**prediction.extra, **fixed} if fixed.keys() & prediction.extra.keys() else {**fixed, **prediction.extra}


def write_evaluation(
    folder: Path, evaluation: Evaluation, facts: Mapping[str, Any], handed_in: tuple[str, str] | None = None
) -> dict[str, Any]:
    """Write ``predictions.jsonl``, ``metrics.json`` and, if inputs failed, ``failures.jsonl``; each whole or not at all.

    Args:
        folder: Where to; made if needed.
        evaluation: What was found.
        facts: Split, task, settings, scorer, model hash, versions: what makes the numbers mean something.
        handed_in: Name and content of one more file, in the form that the benchmark's server takes.

    Returns:
        The content of ``metrics.json``.

    Raises:
        EnvironmentProblem: If the files cannot be written.
    """
    lines = [json.dumps(prediction_record(prediction), ensure_ascii=False) for prediction in evaluation.predictions]
    write_atomic(folder / PREDICTIONS, "\n".join(lines) + "\n")
    (folder / FAILURES).unlink(missing_ok=True)  # of an earlier evaluation
    if evaluation.failures:
        told = [{name: value for name, value in asdict(failure).items() if value} for failure in evaluation.failures]
        failed = [json.dumps(one, ensure_ascii=False) for one in told]
        write_atomic(folder / FAILURES, "\n".join(failed) + "\n")
    if handed_in is not None:
        write_atomic(folder / handed_in[0], handed_in[1])
    result = {
        **facts,
        **({"submission": handed_in[0]} if handed_in is not None else {}),
        "count": len(evaluation.predictions),
        "metrics": evaluation.metrics,
        "failures": len(evaluation.failures),
        "seconds": round(evaluation.seconds, 3),
    }
    write_atomic(folder / RESULTS, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return result
