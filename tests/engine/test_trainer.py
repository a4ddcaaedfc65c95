"""The training loop: resuming bit for bit, stopping, failing, saving."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine import tiny_run
from engine.tiny_run import batches, fail, make_trainer, spoiled
from openmplug.batch import Batch
from openmplug.checkpoints import store
from openmplug.engine.guards import LossWatch
from openmplug.engine.tracking import read_lines
from openmplug.errors import DataError, EnvironmentProblem, ModelError

# What the clock says differs from run to run; everything else must not.
CLOCK = {"seconds", "examples_per_second"}


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key not in CLOCK} for record in read_lines(folder / "metrics.jsonl")]


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, twin, queue, moments, random state and log of two runs are equal, bit for bit."""
    for checkpoint in ("checkpoint-last", "checkpoint-best"):
        for name in ("model.safetensors", *(["training.safetensors"] if checkpoint == "checkpoint-last" else [])):
            a, b = load_file(one / checkpoint / name), load_file(other / checkpoint / name)
            assert a.keys() == b.keys()
            assert [key for key in a if not torch.equal(a[key], b[key])] == []
    assert log_of(one) == log_of(other)
    states = [json.loads((folder / "checkpoint-last/training.json").read_text()) for folder in (one, other)]
    for state in states:
        del state["seconds"], state["logs"]
    assert states[0] == states[1]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    result = make_trainer(folder).fit()
    assert result["stopped"] is None and result["step"] == 15 and result["epoch"] == 3 and result["examples"] == 120
    return folder


def test_a_run_learns_logs_and_saves(unbroken: Path) -> None:
    records = log_of(unbroken)
    train = [record for record in records if record["kind"] == "train"]
    assert [record["step"] for record in train] == [3, 6, 9, 12, 15]
    assert train[-1]["loss"] < train[0]["loss"]
    assert train[0]["loss"] == pytest.approx(train[0]["loss_hard"] + train[0]["loss_match"], rel=1e-5)
    assert {"lr", "vision_lr", "grad_norm", "epoch"} <= train[0].keys()
    validation = [record for record in records if record["kind"] == "validation"]
    assert [record["epoch"] for record in validation] == [1, 2, 3] and validation[-1]["accuracy"] > 0.8
    assert (unbroken / "checkpoint-best/validation.json").is_file()
    assert not (unbroken / "checkpoint-best/training.json").exists()
    assert not (unbroken / "failures.jsonl").exists()


@pytest.mark.parametrize("stops", [[1], [4, 5, 13], list(range(1, 15))])
def test_a_resumed_run_equals_an_unbroken_one(unbroken: Path, tmp_path: Path, stops: list[int]) -> None:
    for number, stop in enumerate(stops):
        assert make_trainer(tmp_path, max_steps=stop).fit(resume=number > 0)["stopped"] == f"run.max_steps={stop} reached"
    assert make_trainer(tmp_path).fit(resume=True)["stopped"] is None
    assert_same_run(unbroken, tmp_path)


def test_saving_and_validating_do_not_change_what_is_learned(unbroken: Path, tmp_path: Path) -> None:
    make_trainer(tmp_path, save_every_steps=1, validate_every=0).fit()
    a, b = (load_file(folder / "checkpoint-last/training.safetensors") for folder in (unbroken, tmp_path))
    assert all(torch.equal(a[key], b[key]) for key in a)


def run_program(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    source = Path(store.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(source), str(Path(__file__).parents[1])]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, tiny_run.__file__, str(folder), *more]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    state = folder / "checkpoint-last/training.json"
    for _ in range(3000):
        try:
            if json.loads(state.read_text())["step"] >= step:
                return
        except OSError:  # not there yet, or in the middle of the swap
            pass
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.01)
    raise AssertionError("the program does not get anywhere")


def test_a_killed_run_is_resumed_bit_for_bit(unbroken: Path, tmp_path: Path) -> None:
    process = run_program(tmp_path)
    wait_for_step(tmp_path, 6, process)
    process.kill()
    process.communicate()
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"] >= 6
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 99, "lo')  # a line that the kill cut short
    make_trainer(tmp_path).fit(resume=True)
    assert_same_run(unbroken, tmp_path)


def test_sigterm_saves_and_ends_cleanly(unbroken: Path, tmp_path: Path) -> None:
    process = run_program(tmp_path)
    wait_for_step(tmp_path, 2, process)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=30)
    assert process.returncode == 0 and b"SIGTERM received" in out, error.decode()
    make_trainer(tmp_path).fit(resume=True)
    assert_same_run(unbroken, tmp_path)


def test_a_signal_while_validating_puts_the_validation_off(unbroken: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    validate = trainer.validate
    assert validate is not None

    def interrupted(*arguments: Any) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGINT)
        return validate(*arguments)

    trainer.validate = interrupted
    assert trainer.fit()["stopped"] == "SIGINT received"
    assert [record["kind"] for record in log_of(tmp_path)] == ["train"]
    make_trainer(tmp_path).fit(resume=True)
    assert_same_run(unbroken, tmp_path)


