"""The evaluation loop and its files."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.tiny_run import TinyTask, fail, make_batch
from openmplug.batch import Batch, Prediction
from openmplug.device import autocast, choose_device, choose_precision, flushed_denormals
from openmplug.engine.evaluator import Evaluation, evaluate_task, prediction_record, write_evaluation
from openmplug.engine.tracking import read_lines
from openmplug.errors import DataError, EnvironmentProblem, UsageError

CPU = torch.device("cpu")


def split(failures: int = 0) -> Iterator[Batch]:
    for first in range(0, 200, 8):
        batch = make_batch(range(first, first + 8))
        yield fail(batch, 1) if first // 8 < failures else batch


def test_predictions_come_in_order_and_leave_no_trace() -> None:
    task = TinyTask().train()
    random_state = torch.get_rng_state()
    handed_out: list[int] = []
    found = evaluate_task(task, split(), device=CPU, advance=handed_out.append)
    assert [one.id for one in found.predictions] == [str(number) for number in range(200)]
    assert found.metrics.keys() == {"accuracy"} and found.failures == [] and sum(handed_out) == 200
    assert task.training and torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in task.model.parameters())


def test_unreadable_inputs_follow_the_policy() -> None:
    with pytest.raises(DataError, match=r"image '0.jpg' is truncated \(record '0'\); mend or remove it, or set data.on_error=skip"):
        evaluate_task(TinyTask(), split(1), device=CPU)
    found = evaluate_task(TinyTask(), split(1), device=CPU, on_error="skip")
    assert [one.id for one in found.predictions] == [str(number) for number in range(1, 200)]
    assert [one.name for one in found.failures] == ["0.jpg"]
    with pytest.raises(DataError, match=r"3 of 104 inputs could not be read, more than 1%; the last was record '16'"):
        evaluate_task(TinyTask(), split(3), device=CPU, on_error="skip")


def test_nothing_readable_is_an_error() -> None:
    with pytest.raises(DataError, match="none of the 4 inputs could be read"):
        evaluate_task(TinyTask(), [fail(make_batch(range(4)), 4)], device=CPU, on_error="skip")


def test_out_of_memory_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TinyTask()

    def full(batch: Batch) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(task, "predict", full)
    with pytest.raises(EnvironmentProblem, match=r"out of memory in evaluation: batch of 8 .* lower run.evaluate_batch_size"):
        evaluate_task(task, split(), device=CPU)


def test_the_files(tmp_path: Path) -> None:
    found = evaluate_task(TinyTask(), split(1), device=CPU, on_error="skip")
    result = write_evaluation(tmp_path / "out", found, {"split": "dev", "model_hash": "0" * 64})
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == result
    assert result["count"] == 199 and result["failures"] == 1 and result["metrics"] == found.metrics and result["split"] == "dev"
    lines = read_lines(tmp_path / "out/predictions.jsonl")
    assert lines[0] == {"id": "1", "text": found.predictions[0].text, "score": 1.0, "references": ["1"], "image": "1.jpg"}
    assert read_lines(tmp_path / "out/failures.jsonl")[0] == {"id": "0", "name": "0.jpg", "reason": "image '0.jpg' is truncated"}
    write_evaluation(tmp_path / "out", Evaluation({}, found.predictions), {})
    assert not (tmp_path / "out/failures.jsonl").exists()


def test_fields_of_a_task_never_hide_the_fixed_ones() -> None:
    record = prediction_record(Prediction("1", "yes", extra={"text": "a field of the data", "question": "?"}))
    assert record["text"] == "yes" and record["question"] == "?"


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(EnvironmentProblem, match=r"disk full while writing '.*predictions.jsonl'"):
        write_evaluation(tmp_path, Evaluation({}, []), {})
    assert list(tmp_path.iterdir()) == []


def test_devices_and_precisions() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto") == choose_device(None)
    assert choose_precision(None, CPU) == "fp32"
    assert choose_precision("bf16", CPU) == "bf16"
    with pytest.raises(UsageError, match="unknown device 'gpu'; one of auto, cpu, cuda"):
        choose_device("gpu")
    with pytest.raises(UsageError, match="unknown device 'meta'"):
        choose_device("meta")
    with pytest.raises(UsageError, match="unknown dtype 'float'; one of auto, fp32, bf16, fp16"):
        choose_precision("float", CPU)
    if not torch.cuda.is_available():
        with pytest.raises(EnvironmentProblem, match=r"device 'cuda' is not available here; found: .*cpu"):
            choose_device("cuda")
    with autocast(CPU, "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.bfloat16
    with autocast(CPU, "fp32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32


def test_metrics_are_plain_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TinyTask()
    scores: dict[str, Any] = {"accuracy": torch.tensor(0.5)}
    monkeypatch.setattr(task, "score", lambda predictions: scores)
    assert evaluate_task(task, split(), device=CPU).metrics == {"accuracy": 0.5}


def test_denormals_are_flushed_inside_the_block_only() -> None:
    small = torch.full((3,), 1e-38)
    with flushed_denormals():
        if not torch.set_flush_denormal(True):
            pytest.skip("this CPU cannot flush denormals")
        assert (small * 0.1).count_nonzero() == 0
    assert (small * 0.1).count_nonzero() == 3
