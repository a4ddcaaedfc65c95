"""Attention maps: the same numbers as from weights that are computed in the open, nothing left behind, the way back through latents."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from openmplug.models import layers as layers_module
from openmplug.models.attention_maps import AttentionProbe, through_universal
from openmplug.models.network import Network
from tiny_models import random_ids, right_padded, tiny_model, tiny_model2

MASK = right_padded([6, 4])


class Open:
    """Attention as the textbook has it, in the place of ``attend``; keeps every weight."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        logits = query @ keys.transpose(-1, -2) / query.shape[-1] ** 0.5
        if mask is not None:
            logits = logits.masked_fill(~mask, float("-inf"))
        weights = logits.softmax(dim=-1).requires_grad_()
        if weights.requires_grad and not weights.is_leaf:
            weights.retain_grad()
        self.weights.append(weights)
        return weights @ values


def encoded(model: Network) -> tuple[Tensor, Tensor]:
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model.encode_images(images), model.encode_text(random_ids(2, 6), MASK)


def match_score(model: Network, vision: Tensor, text: Tensor) -> Tensor:
    return model.matching(model.fuse(vision, text, MASK).text)[:, 1].sum()


@pytest.mark.parametrize(("layer", "call"), [(0, 1), (1, 2), (2, 4)])  # co-attention, connected, co-attention: two calls, one, two
def test_the_maps_are_those_of_weights_in_the_open(layer: int, call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    vision, text = encoded(model)
    watched = model.fusion.layers[layer]
    with AttentionProbe([watched]) as probe:
        score = match_score(model, vision, text)
    found = probe.calls[watched][-1]
    (gradient,) = torch.autograd.grad(score, found.mixed)
    maps = found.grad_cam(gradient)

    opened = Open()
    monkeypatch.setattr(layers_module, "attend", opened)
    match_score(model, vision, text).backward()
    weights = opened.weights[call]
    assert weights.grad is not None
    expected = (weights.grad.clamp(min=0) * weights).mean(dim=1)
    torch.testing.assert_close(maps, expected.detach(), atol=1e-6, rtol=1e-4)
    assert float(maps.max()) > 1e-3  # not zeros compared with zeros
    if layer != 1:
        assert not maps[1, 4:].any()  # padding is nobody's word
        torch.testing.assert_close(found.carry(torch.ones(2, 1, 6)), weights.detach().sum(dim=2).mean(dim=1)[:, None])


def test_watching_changes_nothing_and_leaves_nothing() -> None:
    model = tiny_model()
    vision, text = encoded(model)
    with torch.no_grad():
        before = match_score(model, vision, text)
        with AttentionProbe([model.fusion.layers[0]]) as probe:
            during = match_score(model, vision, text)
        after = match_score(model, vision, text)
    assert torch.equal(before, during) and torch.equal(before, after)
    assert len(probe.calls[model.fusion.layers[0]]) == 2
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not probe.calls[model.fusion.layers[0]][0].mixed.requires_grad  # asked for under no_grad


def test_an_error_inside_a_layer_leaves_nothing_either() -> None:
    model = tiny_model()
    vision, text = encoded(model)
    with pytest.raises(RuntimeError), AttentionProbe([model.fusion.layers[0]]):
        model.fuse(vision[..., :7], text, MASK)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with torch.no_grad():
        model.fuse(vision, text, MASK)


def test_the_fused_kernel_runs_while_watched() -> None:
    model = tiny_model()
    vision, text = encoded(model)
    with (
        torch.no_grad(),
        AttentionProbe(list(model.fusion.layers)),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile,
    ):
        model.fuse(vision, text, MASK)
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts["aten::scaled_dot_product_attention"] == 5
    assert "aten::softmax" not in counts


def attention_of(block: Any, x: Tensor, context: Tensor) -> Tensor:
    """Compute a block's attention weights from its own projections, the mean over heads."""
    query, key = (
        layer(of).unflatten(-1, (block.heads, -1)).transpose(1, 2) for layer, of in ((block.query, x), (block.key, context))
    )  # (B, N, T, D/N)
    return (query @ key.mT / query.shape[-1] ** 0.5).softmax(dim=-1).mean(dim=1)


def test_relevance_goes_back_through_the_latents() -> None:
    """Forward, with each token a mixture of the patches: the transposed way to the same numbers."""
    model = tiny_model2()
    universal, blocks = model.universal, list(model.universal.layers)
    vision = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), AttentionProbe(blocks) as probe:
        universal(vision)
    relevance = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(2))
    found = through_universal(universal, list(probe.calls.values()), relevance)

    with torch.no_grad():
        x, patches = universal.latents.expand(2, -1, -1), torch.eye(5).expand(2, 5, 5)
        mixture = torch.zeros(2, 7, 5)
        for block in blocks[:-1]:
            own = attention_of(block.self_attention.attention, x, x)
            between = block.self_attention.to_itself(x, None)
            cross = attention_of(block.cross_attention.attention, between, vision)
            mixture = ((mixture + own @ mixture) / 2 + cross) / 2
            x = block(x, block.project_memory(vision))
        block = blocks[-1]
        own = attention_of(block.self_attention.attention, vision, vision)
        between = block.self_attention.to_itself(vision, None)
        cross = attention_of(block.cross_attention.attention, between, x)
        given_back = ((patches + own) / 2 + cross @ mixture) / 2
        expected = relevance @ ((patches + given_back) / 2)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert (found.sum(dim=-1) < relevance.sum(dim=-1)).all()  # what the latents were before they looked is of no patch


@pytest.mark.parametrize("make", [tiny_model, tiny_model2])
def test_a_token_lies_where_its_patch_is(make: Any) -> None:
    """Change one patch of one frame: the token that changes in the first layer is at that place of the map."""
    model = make()
    clips = torch.zeros(1, 4, 3, 16, 16)
    clips[0, 2, :, 8:, :8] = 1.0  # third frame, second row, first column
    changed = model.vision.patches(clips[0]).std(dim=-1)
    changed = (changed - changed[0, 0]).abs() > 1e-6  # (F, P)
    own_class = torch.zeros(4, 1, dtype=torch.bool)
    tokens = torch.cat([own_class, changed], dim=1).flatten() if make is tiny_model else torch.cat([own_class[0], changed.flatten()])
    assert tokens.shape[0] == model.encode_images(clips).shape[1]
    assert model.by_patch(tokens[None], 4).nonzero().tolist() == [[0, 2, 1, 0]]


def test_merged_frames_have_one_map() -> None:
    model = tiny_model2(temporal_stride=2)
    tokens = model.encode_images(torch.zeros(1, 5, 3, 16, 16)).shape[1]
    assert model.by_patch(torch.zeros(1, tokens), 5).shape == (1, 3, 2, 2)
    assert model.frame_step == 2