def test_max_minutes_stops_and_saves(tmp_path: Path) -> None:
    result = make_trainer(tmp_path, max_minutes=1e-9).fit()
    assert result["stopped"] == "run.max_minutes=1e-09 reached" and result["step"] == 1
    assert (tmp_path / "checkpoint-last/model.safetensors").is_file()


def test_resuming_before_anything_was_saved_starts_from_the_beginning(unbroken: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 3}\n')
    make_trainer(tmp_path).fit(resume=True)
    assert_same_run(unbroken, tmp_path)


def test_resuming_a_finished_run_does_nothing(unbroken: Path) -> None:
    before = log_of(unbroken)
    assert make_trainer(unbroken).fit(resume=True)["step"] == 15
    assert log_of(unbroken) == before


def test_progress_and_accumulation(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, accumulation=4, epochs=1)
    assert trainer.fit()["step"] == 3  # 4 + 4 + 2 micro-batches
    seen = trainer.task.progress  # type: ignore[attr-defined]
    assert [(one.step, one.epoch) for one in seen] == [(0, 0)] * 4 + [(1, 0)] * 4 + [(2, 0)] * 2
    assert [one.fraction for one in seen] == pytest.approx([number / 10 for number in range(10)])


def test_accumulation_gives_the_mean_gradient(tmp_path: Path) -> None:
    def gradient(accumulation: int) -> torch.Tensor:
        trainer = make_trainer(tmp_path / str(accumulation), accumulation=accumulation, clip_norm=None, validate_every=0, epochs=1)
        trainer.task.model.drop.p = 0.0  # type: ignore[attr-defined]
        caught: list[torch.Tensor] = []
        original = trainer.optimizer.step

        def step(*arguments: Any, **named: Any) -> Any:
            caught.append(trainer.parameters[0].grad.clone())  # type: ignore[union-attr]
            return original(*arguments, **named)

        trainer.optimizer.step = step  # type: ignore[method-assign]
        trainer.task.begin_step = lambda progress: None  # type: ignore[method-assign]
        trainer.task.end_step = lambda: None  # type: ignore[method-assign]
        trainer.optim = trainer.optim.model_copy(update={"accumulation": accumulation})
        trainer.schedule = lambda position, base: 0.0
        for group in trainer.optimizer.param_groups:
            group["weight_decay"] = 0.0
        trainer.fit()
        return torch.stack(caught).mean(0)

    torch.testing.assert_close(gradient(1), gradient(10), atol=3e-3, rtol=0)  # the noise in the task's forward is 1e-2


