"""Training of tiny tasks by several processes; what a test launches.

``python parallel_run.py FOLDER name=value ... [then name=value ...]`` does one case after the other, as one of the processes that
``RANK`` and ``WORLD_SIZE`` speak of; ``launch`` starts all of them.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openmplug import distributed
from openmplug.batch import Batch
from openmplug.checkpoints.store import save_weights
from openmplug.data.epochs import EpochSampler
from openmplug.engine.evaluator import evaluate_task
from openmplug.engine.optim import OptimSettings
from openmplug.engine.recipe import LoopSettings
from openmplug.engine.tracking import Advance, Display
from openmplug.engine.trainer import Trainer
from openmplug.tasks import Task, build_task
from tiny_models import SIZES, SIZES2
from tiny_tasks import captions, items, questions, tokenizer

EXAMPLES, BATCH, EPOCHS = 16, 4, 5  # 20 steps

TASKS: dict[str, dict[str, Any]] = {
    "caption": {"num_beams": 1, "min_length": 1, "max_length": 6},
    "vqa": {"num_beams": 1, "max_length": 4},
    # The matching loss draws its negatives: only without it two processes do what one does.
    "contrast": {"queue_size": 0, "alpha": 0.0, "matching_weight": 0.0, "k_test": 0},
    "queue": {"queue_size": 12, "alpha": 0.4, "matching_weight": 0.0, "k_test": 0, "temperature_range": (0.001, 0.5)},
}
for kind in ("contrast", "queue"):
    TASKS[f"{kind}-ahead"] = {**TASKS[kind], "contrast_accumulated": True}


def build(folder: Path, case: Mapping[str, str]) -> Trainer:
    """Make the trainer of a case: ``task``, ``family``, and any of the loop's and the optimizer's settings."""
    settings = dict(case)
    name, slow = settings.pop("task"), float(settings.pop("slow", 0))
    model = SIZES2 if settings.pop("family", "mplug") == "mplug2" else SIZES
    retrieval = name.startswith(("contrast", "queue"))
    size = int(settings.pop("batch", BATCH))
    torch.manual_seed(0)
    task = build_task("retrieval" if retrieval else name, model, tokenizer(), TASKS[name], training=True)
    records = questions() if name == "vqa" else captions()
    examples = [replace(one, id=f"{one.id}/{again}") for again in range(EXAMPLES // 8) for one in task.examples(records)]
    processes = distributed.world_size()
    sampler = EpochSampler(EXAMPLES, size // processes, seed=3, rank=distributed.rank(), world_size=processes)
    loop = {"device": "cpu", "log_every": 1, "curves": False, "log_ids": True, "threads": 1, "validate_every": EPOCHS}
    optim = {"lr": 2e-3, "epochs": EPOCHS, "batch_size_per_device": size // processes, "warmup_steps": 3, "eps": 1e-4}
    for key, value in settings.items():
        is_json = value[0].isdigit() or value in ("true", "false")
        (optim if key in OptimSettings.model_fields else loop)[key] = json.loads(value) if is_json else value

    def batches(epoch: int, start: int) -> Iterator[Batch]:
        sampler.set_epoch(epoch, start)
        for keys in sampler:
            time.sleep(slow)
            yield task.collator(training=True)(items([examples[index] for _, index in keys]))

    def validate(task: Task, advance: Advance) -> dict[str, float]:
        low, high = (len(records) * part // processes for part in (distributed.rank(), distributed.rank() + 1))
        mine = records if retrieval else records[low:high]
        batch = task.collator(training=False)(items(mine))
        return evaluate_task(task, [batch], device=torch.device("cpu"), advance=advance, shared=not retrieval and processes > 1).metrics

    def write_model(target: Path, weights: Mapping[str, Tensor]) -> None:
        save_weights(target, weights, {"task": name})

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(11)
    random.seed(11)
    return Trainer(
        task,
        batches,
        sampler.batches_per_epoch,
        optim=OptimSettings.model_validate(optim),
        loop=LoopSettings.model_validate(loop),
        folder=folder,
        device=torch.device("cpu"),
        write_model=write_model,
        validate=validate,
        display=Display(quiet=True),
    )


def run(folder: Path, arguments: Sequence[str]) -> None:
    """Do every case; its folder is ``FOLDER/<name>``."""
    cases = [dict(word.split("=", 1) for word in group.split()) for group in " ".join(arguments).split(" then ")]
    with distributed.joined(torch.device("cpu"), timeout_minutes=3.0):
        for case in cases:
            name, resume = case.pop("name"), case.pop("resume", "") == "yes"
            result = build(folder / name, case).fit(resume=resume)
            if distributed.is_main():
                (folder / name / "result.json").write_text(json.dumps(result))


def launch(processes: int, folder: Path, *cases: str) -> list[subprocess.Popen[str]]:
    """Start the processes of a run of several cases, each ``"name=... task=... key=value"``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = Path(__file__).resolve()
    path = os.pathsep.join([str(here.parents[2] / "src"), str(here.parents[1])])
    world = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, str(here), str(folder), *" then ".join(cases).split()]
    return [
        subprocess.Popen(
            command,
            env={**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]


def finish(started: Sequence[subprocess.Popen[str]], codes: Sequence[int] | None = None) -> list[str]:
    """Wait for all processes, check how they ended and return what each said on stderr."""
    said = [process.communicate(timeout=900)[1] for process in started]
    ended = [process.returncode for process in started]
    assert ended == list(codes or [0] * len(ended)), "\n".join(said)
    return said


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.modules["torch.utils.tensorboard"] = None  # type: ignore[assignment]  # takes longer to import than all there is to do here
    from openmplug.errors import OpenmplugError

    try:
        run(Path(sys.argv[1]), sys.argv[2:])
    except OpenmplugError as error:
        if not error.told:
            print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
