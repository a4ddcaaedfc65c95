"""Skip-connected fusion against plain versions of its two layers, and pictures that serve several texts at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from openmplug.models.fusion import CoAttentionLayer, ConnectedLayer, Fused, SkipConnectedFusion, connected_layers
from openmplug.models.layers import PostNormAttention, PostNormFeedForward
from tiny_models import randomise, right_padded

WIDTH, HEADS = 24, 3
Forward = Callable[[], Fused]


def plain_attention(layer: PostNormAttention, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
    """BERT's sub-layer with an explicit softmax; mask (B, S)."""
    attention = layer.attention
    query, key, value = attention.query(x), attention.key(context), attention.value(context)
    mixed = []
    for q, k, v in zip(query.chunk(HEADS, -1), key.chunk(HEADS, -1), value.chunk(HEADS, -1), strict=True):
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5 + torch.where(mask, 0.0, -1e9)[:, None]
        mixed.append(scores.softmax(dim=-1) @ v)
    return F.layer_norm(x + attention.output(torch.cat(mixed, -1)), (WIDTH,), layer.norm.weight, layer.norm.bias, 1e-12)


def plain_feed_forward(layer: PostNormFeedForward, x: Tensor) -> Tensor:
    return F.layer_norm(x + layer.contract(F.gelu(layer.expand(x))), (WIDTH,), layer.norm.weight, layer.norm.bias, 1e-12)


def plain_co_attention(layer: CoAttentionLayer, vision: Tensor, text: Tensor, vision_mask: Tensor, text_mask: Tensor) -> Fused:
    text = plain_attention(layer.block.self_attention, text, text, text_mask)
    text = plain_attention(layer.block.cross_attention, text, vision, vision_mask)
    return Fused(vision, plain_feed_forward(layer.block.feed_forward, text))


def plain_connected(layer: ConnectedLayer, vision: Tensor, text: Tensor, vision_mask: Tensor, text_mask: Tensor) -> Fused:
    both = torch.cat([vision, text], dim=1)
    both = plain_attention(layer.block.self_attention, both, both, torch.cat([vision_mask, text_mask], dim=1))
    both = plain_feed_forward(layer.block.feed_forward, both)
    return Fused(vision + both[:, : vision.shape[1]], both[:, vision.shape[1] :])


def plain_stack(stack: SkipConnectedFusion, vision: Tensor, text: Tensor, vision_mask: Tensor, text_mask: Tensor) -> Fused:
    fused = Fused(vision, text)
    for layer in stack.layers:
        plain = plain_connected if isinstance(layer, ConnectedLayer) else plain_co_attention
        fused = plain(layer, fused.vision, fused.text, vision_mask, text_mask)  # type: ignore[arg-type]
    return fused