# --------------------------------------------------------------------------------------------------------------- failures


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    def poison(epoch: int, iteration: int, batch: Batch) -> Batch:
        return replace(batch, images=batch.images * float("nan")) if (epoch, iteration) == (1, 3) else batch  # type: ignore[operator]

    trainer = make_trainer(tmp_path, source=spoiled(poison), save_every_steps=1)
    with pytest.raises(ModelError, match=r"loss is nan at step 6; the samples are in '.*nonfinite.json', the last good checkpoint is kept"):
        trainer.fit()
    record = json.loads((tmp_path / "nonfinite.json").read_text())
    ids = [sample.id for sample in list(batches(1, 0))[3].samples]
    assert record["batches"] == [{"step": 6, "epoch": 1, "iteration": 3, "ids": ids}]
    assert json.loads((tmp_path / "checkpoint-last/training.json").read_text())["step"] == 6
    weights = load_file(tmp_path / "checkpoint-last/model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_a_gradient_that_is_not_finite_stops_before_the_step(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.task.model.vision.weight.register_hook(lambda gradient: gradient * float("inf"))  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=r"gradient norm is (nan|inf) at step 0"):
        trainer.fit()
    assert len(json.loads((tmp_path / "nonfinite.json").read_text())["batches"]) == 2  # both micro-batches of the step
    assert torch.isfinite(trainer.parameters[0]).all()


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.fit()
    trainer.parameters[0].data[0, 0] = float("inf")
    with pytest.raises(ModelError, match="the norm of the weights is inf"):
        trainer.save()
    assert json.loads((tmp_path / "checkpoint-last/training.json").read_text())["step"] == 2


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()]
)
def test_out_of_memory_names_what_helps(tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(tmp_path)

    def full(batch: Batch) -> None:
        raise error

    monkeypatch.setattr(trainer.task, "forward", full)
    expected = (
        r"out of memory at step 0: batch of 4 pictures of 1 x 2 x 3, fp32 on cpu; lower optim.batch_size_per_device .*,"
        r" or set run.gradient_checkpointing=true or a smaller model.image_size"
    )
    with pytest.raises(EnvironmentProblem, match=expected):
        trainer.fit()


def test_other_errors_are_not_taken_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(tmp_path)

    def broken(batch: Batch) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(trainer.task, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        trainer.fit()


def test_an_unreadable_picture_stops_the_run(tmp_path: Path) -> None:
    source = spoiled(lambda epoch, iteration, batch: fail(batch, 1) if iteration == 2 else batch)
    with pytest.raises(DataError, match=r"image '\d+.jpg' is truncated \(record '\d+'\); mend or remove it, or set data.on_error=skip"):
        make_trainer(tmp_path, source=source).fit()


def test_unreadable_pictures_are_skipped_counted_and_logged(tmp_path: Path) -> None:
    source = spoiled(lambda epoch, iteration, batch: fail(batch, 1) if (epoch, iteration) == (0, 2) else batch)
    make_trainer(tmp_path / "a", source=source, on_error="skip").fit()
    make_trainer(tmp_path / "b", source=source, on_error="skip", max_steps=7).fit()
    result = make_trainer(tmp_path / "b", source=source, on_error="skip").fit(resume=True)
    assert result["failures"] == 1 and result["examples"] == 119
    lines = read_lines(tmp_path / "b/failures.jsonl")
    assert len(lines) == 1 and lines[0]["epoch"] == 0 and lines[0]["name"].endswith(".jpg") and "truncated" in lines[0]["reason"]
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_more_than_one_percent_unreadable_stops_the_run(tmp_path: Path) -> None:
    source = spoiled(lambda epoch, iteration, batch: fail(batch, 1) if iteration == 1 else batch)
    with pytest.raises(DataError, match=r"3 of 100 inputs could not be read, more than 1%; the last was record '\d+'"):
        make_trainer(tmp_path, source=source, on_error="skip", epochs=6).fit()


def test_a_batch_of_failures_only_is_passed_over(tmp_path: Path) -> None:
    source = spoiled(lambda epoch, iteration, batch: fail(batch, 4) if iteration in (2, 3) and epoch == 0 else batch)
    result = make_trainer(tmp_path, source=source, on_error="skip", epochs=2).fit()
    assert result["step"] == 9 and result["examples"] == 72 and result["failures"] == 8


def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on_later(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    trainer = make_trainer(tmp_path, save_every_steps=2)
    write, saved = store.save_file, []

    def sometimes(*arguments: Any, **named: Any) -> None:
        saved.append(1)
        (full if len(saved) > 4 else write)(*arguments, **named)

    monkeypatch.setattr(store, "save_file", sometimes)
    with pytest.raises(EnvironmentProblem, match=r"disk full while writing '.*checkpoint-last'"):
        trainer.fit()
    monkeypatch.undo()
    assert json.loads((tmp_path / "checkpoint-last/training.json").read_text())["step"] == 4
    make_trainer(tmp_path).fit(resume=True)
    assert_same_run(unbroken, tmp_path)


def test_a_checkpoint_of_another_model_is_not_resumed(tmp_path: Path) -> None:
    make_trainer(tmp_path, max_steps=1).fit()
    path = tmp_path / "checkpoint-last/training.safetensors"
    tensors = load_file(path)
    tensors["optimizer/vision.weight/exp_avg"] = torch.zeros(2, 2)
    store.save_tensors(path, tensors)
    with pytest.raises(ModelError, match=r"optimizer's state does not fit the model at 'vision.weight'"):
        make_trainer(tmp_path).fit(resume=True)
    del tensors["task/queue"]
    store.save_tensors(path, tensors)
    with pytest.raises(ModelError, match=r"missing \['queue'\].*resume with the recipe"):
        make_trainer(tmp_path).fit(resume=True)
    (path.parent / "training.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be resumed from"):
        make_trainer(tmp_path).fit(resume=True)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_and_resumes(tmp_path: Path, precision: str) -> None:
    make_trainer(tmp_path / "a", precision=precision).fit()
    make_trainer(tmp_path / "b", precision=precision, max_steps=7).fit()
    make_trainer(tmp_path / "b", precision=precision).fit(resume=True)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert json.loads((tmp_path / "a/checkpoint-last/training.json").read_text())["best"] > 0.8


def test_on_a_gpu_losses_are_looked_at_together_and_the_right_one_is_named(tmp_path: Path) -> None:
    watch = LossWatch(tmp_path, immediate=False)
    losses = [1.0, 2.0, float("nan"), float("nan")]
    for step, loss in enumerate(losses):
        watch.note(torch.tensor(loss), tiny_run.make_batch([step]), step, 0, step)
        watch.step_done()
    with pytest.raises(ModelError, match="loss is nan at step 2"):
        watch.look()
    assert json.loads((tmp_path / "nonfinite.json").read_text())["batches"][0]["ids"] == ["2"]
