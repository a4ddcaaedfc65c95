"""The building blocks: BERT's post-norm sub-layers and CLIP's pre-norm block, two families that share no switch.

All attention goes through ``scaled_dot_product_attention``. Keys and values can be projected apart from queries, so that a
decoder projects the memory of an item once and every beam, candidate and step reuses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openmplug.models.packing import Linear, PackedLinear, PackedWeight, add_linear, plain

BERT_NORM_EPS = 1e-12
CLIP_NORM_EPS = 1e-5
QUICK = 1.702  # the factor in CLIP's GELU


def quick_gelu(x: Tensor) -> Tensor:
    """Compute CLIP's GELU, ``x * sigmoid(1.702 x)``."""
    return F.silu(QUICK * x) / QUICK


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
    """Projected keys and values of one attention layer, each (B, N, T, D/N).

    ``joint`` (B, T, 2, N, D/N) is what both are views of, where one product made them: a cache copies it in one go.
    """

    keys: Tensor
    values: Tensor
    joint: Tensor | None = None

    def rows(self, index: Tensor) -> KeyValues:
        """Pick rows, with repetition."""
        return KeyValues(self.keys.index_select(0, index), self.values.index_select(0, index))

    def narrow(self, first: int, count: int) -> KeyValues:
        """Pick consecutive rows; views, not copies."""
        return KeyValues(self.keys.narrow(0, first, count), self.values.narrow(0, first, count))

    def contiguous(self) -> KeyValues:
        """Lay each head's rows side by side: reading them again and again is then a third faster on a CPU."""
        return KeyValues(self.keys.contiguous(), self.values.contiguous())


