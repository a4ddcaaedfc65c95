"""Adapters beside our linear layers: every path through a layer has them in it, the fast ones too."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("peft")

from openmplug.models.adapted import adapt
from openmplug.models.layers import Attention, PostNormFeedForward, PreNormBlock
from openmplug.models.packing import Linear
from tiny_models import randomise


def adapted(module: nn.Module, scale: float = 6.0) -> nn.Module:
    """Put adapters that matter beside every linear layer."""
    adapt(module, [name for name, child in module.named_modules() if isinstance(child, nn.Linear)], 3, scale, 0.0)
    for name, parameter in module.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3)
    return module.eval()


def merged(layer: nn.Module, scale: float = 6.0) -> nn.Linear:
    """The ordinary layer that an adapted one must equal, written from the definition."""
    base, down, up = layer.base_layer, layer.lora_A["default"].weight, layer.lora_B["default"].weight
    plain = nn.Linear(base.in_features, base.out_features)
    plain.load_state_dict({"weight": base.weight + scale / 3 * up @ down, "bias": base.bias})
    return plain


def test_an_adapter_changes_nothing_at_first_and_learns_alone() -> None:
    block = randomise(PostNormFeedForward(8, 12, 0.0))
    x = torch.randn(2, 5, 8)
    before = block(x)
    adapt(block, ["expand", "contract"], rank=2, alpha=4.0, dropout=0.0)
    assert torch.equal(block(x), before)
    learning = {name for name, parameter in block.named_parameters() if parameter.requires_grad}
    assert learning == {f"{layer}.lora_{side}.default.weight" for layer in ("expand", "contract") for side in "AB"}


def test_the_feed_forward_paths_have_the_adapter_in_them() -> None:
    post, pre, x = adapted(randomise(PostNormFeedForward(8, 12, 0.0))), adapted(randomise(PreNormBlock(8, 2, 0.0))), torch.randn(2, 5, 8)
    expected = post.norm(x + merged(post.contract)(F.gelu(merged(post.expand)(x))))
    assert torch.allclose(post(x), expected, atol=1e-5)
    hidden = merged(pre.expand)(x)
    expected = merged(pre.contract)(hidden * torch.sigmoid(1.702 * hidden))
    assert torch.allclose(pre._quick_gelu_mlp(x), expected, atol=1e-5)


@pytest.mark.parametrize("first", ["packed", "adapted"])
def test_packed_weights_do_not_hide_an_adapter(first: str) -> None:
    attention = randomise(Attention(768, 4, 0.0), std=0.05)
    x = torch.randn(2, 5, 768)
    with torch.no_grad():
        if first == "packed":
            attention.pack(own=True)
            attention.project_self(x)
        adapted(attention)
        attention.pack(own=True)
        query, own = attention.project_self(x)
        for found, layer in ((query, attention.query), (own.keys, attention.key), (own.values, attention.value)):
            assert torch.allclose(found.transpose(1, 2).flatten(2), merged(layer)(x), atol=1e-3)
            assert not torch.allclose(found.transpose(1, 2).flatten(2), layer.base_layer(x), atol=1e-1)


def test_the_layer_beneath_is_packed() -> None:
    layer = adapted(nn.ModuleList([Linear(768, 768)]))[0]
    x = torch.randn(5, 768)
    with torch.no_grad():
        layer.pack()
        assert layer.base_layer.packed.usable(x, (layer.base_layer.weight, layer.base_layer.bias)) is not None
        assert torch.allclose(layer(x), merged(layer)(x), atol=1e-3)
        assert torch.allclose(layer.gelu(x), F.gelu(merged(layer)(x)), atol=1e-3)


def test_a_bf16_step_keeps_its_type() -> None:
    block = adapted(randomise(PreNormBlock(16, 2, 0.0))).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = block.expand(torch.randn(2, 5, 16))
    assert found.dtype is torch.bfloat16