def inputs(items: int = 2, each: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Return vision (B, 6, D), text (B * each, 5, D) and its mask."""
    vision, text = torch.randn(items, 6, WIDTH, requires_grad=True), torch.randn(items * each, 5, WIDTH, requires_grad=True)
    return vision, text, right_padded([5, 3, 4, 2, 5, 1][: items * each], 5)


def assert_same(ours: Forward, plain: Forward, wanted: list[Tensor], real: Tensor) -> None:
    """Compare both streams and their gradients; text where it is padding is nobody's concern."""
    results = []
    for function in (ours, plain):
        fused, generator = function(), torch.Generator().manual_seed(3)
        text = fused.text * real[..., None]
        loss = sum((stream * torch.randn(stream.shape, generator=generator)).sum() for stream in (fused.vision, text))
        assert isinstance(loss, Tensor)
        results.append((fused.vision.detach(), text.detach(), *torch.autograd.grad(loss, wanted, allow_unused=True)))
    for one, other in zip(*results, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-5 * max(1.0, float(other.abs().max())), rtol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("connected", [False, True])
def test_layer_equals_the_plain_version(connected: bool, masked: bool) -> None:
    layer = randomise((ConnectedLayer if connected else CoAttentionLayer)(WIDTH, HEADS, 40, 0.0, 0.0))
    vision, text, mask = inputs()
    vision_mask = right_padded([4, 6], 6) if masked else None
    everything = torch.ones(2, 6, dtype=torch.bool) if vision_mask is None else vision_mask
    plain = partial(plain_connected if connected else plain_co_attention, layer)  # type: ignore[arg-type]
    assert_same(
        lambda: layer(vision, text, vision_mask, mask),
        lambda: plain(vision, text, everything, mask),
        [vision, text, *layer.parameters()],
        mask,
    )


def test_co_attention_leaves_vision_alone_and_connected_adds_to_it() -> None:
    vision, text, mask = inputs()
    assert randomise(CoAttentionLayer(WIDTH, HEADS, 40, 0.0, 0.0))(vision, text, None, mask).vision is vision
    layer = randomise(ConnectedLayer(WIDTH, HEADS, 40, 0.0, 0.0))
    with torch.no_grad():
        layer.block.feed_forward.norm.weight.zero_()
        layer.block.feed_forward.norm.bias.zero_()
    fused = layer(vision, text, None, mask)
    assert torch.equal(fused.vision, vision), "the residual has no norm after it"
    assert not fused.text.any()


@pytest.mark.parametrize("connected", [(), (1,), (1, 2), (0,)])
def test_stack_equals_the_plain_version(connected: tuple[int, ...]) -> None:
    stack = randomise(SkipConnectedFusion(WIDTH, HEADS, 40, 3, connected, 0.0, 0.0))
    vision, text, mask = inputs()
    everything = torch.ones(2, 6, dtype=torch.bool)
    wanted = [vision, text, *stack.parameters()]
    assert_same(lambda: stack(vision, text, mask), lambda: plain_stack(stack, vision, text, everything, mask), wanted, mask)


@pytest.mark.parametrize("connected", [(), (1,), (2,)])
def test_a_picture_that_serves_several_texts_equals_a_repeated_picture(connected: tuple[int, ...]) -> None:
    stack, each = randomise(SkipConnectedFusion(WIDTH, HEADS, 40, 3, connected, 0.0, 0.0)), 3
    vision, text, mask = inputs(items=2, each=each)

    def repeated() -> Fused:
        return stack(vision.repeat_interleave(each, dim=0), text, mask)

    def shared() -> Fused:
        fused = stack(vision, text, mask)
        assert len(fused.vision) == (6 if connected else 2)
        return Fused(fused.vision if connected else fused.vision.repeat_interleave(each, dim=0), fused.text)

    assert_same(shared, repeated, [vision, text, *stack.parameters()], mask)


@pytest.mark.parametrize("connected", [(), (1,), (2,)])
def test_a_picture_with_a_mask_that_serves_several_texts(connected: tuple[int, ...]) -> None:
    stack, each = randomise(SkipConnectedFusion(WIDTH, HEADS, 40, 3, connected, 0.0, 0.0)), 3
    vision, text, mask = inputs(items=2, each=each)
    vision_mask = right_padded([4, 6], 6)
    expected = stack(vision.repeat_interleave(each, dim=0), text, mask, vision_mask.repeat_interleave(each, dim=0))
    torch.testing.assert_close(stack(vision, text, mask, vision_mask).text[mask], expected.text[mask], atol=1e-5, rtol=1e-4)


def test_padding_changes_nothing() -> None:
    stack = randomise(SkipConnectedFusion(WIDTH, HEADS, 40, 3, (1,), 0.0, 0.0))
    vision, text, mask = inputs()
    short = stack(vision[1:], text[1:, :3], mask[1:, :3])
    full = stack(vision[1:], text[1:], mask[1:])
    torch.testing.assert_close(full.vision, short.vision, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(full.text[:, :3], short.text, atol=1e-5, rtol=1e-4)


def test_connected_layers_follow_the_released_rule() -> None:
    assert connected_layers(3, 6) == (3,)
    assert connected_layers(6, 6) == ()
    assert connected_layers(3, 12) == (3, 6, 9)
    assert connected_layers(1, 3) == (1, 2)
    assert connected_layers(2, 1) == ()


def test_only_connected_layers_lack_cross_attention() -> None:
    stack = SkipConnectedFusion(WIDTH, HEADS, 40, 3, (1,), 0.0, 0.0)
    assert [isinstance(layer, ConnectedLayer) for layer in stack.layers] == [False, True, False]
    assert not [name for name, _ in stack.layers[1].named_parameters() if "cross" in name]


def test_connected_layers_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match=r"connected layers \[3, -1\] are not among the 3 fusion layers; choose from 0 to 2"):
        SkipConnectedFusion(WIDTH, HEADS, 40, 3, (1, 3, -1), 0.0, 0.0)
