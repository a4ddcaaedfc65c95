"""Weights in few bits: which layers, that no fast path goes past them, and how large the error is."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest
import torch
from torch import nn

from openmplug.errors import EnvironmentProblem, UsageError
from openmplug.models import quantize as quantizing
from openmplug.models.quantize import QuantizedLinear, quantize
from tiny_models import tiny_model
from tiny_tasks import captions, evaluation_batch, questions, random_task

torchao = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed ([export])")


def exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the layers be replaced as always, and keep their weights as they are."""
    monkeypatch.setattr(quantizing, "_recipe", lambda bits, device: lambda layer: layer)


@pytest.mark.parametrize("name", ["vqa", "caption"])
def test_every_path_goes_through_the_replaced_layers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide enough to be packed: with the same weights the answers are the same, and reading a weight would fail."""
    wide: Any = {"width": 768, "vision_width": 64, "intermediate": 800, "connected_layers": ()}
    task = random_task(name, {"num_beams": 2, "max_length": 5, "min_length": 1}, **wide)
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.mul_(0.2)
        batch = evaluation_batch(task, questions() if name == "vqa" else captions())
        before = task.predict(batch)
        exactly(monkeypatch)
        quantize(task.model, "int8")
        after = task.predict(batch)
    assert [one.text for one in before] == [one.text for one in after]
    assert [one.score for one in before] == pytest.approx([one.score for one in after], abs=1e-4)
    left = {path for path, module in task.model.named_modules() if isinstance(module, nn.Linear) and not path.endswith(".linear")}
    assert not left
    assert sum(isinstance(module, QuantizedLinear) for module in task.model.modules()) > 20


def test_heads_and_tables_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    exactly(monkeypatch)
    quantize(model, "int8")
    assert type(model.contrastive.vision) is nn.Linear and type(model.matching.linear) is nn.Linear
    assert type(model.decoder.embeddings.words.weight) is nn.Parameter
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_what_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="unknown quantisation 'int2'; one of int8, int4"):
        quantize(tiny_model(("decoder",)), "int2")
    with pytest.raises(UsageError, match="int4 runs on a CPU only, the model is on meta; take int8"):
        quantize(tiny_model(("decoder",)).to("meta"), "int4")
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(EnvironmentProblem, match=r"quantisation needs torchao .*; install it: pip install 'openmplug\[export\]'"):
        quantize(tiny_model(("decoder",)), "int8")


@torchao
@pytest.mark.parametrize(("bits", "error", "bytes_per_weight"), [("int8", 0.02, 1.2), ("int4", 0.12, 0.8)])
def test_the_error_is_that_of_the_bits(bits: str, error: float, bytes_per_weight: float) -> None:
    model = nn.Sequential(nn.Linear(256, 512))
    x = torch.randn(2, 5, 256)
    expected = model(x)
    quantize(model, bits)
    found = model(x)
    assert found.shape == expected.shape and found.dtype is torch.float32
    assert 1e-4 < (found - expected).norm() / expected.norm() < error
    weight = model[0].linear.weight
    stored = sum(tensor.untyped_storage().nbytes() for name in weight.tensor_data_names if (tensor := getattr(weight, name)) is not None)
    assert stored < bytes_per_weight * 256 * 512
    # A row's result does not depend on what else is in the batch.
    assert torch.allclose(model(x[1:]), found[1:], atol=1e-5)


@torchao
@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_a_quantised_model_answers(bits: str) -> None:
    task = random_task("vqa", {"num_beams": 1, "max_length": 5}, intermediate=64)
    batch = evaluation_batch(task, questions())
    with torch.no_grad():
        before = task.model.encode_images(batch.images)
        quantize(task.model, bits)
        after = task.model.encode_images(batch.images)
        assert all(isinstance(one.text, str) for one in task.predict(batch))
    assert 0 < (after - before).norm() / before.norm() < (0.05 if bits == "int8" else 0.4)
