"""Gradient checkpointing: the same losses and gradients to the last bit, less kept."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from openmplug.engine.recompute import recompute_layers
from openmplug.models.decoder import DecoderMemory
from openmplug.models.layers import KeyValueCache, KeyValues
from openmplug.tasks import build_task
from openmplug.tasks.base import Task
from tiny_models import SIZES2, randomise, tiny_decoder
from tiny_tasks import captions, questions, tiny_task, tokenizer, training_batch

SAMPLES = {"vqa": questions, "caption": captions, "retrieval": captions}
SETTINGS = {"vqa": {}, "caption": {"max_length": 20}, "retrieval": {"queue_size": 16}}


def step(task: Task, name: str, frames: int = 0) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
    """One training step with dropout; returns loss, gradients and how many numbers were kept for the backward pass."""
    batch, kept = training_batch(task, SAMPLES[name]()), [0]
    if frames:
        assert batch.images is not None
        batch = replace(batch, images=torch.randn(len(batch.images), frames, 3, 16, 16, generator=torch.Generator().manual_seed(1)))

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[0] += tensor.numel()
        return tensor

    task.train()
    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = task(batch).total
    loss.backward()
    return loss.detach(), {key: p.grad for key, p in task.model.named_parameters() if p.grad is not None}, kept[0]


@pytest.mark.parametrize("name", SAMPLES)
def test_losses_and_gradients_are_the_same(name: str) -> None:
    plain = tiny_task(name, SETTINGS[name], dropout=0.2, attention_dropout=0.2, vision_dropout=0.2)
    recomputed = copy.deepcopy(plain)
    recompute_layers(recomputed.model, True)
    (loss, gradients, kept), (again, same, kept_again) = step(plain, name), step(recomputed, name)
    assert torch.equal(loss, again)
    assert gradients.keys() == same.keys()
    assert all(torch.equal(gradients[key], same[key]) for key in gradients)
    # Non-reentrant checkpointing holds nothing inside a layer; what is kept is between the layers.
    assert kept_again < kept / 2


@pytest.mark.parametrize("name", ["vqa", "caption"])
def test_clips_too(name: str) -> None:
    """mPLUG-2's temporal modules are computed again inside the tower's layers, its universal layers for words and for clips."""
    torch.manual_seed(0)
    sizes = {**SIZES2, "temporal_stride": 2, "dropout": 0.2, "attention_dropout": 0.2}
    plain = build_task(name, sizes, tokenizer(), SETTINGS[name], training=True, clips=True)
    randomise(plain.model, std=0.1)
    recomputed = copy.deepcopy(plain)
    recompute_layers(recomputed.model, True)
    first, second = step(plain, name, frames=5), step(recomputed, name, frames=5)
    assert torch.equal(first[0], second[0])
    assert {"temporal", "universal"} <= {key.split(".")[0] for key in first[1]}
    assert all(torch.equal(first[1][key], second[1][key]) for key in first[1])
    assert second[2] < first[2] / 2


def test_names_and_copies_stay_as_they_were() -> None:
    task = tiny_task("vqa")
    names = list(task.state_dict())
    recompute_layers(task.model, ["vision", "decoder"])
    assert list(task.state_dict()) == names
    copied = copy.deepcopy(task)
    for parameter in copied.parameters():
        torch.nn.init.zeros_(parameter)
    loss, _, _ = step(task, "vqa")
    assert not torch.equal(loss, step(copied, "vqa")[0])  # a copy computes with its own weights


def test_only_the_parts_asked_for_are_recomputed() -> None:
    kept = {}
    for parts in (False, ("text",), ("text", "vision"), True):
        task = tiny_task("vqa")
        recompute_layers(task.model, parts)
        kept[parts] = step(task, "vqa")[2]
    assert kept[False] > kept["text",] > kept["text", "vision"] > kept[True]


def test_decoding_with_a_cache_is_left_alone() -> None:
    decoder = tiny_decoder().train()
    memory = DecoderMemory([KeyValues(torch.randn(2, 4, 3, 8), torch.randn(2, 4, 3, 8)) for _ in decoder.layers], None)
    holder = torch.nn.Module()
    holder.decoder = decoder
    recompute_layers(holder, True)
    state = decoder.start(memory, 2, 4)
    assert all(isinstance(cache, KeyValueCache) for cache in state.caches)
    with torch.enable_grad():
        hidden = decoder.step(torch.tensor([[104], [105]]), state)
    assert hidden.requires_grad and state.length == 1
