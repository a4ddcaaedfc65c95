"""The blocks against versions written out in full: one softmax, one loop over heads, no fused kernel."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from openmplug.models.layers import (
    Attention,
    KeyValueCache,
    KeyValues,
    PackedSelfAttention,
    PostNormAttention,
    PostNormBlock,
    PostNormCrossBlock,
    PostNormFeedForward,
    PreNormBlock,
    attend,
    merge_heads,
    split_heads,
)
from openmplug.models.masks import causal_mask, causal_padding_mask, key_mask
from tiny_models import randomise, right_padded

WIDTH, HEADS = 24, 3


def plain_heads(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """Attend head by head with a softmax; mask (B, T, S) bool or None."""
    size = query.shape[-1] // heads
    mixed = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / size**0.5
        if mask is not None:
            scores = scores + torch.where(mask, 0.0, -1e9)
        mixed.append(scores.softmax(dim=-1) @ value[..., part])
    return torch.cat(mixed, dim=-1)


def plain_attention(layer: Attention, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
    return layer.output(plain_heads(layer.query(x), layer.key(context), layer.value(context), layer.heads, mask))


def plain_norm(x: Tensor, norm: nn.LayerNorm, eps: float) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.pow(2).mean(dim=-1, keepdim=True) + eps).sqrt() * norm.weight + norm.bias


def plain_post_norm(layer: PostNormAttention, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
    return plain_norm(x + plain_attention(layer.attention, x, context, mask), layer.norm, 1e-12)


def plain_feed_forward(layer: PostNormFeedForward, x: Tensor) -> Tensor:
    inner = layer.expand(x)
    inner = 0.5 * inner * (1 + torch.erf(inner / 2**0.5))
    return plain_norm(x + layer.contract(inner), layer.norm, 1e-12)


def assert_same(ours: Callable[[], Tensor], plain: Callable[[], Tensor], wanted: list[Tensor]) -> None:
    """Compare values, and gradients of one weighted sum with respect to everything wanted."""
    results = []
    for function in (ours, plain):
        out = function()
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(5))
        results.append((out.detach(), torch.autograd.grad((out * weights).sum(), wanted, allow_unused=True)))
    (value, gradients), (plain_value, plain_gradients) = results
    torch.testing.assert_close(value, plain_value, atol=1e-5, rtol=1e-5)
    for one, other in zip(gradients, plain_gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def states(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_the_plain_softmax(masked: bool) -> None:
    layer = randomise(Attention(WIDTH, HEADS, 0.0, context_width=16))
    x, context = states(2, 5, WIDTH), states(2, 7, 16, seed=1)
    mask = right_padded([4, 7]) if masked else None
    assert_same(
        lambda: layer(x, layer.project(context), key_mask(mask)),
        lambda: plain_attention(layer, x, context, None if mask is None else mask[:, None].expand(2, 5, 7)),
        [x, context, *layer.parameters()],
    )


def test_attention_with_a_mask_for_each_query_equals_the_plain_softmax() -> None:
    layer = randomise(Attention(WIDTH, HEADS, 0.0))
    x, mask = states(2, 6, WIDTH), causal_padding_mask(right_padded([3, 6]))
    assert_same(lambda: layer(x, layer.project(x), mask), lambda: plain_attention(layer, x, x, mask[:, 0]), [x, *layer.parameters()])


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_rows_that_share_a_context_equal_a_repeated_context(length: int, masked: bool) -> None:
    layer, items, each = randomise(Attention(WIDTH, HEADS, 0.0)), 2, 3
    x, context = states(items * each, length, WIDTH), states(items, 7, WIDTH, seed=1)
    mask = right_padded([5, 7]) if masked else None
    repeated = None if mask is None else key_mask(mask.repeat_interleave(each, dim=0))
    wanted = [x, context, *layer.parameters()]
    assert_same(
        lambda: layer(x, layer.project(context), key_mask(mask)),
        lambda: layer(x, layer.project(context.repeat_interleave(each, dim=0)), repeated),
        wanted,
    )
    assert_same(
        lambda: layer(x, layer.project(context), key_mask(mask)),
        lambda: plain_attention(
            layer,
            x,
            context.repeat_interleave(each, dim=0),
            None if mask is None else mask.repeat_interleave(each, dim=0)[:, None].expand(-1, length, -1),
        ),
        wanted,
    )


def test_packed_attention_equals_the_plain_softmax_and_torch() -> None:
    layer, x = randomise(PackedSelfAttention(WIDTH, HEADS, 0.0)), states(2, 6, WIDTH)
    reference = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    names = {"in_proj_weight": layer.qkv.weight, "in_proj_bias": layer.qkv.bias}
    reference.load_state_dict({**names, "out_proj.weight": layer.output.weight, "out_proj.bias": layer.output.bias})

    def plain() -> Tensor:
        query, key, value = layer.qkv(x).chunk(3, dim=-1)
        return layer.output(plain_heads(query, key, value, HEADS, None))

    assert_same(lambda: layer(x), plain, [x, *layer.parameters()])
    assert_same(lambda: layer(x), lambda: reference(x, x, x, need_weights=False)[0], [x])


def test_post_norm_block_equals_its_formula() -> None:
    block, x, mask = randomise(PostNormBlock(WIDTH, HEADS, 40, 0.0, 0.0)), states(2, 5, WIDTH), right_padded([3, 5])

    def plain() -> Tensor:
        return plain_feed_forward(block.feed_forward, plain_post_norm(block.self_attention, x, x, mask[:, None].expand(2, 5, 5)))

    assert_same(lambda: block(x, key_mask(mask)), plain, [x, *block.parameters()])


def test_cross_block_equals_its_formula() -> None:
    block = randomise(PostNormCrossBlock(WIDTH, HEADS, 40, 0.0, 0.0))
    x, context = states(2, 5, WIDTH), states(2, 7, WIDTH, seed=1)
    mask, seen = causal_mask(5, 5).expand(2, 5, 5), right_padded([6, 7])

    def plain() -> Tensor:
        mixed = plain_post_norm(block.self_attention, x, x, mask)
        mixed = plain_post_norm(block.cross_attention, mixed, context, seen[:, None].expand(2, 5, 7))
        return plain_feed_forward(block.feed_forward, mixed)

    def ours() -> Tensor:
        return block(x, block.cross_attention.attention.project(context), mask[:, None], key_mask(seen))

    assert_same(ours, plain, [x, context, *block.parameters()])


def test_pre_norm_block_equals_its_formula() -> None:
    block, x = randomise(PreNormBlock(WIDTH, HEADS, 0.0)), states(2, 5, WIDTH)

    def plain() -> Tensor:
        query, key, value = block.attention.qkv(plain_norm(x, block.attention_norm, 1e-5)).chunk(3, dim=-1)
        y = x + block.attention.output(plain_heads(query, key, value, HEADS, None))
        inner = block.expand(plain_norm(y, block.mlp_norm, 1e-5))
        return y + block.contract(inner / (1 + torch.exp(-1.702 * inner)))

    assert_same(lambda: block(x), plain, [x, *block.parameters()])


def test_heads_are_split_and_merged() -> None:
    x = torch.arange(24.0).view(1, 2, 12)
    assert split_heads(x, 3).shape == (1, 3, 2, 4)
    assert split_heads(x, 3)[0, 1, 0].tolist() == [4.0, 5.0, 6.0, 7.0]
    assert torch.equal(merge_heads(split_heads(x, 3)), x)


@pytest.mark.parametrize("kind", [Attention, PackedSelfAttention])
def test_heads_must_divide_the_width(kind: Callable[..., nn.Module]) -> None:
    with pytest.raises(ValueError, match="width 10 is not a multiple of 4 heads; choose heads that divide it"):
        kind(10, 4, 0.0)


@pytest.mark.parametrize("place", ["attention", "states"])
def test_dropout_acts_in_training_only(place: str) -> None:
    dropout = {"dropout": 0.5 if place == "states" else 0.0, "attention_dropout": 0.5 if place == "attention" else 0.0}
    block, x = randomise(PostNormBlock(WIDTH, HEADS, 40, **dropout)), states(1, 4, WIDTH)
    assert torch.equal(block(x), block(x))
    block.train()
    assert not torch.allclose(block(x), block(x))


def test_clip_attention_dropout_acts_in_training_only() -> None:
    block, x = randomise(PreNormBlock(WIDTH, HEADS, 0.5)), states(1, 4, WIDTH)
    assert torch.equal(block(x), block(x))
    block.train()
    assert not torch.allclose(block(x), block(x))


def test_bf16_attention_on_the_cpu_keeps_type_and_gradient() -> None:
    query, keys, values = (states(2, HEADS, 5, 8, seed=seed) for seed in range(3))
    exact = attend(query, keys, values, None, 0.0)
    half = attend(query.bfloat16(), keys.bfloat16(), values.bfloat16(), None, 0.0)
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.03, rtol=0.03)
    wanted = [query, keys, values]
    for one, other in zip(torch.autograd.grad(half.float().sum(), wanted), torch.autograd.grad(exact.sum(), wanted), strict=True):
        torch.testing.assert_close(one, other, atol=0.05, rtol=0.05)
    with torch.no_grad():
        without = attend(query.bfloat16(), keys.bfloat16(), values.bfloat16(), None, 0.0)
    assert without.dtype is torch.bfloat16
    torch.testing.assert_close(without.float(), exact, atol=0.03, rtol=0.03)


# ---------------------------------------------------------------------------------------------------------------- cache, masks


def tokens(rows: int, length: int, start: int = 0) -> KeyValues:
    keys = torch.arange(start, start + rows * length, dtype=torch.float32).view(rows, 1, length, 1)
    return KeyValues(keys, -keys)


def test_cache_returns_everything_so_far() -> None:
    cache = KeyValueCache(rows=2, capacity=3, like=torch.zeros(5, 1, 9, 1))
    assert cache.append(tokens(2, 2)).keys[:, 0, :, 0].tolist() == [[0, 1], [2, 3]]
    both = cache.append(tokens(2, 1, start=10))
    assert both.keys[:, 0, :, 0].tolist() == [[0, 1, 10], [2, 3, 11]]
    assert both.values[:, 0, :, 0].tolist() == [[0, -1, -10], [-2, -3, -11]]
    assert cache.length == 3


def test_cache_rows_are_reordered_repeated_and_dropped() -> None:
    cache = KeyValueCache(rows=2, capacity=3, like=torch.zeros(1, 1, 1, 1))
    cache.append(tokens(2, 2))
    picked = cache.rows(torch.tensor([1, 1, 0]))
    assert picked.append(tokens(3, 1, start=10)).keys[:, 0, :, 0].tolist() == [[2, 3, 10], [2, 3, 11], [0, 1, 12]]
    assert picked.rows(torch.tensor([2]), capacity=4).append(tokens(1, 1, start=7)).keys.flatten().tolist() == [0, 1, 12, 7]
    assert cache.everything().values[:, 0, :, 0].tolist() == [[0, -1], [-2, -3]]  # the old one is as it was


def test_cache_refuses_more_than_it_holds() -> None:
    cache = KeyValueCache(rows=1, capacity=2, like=torch.zeros(1, 1, 1, 1))
    cache.append(tokens(1, 2))
    with pytest.raises(ValueError, match="the cache holds 2 tokens, 3 were given; allocate it with a larger max_length"):
        cache.append(tokens(1, 1))


def test_key_values_pick_rows_with_repetition() -> None:
    assert tokens(3, 1).rows(torch.tensor([2, 0, 2])).keys.flatten().tolist() == [2, 0, 2]


def test_masks() -> None:
    assert key_mask(None) is None
    assert causal_mask(1, 4).tolist() == [[True] * 4]
    assert causal_mask(3, 3).int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    both = causal_padding_mask(right_padded([1, 3]))
    assert both.shape == (2, 1, 3, 3)
    assert both[0, 0].int().tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert both[1, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
