"""A task of a few numbers with everything that makes resuming hard: dropout, a twin, a queue, losses of two parts.

Run as a program it trains, so that a test can kill it: ``python tiny_run.py FOLDER [key=value ...]``.
"""

from __future__ import annotations

import copy
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openmplug.batch import Batch, Failure, Item, Losses, Prediction, Sample
from openmplug.checkpoints.store import save_weights
from openmplug.config import Settings
from openmplug.engine.optim import OptimSettings
from openmplug.engine.recipe import LoopSettings
from openmplug.engine.tracking import Display
from openmplug.engine.trainer import Trainer
from openmplug.tasks.base import Progress, Task

EXAMPLES, BATCH = 40, 4


class TinyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vision = nn.Linear(6, 8)
        self.drop = nn.Dropout(0.3)
        self.decoder = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.drop(self.vision(x).tanh()))


class TinyTask(Task):
    Settings = Settings
    model_modules = ("vision", "decoder")
    metric = "accuracy"

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.model: Any = TinyModel()
        self.twin = copy.deepcopy(self.model).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(12, 2))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.int64))
        self.queue: Tensor
        self.pointer: Tensor
        self.progress: list[Progress] = []
        self.pending: Tensor | None = None

    def collator(self, training: bool) -> Any:
        raise NotImplementedError

    def begin_step(self, progress: Progress) -> None:
        self.progress.append(progress)
        with torch.no_grad():
            for mine, theirs in zip(self.twin.parameters(), self.model.parameters(), strict=True):
                mine.lerp_(theirs, 0.1)

    def end_step(self) -> None:
        assert self.pending is not None
        rows = (self.pointer + torch.arange(len(self.pending))) % len(self.queue)
        self.queue[rows] = self.pending
        self.pointer += len(self.pending)

    def forward(self, batch: Batch) -> Losses:
        assert batch.images is not None
        x = batch.images.flatten(1)[:, :6]
        labels = torch.tensor([int(sample.id) % 2 for sample in batch.samples], device=x.device)
        logits = self.model(x + random.random() * 1e-2)  # Python's generator matters too
        with torch.no_grad():
            soft = self.twin(x)
        self.pending = soft.float()
        hard = nn.functional.cross_entropy(logits, labels)
        match = (logits - soft).square().mean() + 0.01 * (logits.mean(0) - self.queue.mean(0).to(logits.dtype)).square().sum()
        return Losses(hard + match, {"hard": hard.detach(), "match": match.detach()})

    def predict(self, batch: Batch) -> list[Prediction]:
        assert batch.images is not None and not torch.is_grad_enabled() and not self.training
        right = self.model(batch.images.flatten(1)[:, :6]).argmax(1)
        return [
            Prediction(sample.id, str(int(label)), 1.0, (str(int(sample.id) % 2),), {"image": sample.image})
            for sample, label in zip(batch.samples, right, strict=True)
        ]

    def score(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        torch.rand(3)  # whatever is drawn here must not change the training
        return {"accuracy": sum(one.text in one.references for one in predictions) / len(predictions)}


def make_batch(numbers: Sequence[int]) -> Batch:
    def pixels(number: int) -> Tensor:
        return torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(number)) + (number % 2)

    samples = [Sample(id=str(number), image=f"{number}.jpg") for number in numbers]
    return Batch(samples, images=torch.stack([pixels(number) for number in numbers]))


def batches(epoch: int, start: int) -> Iterator[Batch]:
    torch.rand(1)  # a loader may draw a seed when it starts
    order = torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(epoch)).tolist()
    for first in range(start * BATCH, EXAMPLES, BATCH):
        yield make_batch(order[first : first + BATCH])


def spoiled(change: Callable[[int, int, Batch], Batch], every: Callable[[int, int], Iterator[Batch]] = batches) -> Any:
    """Batches with some of them changed: ``change(epoch, iteration, batch)``."""

    def changed(epoch: int, start: int) -> Iterator[Batch]:
        for iteration, batch in enumerate(every(epoch, start), start):
            yield change(epoch, iteration, batch)

    return changed


def fail(batch: Batch, count: int) -> Batch:
    """The same batch with the first ``count`` pictures unreadable."""
    assert batch.images is not None
    failures = tuple(Failure(sample.id, str(sample.image), f"image '{sample.image}' is truncated") for sample in batch.samples[:count])
    return replace(batch, samples=batch.samples[count:], images=batch.images[count:], failures=failures)


def items(batch: Batch) -> list[Item]:
    assert batch.images is not None
    return [Item(sample, pixels) for sample, pixels in zip(batch.samples, batch.images, strict=True)]


def make_trainer(folder: Path, *, source: Any = batches, on_error: str = "error", **settings: Any) -> Trainer:
    """A trainer of 3 epochs of 10 micro-batches; ``settings`` go to ``OptimSettings`` and ``LoopSettings``."""
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    task = TinyTask()
    optim = {"lr": 2e-2, "epochs": 3, "batch_size_per_device": BATCH, "warmup_steps": 3, "accumulation": 2}
    loop = {"device": "cpu", "log_every": 3, "curves": False}
    for name, value in settings.items():
        (optim if name in OptimSettings.model_fields else loop)[name] = value

    def validate(task: Task, advance: Any) -> dict[str, float]:
        task.eval()
        with torch.no_grad():
            predictions = task.predict(make_batch(range(100, 120)))
        advance(20)
        return task.score(predictions)

    def write_model(target: Path, weights: Mapping[str, Tensor]) -> None:
        save_weights(target, weights, {"task": "tiny"})

    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(
        task,
        source,
        EXAMPLES // BATCH,
        optim=OptimSettings.model_validate(optim),
        loop=LoopSettings.model_validate(loop),
        folder=folder,
        device=torch.device("cpu"),
        write_model=write_model,
        on_error=on_error,
        validate=validate,
        validate_count=20,
        display=Display(quiet=True),
    )


def slowly(epoch: int, iteration: int, batch: Batch) -> Batch:
    time.sleep(0.03)
    return batch


if __name__ == "__main__":
    torch.set_num_threads(1)
    trainer = make_trainer(Path(sys.argv[1]), source=spoiled(slowly), save_every_steps=1)
    print("started", flush=True)
    print(trainer.fit(resume="resume" in sys.argv[2:])["stopped"], flush=True)
