"""Contrast over all micro-batches of a step against one large batch: values, gradients, queue."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from openmplug.tasks import Progress
from openmplug.tasks.alignment import AlignmentTask
from tiny_tasks import captions, tiny_task, training_batch

SETTINGS: dict[str, dict[str, Any]] = {
    "in the batch": {"queue_size": 0, "alpha": 0.0},
    "with twin and queue": {"queue_size": 16, "alpha": 0.4, "momentum": 0.9},
}


def build(settings: dict[str, Any], **model: Any) -> AlignmentTask:
    task = tiny_task("retrieval", {"matching_weight": 0.0, "k_test": 0, **settings}, **model)
    assert isinstance(task, AlignmentTask)
    with torch.no_grad():  # a student that has left its twin behind
        for parameter in task.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    return task.train()


def gradients(task: AlignmentTask) -> dict[str, Tensor]:
    return {name: value.grad for name, value in task.model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("parts", [2, 4])
def test_small_batches_together_are_one_large_one(kind: str, parts: int) -> None:
    large, small = build(SETTINGS[kind]), build({**SETTINGS[kind], "contrast_accumulated": True})
    samples, progress = captions(), Progress(3, 1, 0.5)
    large.begin_step(progress)
    expected = large(training_batch(large, samples))
    expected.total.backward()
    large.end_step()

    size = len(samples) // parts
    batches = [training_batch(small, samples[first : first + size]) for first in range(0, len(samples), size)]
    small.begin_step(progress)
    small.look_ahead(iter(batches))
    for batch in batches:
        losses = small(batch)
        torch.testing.assert_close(losses.total.detach(), expected.total.detach())
        (losses.total / parts).backward()
        small.end_step()
    one, other = gradients(large), gradients(small)
    assert one.keys() == other.keys() and "contrastive.temperature" in one
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-6, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    states = large.training_state(), small.training_state()
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value)


def test_both_passes_drop_the_same_neurons_and_what_is_drawn_later_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    task = build({"queue_size": 0, "alpha": 0.0, "contrast_accumulated": True, "masked_words": 0.5}, dropout=0.3)
    seen: list[Tensor] = []
    encode = task._encode

    def kept(*arguments: Any) -> Any:
        result = encode(*arguments)
        seen.append(result[2].detach().clone())
        return result

    monkeypatch.setattr(task, "_encode", kept)
    batches = [training_batch(task, captions()[:4]), training_batch(task, captions()[4:])]
    task.look_ahead(batches)
    drawn = []
    for batch in batches:
        task(batch)
        drawn.append(torch.rand(3))
    assert torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3]) and not torch.equal(seen[0], seen[1])
    assert not torch.equal(*drawn)
