"""Tasks of a handful of records, small enough to be learned by heart within seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from openmplug.batch import Batch, Item, Sample
from openmplug.data.tokenizer import Tokenizer, build_vocabulary
from openmplug.tasks import Progress, Task, build_task
from tiny_models import SIZES, randomise

WORDS = (
    "what colour is the left right thing ? how many are there a red green blue round square small large ball box cup on under near of one "
    "two three yes no it they picture photo"
)


def tokenizer() -> Tokenizer:
    """Make a vocabulary in BERT's layout of every word the tests use."""
    return Tokenizer.from_vocab(build_vocabulary([WORDS], size=400, min_count=1))


def tiny_task(name: str, settings: dict[str, Any] | None = None, training: bool = True, seed: int = 0, **model: Any) -> Task:
    """Build a task with a fresh tiny model."""
    torch.manual_seed(seed)
    return build_task(name, {**SIZES, **model}, tokenizer(), settings or {}, training=training)


def random_task(name: str, settings: dict[str, Any] | None = None, training: bool = False, seed: int = 0, **model: Any) -> Task:
    """Build a task whose weights are large enough to matter, in eval mode."""
    task = tiny_task(name, settings, training, seed, **model)
    randomise(task.model, seed)
    for head in (task.model.contrastive,) if hasattr(task.model, "contrastive") else ():
        torch.nn.init.constant_(head.temperature, 0.07)
    return task.eval()


def items(samples: Sequence[Sample]) -> list[Item]:
    """Give every picture number its own noise of 16 x 16 pixels."""
    return [
        Item(sample, pixels=torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(1000 + max(sample.image_index, 0))))
        for sample in samples
    ]


def training_batch(task: Task, samples: Sequence[Sample]) -> Batch:
    """Make one training batch of all of the samples' examples."""
    return task.collator(training=True)(items(task.examples(samples)))


def evaluation_batch(task: Task, samples: Sequence[Sample]) -> Batch:
    """Make one evaluation batch."""
    return task.collator(training=False)(items(samples))


def memorise(task: Task, samples: Sequence[Sample], steps: int, rate: float = 4e-3) -> list[float]:
    """Train on all samples at once, as the engine does: hooks, loss, gradients clipped at 1, cosine to zero. Return the losses."""
    batch, losses = training_batch(task, samples), []
    optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    task.train()
    for step in range(steps):
        task.begin_step(Progress(step, epoch=step // 10, fraction=step % 10 / 10))
        loss = task(batch).total
        optimizer.zero_grad()
        loss.backward()
        task.end_step()
        torch.nn.utils.clip_grad_norm_([p for p in task.parameters() if p.grad is not None], 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    task.eval()
    return losses


def questions() -> list[Sample]:
    """Return 8 questions; each is asked about two pictures with different answers, so the words alone do not suffice."""
    asked = ["what colour is it ?", "what is on the left ?", "how many are there ?", "is it red ?"]
    answers = [("red", "blue"), ("a small ball", "box"), ("two", "three"), ("yes", "no")]
    samples = []
    for number, (question, pair) in enumerate(zip(asked, answers, strict=True)):
        for side, answer in enumerate(pair):
            index = 2 * number + side
            sample = Sample(str(index), f"{index}.jpg", question, (answer,), (1.0,), (answer,) * 10, index)
            samples.append(replace(sample, extra={"question_id": 500 + index}))
    return samples


def captions() -> list[Sample]:
    """Return 8 pictures with a caption each."""
    texts = [
        "a red ball on the left",
        "a red box on the right",
        "two small green cup near a ball",
        "the large blue box under a cup",
        "three round ball",
        "a square thing near the red cup",
        "one large cup",
        "the photo of a small blue thing",
    ]
    return [Sample(str(n), f"{n}.jpg", None, (text,), (), (text,), n) for n, text in enumerate(texts)]
