"""Two and four processes against one: losses, weights, samples, checkpoints; and what happens when one of them fails or is killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.parallel_run import TASKS, build, finish, launch
from engine.test_run import recipe, write_data
from openmplug.config import dump_yaml
from openmplug.engine.tracking import read_lines
from openmplug.errors import UsageError

NOISE = 2e-5  # fp32, after 20 steps; AdamW's eps is 1e-4 here, so that gradients of nothing but noise move nothing


def losses(folder: Path) -> list[float]:
    """The loss of every step."""
    lines = [line for line in read_lines(folder / "metrics.jsonl") if line["kind"] == "train"]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


def samples(folder: Path) -> list[Any]:
    """Which samples each micro-batch held."""
    return [(line["step"], line["ids"]) for line in read_lines(folder / "samples.jsonl")]


def assert_same_run(one: Path, other: Path, noise: float = NOISE) -> None:
    assert samples(one) == samples(other)
    assert losses(other) == pytest.approx(losses(one), abs=10 * noise, rel=noise)
    a, b = (load_file(folder / "checkpoint-last" / "model.safetensors") for folder in (one, other))
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, atol=noise, rtol=noise, msg=lambda text, name=name: f"{name}: {text}")
    best, found = (json.loads((folder / "checkpoint-best" / "validation.json").read_text())["metrics"] for folder in (one, other))
    assert found == pytest.approx(best, abs=1e-3)


def alone(folder: Path, **case: str) -> Path:
    """Run a case in this process."""
    resume = case.pop("resume", "") == "yes"
    build(folder, case).fit(resume=resume)
    return folder


# ------------------------------------------------------------------------------------------------- one quick launch of two


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launched")
    finish(
        launch(
            2,
            folder,
            "name=ddp task=caption parallel=ddp epochs=1",
            "name=fsdp task=queue family=mplug2 parallel=fsdp epochs=1",
            "name=part task=queue family=mplug2 parallel=fsdp epochs=1 max_steps=2",
        )
    )
    return folder


def test_two_copies_train_as_one_process_does(launched: Path, tmp_path: Path) -> None:
    assert_same_run(alone(tmp_path, task="caption", epochs="1"), launched / "ddp")


def test_two_pieces_train_as_one_process_does_and_their_run_goes_on_alone(launched: Path, tmp_path: Path) -> None:
    one = alone(tmp_path / "one", task="queue", family="mplug2", epochs="1")
    assert_same_run(one, launched / "fsdp")
    shutil.copytree(launched / "part", tmp_path / "part")
    with pytest.raises(UsageError, match=r"saved by 2 processes with batches of 2, together 4; 1 with batches of 2 .*per_device=4"):
        alone(tmp_path / "part", task="queue", family="mplug2", epochs="1", batch_size_per_device="2", resume="yes")
    assert_same_run(one, alone(tmp_path / "part", task="queue", family="mplug2", epochs="1", resume="yes"))


# ------------------------------------------------------------------------------------------------------- the whole matrix


@pytest.mark.slow
def test_twenty_steps_of_every_loss_in_copies_and_in_pieces(tmp_path: Path) -> None:
    kinds = {"ddp": "parallel=ddp", "fsdp": "parallel=fsdp", "hybrid": "parallel=hybrid shard_size=1", "accumulated": "accumulation=2"}
    tasks = [task for task in TASKS if not task.endswith("-ahead")]
    cases = [f"name={kind}-{task} task={task} {how}" for kind, how in kinds.items() for task in tasks]
    finish(launch(2, tmp_path, *cases))
    for task in tasks:
        one, accumulated = alone(tmp_path / task, task=task), alone(tmp_path / f"{task}-2", task=task, accumulation="2")
        assert len(losses(one)) == 20
        for kind in kinds:
            assert_same_run(accumulated if kind == "accumulated" else one, tmp_path / f"{kind}-{task}")


@pytest.mark.slow
def test_contrast_over_all_micro_batches_of_a_step_is_that_of_a_large_batch(tmp_path: Path) -> None:
    small = "batch=2 accumulation=2"
    finish(
        launch(
            2,
            tmp_path,
            *(
                f"name={kind}-{task} task={task}-ahead {small} parallel={kind}"
                for kind in ("ddp", "fsdp")
                for task in ("contrast", "queue")
            ),
        )
    )
    for task in ("contrast", "queue"):
        large = alone(tmp_path / task, task=task)
        for other in (
            alone(tmp_path / f"{task}-alone", task=f"{task}-ahead", batch="2", accumulation="2"),
            tmp_path / f"ddp-{task}",
            tmp_path / f"fsdp-{task}",
        ):
            assert losses(other) == pytest.approx(losses(large), abs=10 * NOISE)
            a, b = (load_file(folder / "checkpoint-last" / "model.safetensors") for folder in (large, other))
            for name, value in a.items():
                torch.testing.assert_close(b[name], value, atol=NOISE, rtol=NOISE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_run_of_two_goes_on_with_one_and_with_four(kind: str, tmp_path: Path) -> None:
    case = f"task=queue family=mplug2 parallel={kind}"
    finish(launch(2, tmp_path, f"name=part {case} max_steps=7", f"name=background {case} max_steps=7 save_in_background=true"))
    one = alone(tmp_path / "one", task="queue", family="mplug2")
    for name in ("on-1", "on-4"):
        shutil.copytree(tmp_path / "part", tmp_path / name)
    assert_same_run(one, alone(tmp_path / "on-1", task="queue", family="mplug2", resume="yes"))
    assert_same_run(one, alone(tmp_path / "background", task="queue", family="mplug2", resume="yes"))
    finish(launch(4, tmp_path, f"name=on-4 {case} resume=yes"))
    assert_same_run(one, tmp_path / "on-4")


@pytest.mark.slow
def test_half_precision_in_pieces_trains_and_resumes(tmp_path: Path) -> None:
    case = "task=contrast parallel=fsdp precision=bf16 gradient_checkpointing=true"
    finish(launch(2, tmp_path, f"name=whole {case}", f"name=parts {case} max_steps=9", f"name=parts {case} resume=yes"))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert losses(tmp_path / "whole") == pytest.approx(losses(alone(tmp_path / "one", task="contrast", precision="bf16")), rel=0.05)


# --------------------------------------------------------------------------------------------------------- ending and dying


def wait_for_step(folder: Path, step: int, started: list[subprocess.Popen[str]]) -> None:
    state = folder / "checkpoint-last" / "training.json"
    for _ in range(30_000):
        try:
            if json.loads(state.read_text())["step"] >= step:
                return
        except OSError:  # not there yet, or in the middle of the swap
            pass
        assert all(process.poll() is None for process in started), "\n".join(process.communicate()[1] for process in started)
        time.sleep(0.01)
    raise AssertionError("the run does not get anywhere")


def end(started: list[subprocess.Popen[str]]) -> list[str]:
    """Kill what still runs; return what each process said."""
    for process in started:
        process.kill()
    return [process.communicate()[1] for process in started]


@pytest.mark.slow
def test_kill_nine_of_one_or_all_ten_times_and_the_loss_curve_is_the_unbroken_one(tmp_path: Path) -> None:
    chance = random.Random(4)
    case = "task=queue family=mplug2 parallel=fsdp save_every_steps=1 slow=0.05"
    one = alone(tmp_path / "one", task="queue", family="mplug2")
    for attempt, step in enumerate(sorted(chance.sample(range(1, 19), 10))):
        started = launch(2, tmp_path, f"name=killed {case} resume=yes")
        wait_for_step(tmp_path / "killed", step, started)
        time.sleep(chance.random() * 0.3)
        if attempt % 2:
            end(started)
            continue
        victim = chance.randrange(2)
        started[victim].kill()
        said = started[1 - victim].communicate(timeout=120)[1]
        assert started[1 - victim].returncode in (0, 5), said  # 0: it had come to its end
        assert said.count("another process of this run ended") == (1 if started[1 - victim].returncode else 0)
        end(started)
    finish(launch(2, tmp_path, f"name=killed {case} resume=yes"))
    assert_same_run(one, tmp_path / "killed")


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_step_and_everything_is_saved(tmp_path: Path) -> None:
    case = "task=queue parallel=ddp slow=0.1 save_every_steps=1"
    started = launch(2, tmp_path, f"name=stopped {case}")
    wait_for_step(tmp_path / "stopped", 3, started)
    started[1].send_signal(signal.SIGTERM)
    finish(started)
    result = json.loads((tmp_path / "stopped/result.json").read_text())
    assert result["stopped"] == "SIGTERM received" and 3 <= result["step"] < 20
    assert json.loads((tmp_path / "stopped/checkpoint-last/training.json").read_text())["step"] == result["step"]
    assert_same_run(alone(tmp_path / "one", task="queue"), alone(tmp_path / "stopped", task="queue", resume="yes"))


# ----------------------------------------------------------------------------------------------------- the command itself


@pytest.mark.slow
def test_torchrun_starts_the_command_and_an_error_of_one_process_is_said_once(tmp_path: Path) -> None:
    data = write_data(tmp_path / "set", count=16)
    good = recipe(data, "retrieval", optim__batch_size_per_device=2, settings__matching_weight=0, settings__k_test=0)
    (tmp_path / "good.yaml").write_text(dump_yaml(good.model_dump(mode="json", exclude_defaults=True)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2] / "src")}

    def torchrun(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "openmplug", "train"]
        return subprocess.run([*command, str(tmp_path / "good.yaml"), *words], env=environment, capture_output=True, text=True, timeout=600)

    done = torchrun("--output", str(tmp_path / "run"), "run.parallel=fsdp")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained to step") == 1
    assert {"model.safetensors", "config.json", "vocab.txt", "state"} <= {
        item.name for item in (tmp_path / "run/checkpoint-last").iterdir()
    }
    spoiled = torchrun("--output", str(tmp_path / "run"))
    assert spoiled.returncode != 0 and spoiled.stderr.count("error: '") == 1 and "holds another run" in spoiled.stderr
    (data / "images" / "11.png").write_bytes(b"nothing")
    failed = torchrun("--output", str(tmp_path / "other"), "run.validate_every=0")
    assert failed.returncode != 0 and failed.stderr.count("mend or remove it, or set data.on_error=skip") == 1
