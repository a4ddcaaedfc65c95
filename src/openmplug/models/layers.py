"""The building blocks: BERT's post-norm sub-layers and CLIP's pre-norm block, two families that share no switch.

All attention goes through ``scaled_dot_product_attention``. Keys and values can be projected apart from queries, so that a
decoder projects the memory of an item once and every beam, candidate and step reuses it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openmplug.models.packing import Linear

BERT_NORM_EPS = 1e-12
CLIP_NORM_EPS = 1e-5


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Reshape (B, T, D) to (B, N, T, D/N)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Reshape (B, N, T, D/N) back to (B, T, D)."""
    return x.transpose(1, 2).flatten(2)


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Scaled dot-product attention of (B, N, T, D/N) over (B, N, S, D/N); ``dropout`` is on the probabilities.

    On CPUs the bf16 backward of the fused kernel is 5 to 7 times slower than the fp32 one (torch 2.13), so a bf16 training step
    attends in fp32 there; everything else stays in the type it came in.
    """
    if query.dtype is torch.bfloat16 and query.device.type == "cpu" and query.requires_grad:
        with torch.autocast("cpu", enabled=False):
            mixed = F.scaled_dot_product_attention(query.float(), keys.float(), values.float(), attn_mask=mask, dropout_p=dropout)
        return mixed.to(query.dtype)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, dropout_p=dropout)


@dataclass(slots=True)
class KeyValues:
    """Projected keys and values of one attention layer, each (B, N, T, D/N)."""

    keys: Tensor
    values: Tensor

    def rows(self, index: Tensor) -> KeyValues:
        """Pick rows, with repetition."""
        return KeyValues(self.keys.index_select(0, index), self.values.index_select(0, index))


class KeyValueCache:
    """The keys and values of the tokens decoded so far, in buffers allocated once.

    Args:
        rows: Sequences decoded side by side.
        capacity: Most tokens a sequence can have.
        like: Keys (B, N, T, D/N) whose heads, width, type and device the buffers take.
    """

    def __init__(self, rows: int, capacity: int, like: Tensor) -> None:
        shape = (rows, like.shape[1], capacity, like.shape[3])
        self.keys = like.new_empty(shape)
        self.values = like.new_empty(shape)
        self.length = 0

    def append(self, new: KeyValues) -> KeyValues:
        """Add tokens and return everything so far.

        Raises:
            ValueError: If the tokens do not fit into the capacity.
        """
        end = self.length + new.keys.shape[2]
        if end > self.keys.shape[2]:
            raise ValueError(f"the cache holds {self.keys.shape[2]} tokens, {end} were given; allocate it with a larger max_length")
        self.keys[:, :, self.length : end] = new.keys
        self.values[:, :, self.length : end] = new.values
        self.length = end
        return KeyValues(self.keys[:, :, :end], self.values[:, :, :end])

    def reorder(self, index: Tensor) -> None:
        """Let row i continue what row ``index[i]`` has seen; the number of rows may change."""
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            new = old.new_empty((len(index), *old.shape[1:]))
            # Only what is filled moves: that copy is the price of a step, the empty tail is free.
            new[:, :, : self.length] = old[:, :, : self.length].index_select(0, index)
            setattr(self, name, new)


class Attention(nn.Module):
    """Multi-head attention with separate projections, as BERT's.

    Args:
        width: ``D``, of queries and output.
        heads: ``N``; must divide the width.
        dropout: On the attention probabilities.
        context_width: Width of what keys and values are made of; default ``width``.

    Shapes: queries (B, T, D), context (B, S, context_width), mask broadcastable to (B, N, T, S).
    """

    def __init__(self, width: int, heads: int, dropout: float, context_width: int | None = None) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads; choose heads that divide it")
        self.heads = heads
        self.dropout = dropout
        self.query = Linear(width, width)
        self.key = Linear(context_width or width, width)
        self.value = Linear(context_width or width, width)
        self.output = Linear(width, width)

    def pack(self) -> None:
        """Pack what a decoding step with projected keys and values multiplies with: queries and output."""
        self.query.pack()
        self.output.pack()

    def project(self, context: Tensor) -> KeyValues:
        """Compute the keys and values of a context (B, S, D)."""
        return KeyValues(split_heads(self.key(context), self.heads), split_heads(self.value(context), self.heads))

    def forward(self, x: Tensor, context: KeyValues, mask: Tensor | None = None) -> Tensor:
        """Attend from x (R, T, D) to the context's keys and values.

        The context may have fewer rows than x: with ``R = B * K``, each of its B rows serves the K consecutive rows of x.
        These K rows become query positions of one attention call, so keys and values are neither copied nor read K times.
        A mask then must not depend on the query: (B, 1, 1, S) or None.
        """
        query = split_heads(self.query(x), self.heads)  # (R, N, T, D/N)
        rows, _, length, head_width = query.shape
        items = context.keys.shape[0]
        if items != rows:
            query = query.unflatten(0, (items, -1)).transpose(1, 2).flatten(2, 3)  # (B, N, K*T, D/N)
        mixed = attend(query, context.keys, context.values, mask, self.dropout if self.training else 0.0)
        if items != rows:
            mixed = mixed.unflatten(2, (-1, length)).transpose(1, 2).reshape(rows, self.heads, length, head_width)
        return self.output(merge_heads(mixed))  # (R, T, D)


class PostNormAttention(nn.Module):
    """BERT's attention sub-layer: LayerNorm(x + dropout(attention(x, context)))."""

    def __init__(self, width: int, heads: int, dropout: float, attention_dropout: float, context_width: int | None = None) -> None:
        super().__init__()
        self.attention = Attention(width, heads, attention_dropout, context_width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=BERT_NORM_EPS)

    def forward(self, x: Tensor, context: KeyValues, mask: Tensor | None = None) -> Tensor:
        """Attend from x (R, T, D); shapes as in ``Attention``."""
        return self.norm(x + self.dropout(self.attention(x, context, mask)))