class KeyValueCache:
    """The keys and values of the tokens decoded so far, in buffers allocated once.

    Tokens come first in memory, (T, R, keys and values, N, D/N): what is filled is one block then, and picking rows copies whole rows
    of it.

    Args:
        rows: ``R``, sequences decoded side by side.
        capacity: Most tokens a sequence can have.
        like: Keys (B, N, T, D/N) whose heads, width, type and device the buffers take.
    """

    def __init__(self, rows: int, capacity: int, like: Tensor) -> None:
        self._tokens = like.new_empty(capacity, rows, 2, like.shape[1], like.shape[3])
        self.length = 0

    def everything(self) -> KeyValues:
        """Return the tokens so far, (R, N, T, D/N) each; views, not copies."""
        return KeyValues(*self._tokens[: self.length].permute(2, 1, 3, 0, 4).unbind(0))

    def append(self, new: KeyValues) -> KeyValues:
        """Add tokens and return everything so far.

        Raises:
            ValueError: If the tokens do not fit into the capacity.
        """
        if new.joint is not None:
            return self.append_joint(new.joint)
        place = self._place(new.keys.shape[2])
        place[:, :, 0] = new.keys.permute(2, 0, 1, 3)
        place[:, :, 1] = new.values.permute(2, 0, 1, 3)
        return self.everything()

    def append_joint(self, new: Tensor) -> KeyValues:
        """Add tokens whose keys and values are side by side, (R, T, 2, N, D/N), and return everything so far."""
        self._place(new.shape[1]).copy_(new.transpose(0, 1))
        return self.everything()

    def _place(self, tokens: int) -> Tensor:
        end = self.length + tokens
        if end > len(self._tokens):
            raise ValueError(f"the cache holds {len(self._tokens)} tokens, {end} were given; allocate it with a larger max_length")
        place = self._tokens[self.length : end]
        self.length = end
        return place

    def rows(self, index: Tensor, capacity: int | None = None) -> KeyValueCache:
        """Return a cache whose row i has seen what row ``index[i]`` of this one has; without gradients only.

        Args:
            index: (new R,), with repetition.
            capacity: Of the new cache; default as before.
        """
        picked = KeyValueCache(len(index), capacity or len(self._tokens), self._tokens[:, :, 0].transpose(1, 2))
        picked.length = length = self.length
        steps = torch.arange(length, device=index.device)[:, None]
        places = (steps * self._tokens.shape[1] + index).flatten()
        # One copy of what is filled, in whole rows; the empty tail is free.
        torch.index_select(self._tokens[:length].flatten(0, 1), 0, places, out=picked._tokens[:length].flatten(0, 1))
        return picked


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
        self._packed_self = PackedLinear()

    def pack(self, own: bool, copy: bool = True) -> None:
        """Pack what a decoding step multiplies with; ``own`` means it attends to its own tokens, else to projected ones."""
        if own and copy and (parts := self._self_parts()):
            self._packed_self.pack(*parts)
        else:
            for part in (self.query, self.key, self.value):
                part.pack(copy and (own or part is self.query))  # a memory is projected once
        self.output.pack(copy)

    def _self_parts(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Return what can be packed as one; nothing fits ``usable`` then where a layer is more than its weight."""
        parts = (self.query, self.key, self.value)
        return tuple((part.weight, part.bias) for part in parts) if plain(*parts) else ()

    def packed_self(self, x: Tensor) -> PackedWeight | None:
        """Return the packed query, key and value weights, one below the other, if they may be multiplied with x."""
        return self._packed_self.usable(x, *self._self_parts())

    def project_self(self, x: Tensor) -> tuple[Tensor, KeyValues]:
        """Compute the queries (B, N, T, D/N), keys and values of the same tokens x (B, T, D); one product where packed."""
        packed = self.packed_self(x)
        if packed is None:
            return split_heads(self.query(x), self.heads), self.project(x)
        joint = packed.linear(x).unflatten(-1, (3, self.heads, -1))  # (B, T, 3, N, D/N)
        query, key, value = joint.permute(2, 0, 3, 1, 4).unbind(0)
        return query, KeyValues(key, value, joint[:, :, 1:])

    def project(self, context: Tensor) -> KeyValues:
        """Compute the keys and values of a context (B, S, D)."""
        return KeyValues(split_heads(self.key(context), self.heads), split_heads(self.value(context), self.heads))

    def forward(self, x: Tensor, context: KeyValues, mask: Tensor | None = None) -> Tensor:
        """Attend from x (R, T, D) to the context's keys and values.

        The context may have fewer rows than x: with ``R = B * K``, each of its B rows serves the K consecutive rows of x.
        These K rows become query positions of one attention call, so keys and values are neither copied nor read K times.
        A mask then must not depend on the query: (B, 1, 1, S) or None.
        """
        return self.mix(split_heads(self.query(x), self.heads), context, mask)

    def mix(self, query: Tensor, context: KeyValues, mask: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """Attend from projected queries (R, N, T, D/N); a residual (R, T, D) is added to the output."""
        rows, _, length, head_width = query.shape
        items = context.keys.shape[0]
        if items != rows:
            query = query.unflatten(0, (items, -1)).transpose(1, 2).flatten(2, 3)  # (B, N, K*T, D/N)
        mixed = attend(query, context.keys, context.values, mask, self.dropout if self.training else 0.0)
        if items != rows:
            mixed = mixed.unflatten(2, (-1, length)).transpose(1, 2).reshape(rows, self.heads, length, head_width)
        mixed = merge_heads(mixed)
        return self.output(mixed) if residual is None else add_linear(self.output, mixed, residual)  # (R, T, D)


class PostNormAttention(nn.Module):
    """BERT's attention sub-layer: LayerNorm(x + dropout(attention(x, context)))."""

    def __init__(self, width: int, heads: int, dropout: float, attention_dropout: float, context_width: int | None = None) -> None:
        super().__init__()
        self.attention = Attention(width, heads, attention_dropout, context_width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=BERT_NORM_EPS)

    def forward(self, x: Tensor, context: KeyValues, mask: Tensor | None = None) -> Tensor:
        """Attend from x (R, T, D); shapes as in ``Attention``."""
        return self._finish(x, split_heads(self.attention.query(x), self.attention.heads), context, mask)

    def to_itself(self, x: Tensor, mask: Tensor | None, cache: KeyValueCache | None = None) -> Tensor:
        """Attend from x (B, T, D) to the same tokens, and to those of the cache, where x is then added."""
        query, own = self.attention.project_self(x)
        if cache is not None:
            own = cache.append(own)
        return self._finish(x, query, own, mask)

    def _finish(self, x: Tensor, query: Tensor, context: KeyValues, mask: Tensor | None) -> Tensor:
        if self.training:
            return self.norm(x + self.dropout(self.attention.mix(query, context, mask)))
        return self.norm(self.attention.mix(query, context, mask, residual=x))


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
        if self.training:
            return self.norm(x + self.dropout(self.contract(self.expand.gelu(x))))
        return self.norm(add_linear(self.contract, self.expand.gelu(x), x))


class PostNormBlock(nn.Module):
    """BERT's layer: self-attention, feed-forward."""

    def __init__(self, width: int, heads: int, intermediate: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.self_attention = PostNormAttention(width, heads, dropout, attention_dropout)
        self.feed_forward = PostNormFeedForward(width, intermediate, dropout)

    def pack(self, copy: bool = True) -> None:
        """Pack the weights for inference; see ``models.packing``."""
        self.self_attention.attention.pack(own=True, copy=copy)
        self.feed_forward.expand.pack(copy)
        self.feed_forward.contract.pack(copy)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Transform x (B, T, D); mask broadcastable to (B, N, T, T)."""
        return self.feed_forward(self.self_attention.to_itself(x, mask))


class PostNormCrossBlock(nn.Module):
    """BERT's layer with cross-attention: self-attention, attention to a memory, feed-forward. Fusion and decoder use it."""

    def __init__(self, width: int, heads: int, intermediate: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.self_attention = PostNormAttention(width, heads, dropout, attention_dropout)
        self.cross_attention = PostNormAttention(width, heads, dropout, attention_dropout)
        self.feed_forward = PostNormFeedForward(width, intermediate, dropout)

    def pack(self, copy: bool = True) -> None:
        """Pack the weights that every decoding step reads; see ``models.packing``."""
        self.self_attention.attention.pack(own=True, copy=copy)
        self.cross_attention.attention.pack(own=False, copy=copy)
        self.feed_forward.expand.pack(copy)
        self.feed_forward.contract.pack(copy)

    def project_memory(self, states: Tensor) -> KeyValues:
        """Compute the keys and values that the cross-attention will attend to, of states (B, S, D)."""
        return KeyValues(*self.memory(states))

    def memory(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what ``project_memory`` returns, as plain tensors: where layers are sharded this is an entry of its own."""
        projected = self.cross_attention.attention.project(states)
        return projected.keys, projected.values

    def forward(
        self,
        x: Tensor,
        memory: KeyValues | None,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Transform x (R, T, D).

        Args:
            x: Text states; with a cache only those of the new tokens.
            memory: ``project_memory(states)`` with B rows, B dividing R; None leaves the cross-attention out.
            mask: For the self-attention, broadcastable to (R, N, T, all tokens so far).
            memory_mask: (B, 1, 1, S) or None.
            cache: Where the self-attention's keys and values are kept between steps.
        """
        x = self.self_attention.to_itself(x, mask, cache)
        if memory is not None:
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
        self.qkv = Linear(width, 3 * width)
        self.output = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within x (B, V, D)."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # 3 x (B, N, V, D/N)
        mixed = attend(query, key, value, None, self.dropout if self.training else 0.0)
        return self.output(merge_heads(mixed))


class AroundAttention(Protocol):
    """What is done to the tokens (B, V, D) of a layer before its attention, and between that and its MLP."""

    def before(self, x: Tensor) -> Tensor:
        """Transform x (B, V, D)."""
        ...

    def after(self, x: Tensor) -> Tensor:
        """Transform x (B, V, D)."""
        ...


class PreNormBlock(nn.Module):
    """CLIP's layer: x + attention(norm(x)), then x + MLP(norm(x)) with QuickGELU."""

    def __init__(self, width: int, heads: int, attention_dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=CLIP_NORM_EPS)
        self.attention = PackedSelfAttention(width, heads, attention_dropout)
        self.mlp_norm = nn.LayerNorm(width, eps=CLIP_NORM_EPS)
        self.expand = Linear(width, 4 * width)
        self.contract = Linear(4 * width, width)

    def pack(self, copy: bool = True) -> None:
        """Pack the weights for inference; see ``models.packing``."""
        self.attention.qkv.pack(copy)
        self.attention.output.pack(copy)
        if plain(self.expand, self.contract):
            for linear in (self.expand, self.contract):
                linear.packed.pack((linear.weight, linear.bias), bias_scale=QUICK, copy=copy)

    def forward(self, x: Tensor, around: AroundAttention | None = None) -> Tensor:
        """Transform x (B, V, D); ``around`` is what a layer over clips does besides, before and after the attention."""
        if around is not None:
            x = around.before(x)
        x = x + self.attention(self.attention_norm(x))
        if around is not None:
            x = around.after(x)
        if not plain(self.expand, self.contract):
            return x + self._quick_gelu_mlp(self.mlp_norm(x))
        expand, contract = self.expand.usable(x), self.contract.usable(x)
        if expand is not None and contract is not None:
            # The factors of QuickGELU (below) ride along in the norm before it and the sum after it; the packed biases have them too.
            norm = self.mlp_norm
            scaled = F.layer_norm(x, norm.normalized_shape, norm.weight * QUICK, norm.bias * QUICK, norm.eps)
            return torch.add(x, contract.linear(expand.silu(scaled)), alpha=1 / QUICK)
        return x + self._quick_gelu_mlp(self.mlp_norm(x))

    def _quick_gelu_mlp(self, x: Tensor) -> Tensor:
        """Compute ``contract(quick_gelu(expand(x)))`` of x (B, V, D).

        QuickGELU is ``h * sigmoid(q h) = silu(q h) / q`` with q = 1.702. The two factors ride along in the matrix products: passing
        over the widest tensor of the block twice more would take an eighth of an encoding on a CPU.
        """
        if not plain(self.expand, self.contract):
            return self.contract(quick_gelu(self.expand(x)))
        hidden = torch.addmm(self.expand.bias, x.flatten(0, 1), self.expand.weight.T, beta=QUICK, alpha=QUICK)
        hidden = F.silu(hidden, inplace=not torch.is_grad_enabled())
        return torch.addmm(self.contract.bias, hidden, self.contract.weight.T, alpha=1 / QUICK).view(x.shape)