class PostNormFeedForward(nn.Module):
    """BERT's feed-forward sub-layer with the exact (erf) GELU: LayerNorm(x + dropout(MLP(x)))."""

    def __init__(self, width: int, intermediate: int, dropout: float) -> None:
        super().__init__()
        self.expand = Linear(width, intermediate)
        self.contract = Linear(intermediate, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=BERT_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Transform x (..., D)."""
        return self.norm(x + self.dropout(self.contract(F.gelu(self.expand(x)))))


class PostNormBlock(nn.Module):
    """BERT's layer: self-attention, feed-forward."""

    def __init__(self, width: int, heads: int, intermediate: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.self_attention = PostNormAttention(width, heads, dropout, attention_dropout)
        self.feed_forward = PostNormFeedForward(width, intermediate, dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Transform x (B, T, D); mask broadcastable to (B, N, T, T)."""
        x = self.self_attention(x, self.self_attention.attention.project(x), mask)
        return self.feed_forward(x)


class PostNormCrossBlock(nn.Module):
    """BERT's layer with cross-attention: self-attention, attention to a memory, feed-forward. Fusion and decoder use it."""

    def __init__(self, width: int, heads: int, intermediate: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.self_attention = PostNormAttention(width, heads, dropout, attention_dropout)
        self.cross_attention = PostNormAttention(width, heads, dropout, attention_dropout)
        self.feed_forward = PostNormFeedForward(width, intermediate, dropout)

    def pack(self) -> None:
        """Pack the weights that every decoding step reads; see ``models.packing``."""
        own = self.self_attention.attention
        own.pack()
        own.key.pack()
        own.value.pack()
        self.cross_attention.attention.pack()
        self.feed_forward.expand.pack()
        self.feed_forward.contract.pack()

    def forward(
        self,
        x: Tensor,
        memory: KeyValues,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Transform x (R, T, D).

        Args:
            x: Text states; with a cache only those of the new tokens.
            memory: ``cross_attention.attention.project(states)`` with B rows, B dividing R.
            mask: For the self-attention, broadcastable to (R, N, T, all tokens so far).
            memory_mask: (B, 1, 1, S) or None.
            cache: Where the self-attention's keys and values are kept between steps.
        """
        own = self.self_attention.attention.project(x)
        if cache is not None:
            own = cache.append(own)
        x = self.self_attention(x, own, mask)
        x = self.cross_attention(x, memory, memory_mask)
        return self.feed_forward(x)


class PackedSelfAttention(nn.Module):
    """CLIP's self-attention: queries, keys and values from one matrix."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads; choose heads that divide it")
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within x (B, V, D)."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # 3 x (B, N, V, D/N)
        mixed = attend(query, key, value, None, self.dropout if self.training else 0.0)
        return self.output(merge_heads(mixed))


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's activation, ``x * sigmoid(1.702 x)``, as ``silu(1.702 x) / 1.702``: one fused kernel each way instead of a chain."""
    return F.silu(x * 1.702) * (1 / 1.702)


class PreNormBlock(nn.Module):
    """CLIP's layer: x + attention(norm(x)), then x + MLP(norm(x)) with QuickGELU."""

    def __init__(self, width: int, heads: int, attention_dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=CLIP_NORM_EPS)
        self.attention = PackedSelfAttention(width, heads, attention_dropout)
        self.mlp_norm = nn.LayerNorm(width, eps=CLIP_NORM_EPS)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform x (B, V, D)."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.contract(quick_gelu(self.expand(self.mlp_norm(x))))
