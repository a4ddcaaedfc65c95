"""One decoding step of one layer, with as few operations as possible around the matrix products.

A step multiplies a few rows: what surrounds a product (looking up a module's parts, views, dispatch) takes a noticeable part of its
time. All that does not change from step to step is looked up when a decoding begins.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openmplug.models.beams import BeamCache
from openmplug.models.layers import Attention, KeyValueCache, KeyValues, PostNormCrossBlock, attend
from openmplug.models.packing import Linear, add_linear

Function = Callable[[Tensor], Tensor]
Sum = Callable[[Tensor, Tensor], Tensor]


class LayerStep:
    """A decoder layer in eval mode, ready for single tokens. It must not outlive a change of the weights.

    Args:
        block: The layer.
        like: A tensor of the type and on the device that the layer's inputs will have.
    """

    def __init__(self, block: PostNormCrossBlock, like: Tensor) -> None:
        own, cross, feed_forward = block.self_attention, block.cross_attention, block.feed_forward
        self.heads = own.attention.heads
        self.project = _projection(own.attention, like)
        self.own_output, self.own_norm = _sum(own.attention.output, like), _norm(own.norm)
        self.query = _product(cross.attention.query, like)
        self.cross_output, self.cross_norm = _sum(cross.attention.output, like), _norm(cross.norm)
        self.expand = _gelu(feed_forward.expand, like)
        self.contract, self.norm = _sum(feed_forward.contract, like), _norm(feed_forward.norm)

    def __call__(
        self, x: Tensor, memory: KeyValues, memory_mask: Tensor | None, cache: KeyValueCache | BeamCache, visible: Tensor | None = None
    ) -> Tensor:
        """Transform one new token of each row, x (R, D), as ``PostNormCrossBlock`` does.

        Args:
            x: The tokens.
            memory: What B items attend to, B dividing R.
            memory_mask: (B, 1, 1, S) or None.
            cache: The tokens so far; a row has its own, or the beams of an item share theirs.
            visible: What each row sees of them where they are shared.
        """
        rows, width = x.shape
        joint = self.project(x).view(rows, 1, 3, self.heads, -1)
        past = cache.append_joint(joint[:, :, 1:])
        groups = past.keys.shape[0]
        query = joint[:, 0, 0].unflatten(0, (groups, -1)).transpose(1, 2)  # (R, N, 1, D/N) or (B, N, K, D/N)
        mixed = attend(query, past.keys, past.values, visible, 0.0)
        x = self.own_norm(self.own_output(mixed.transpose(1, 2).reshape(rows, width), x))
        items = memory.keys.shape[0]
        query = self.query(x).view(items, rows // items, self.heads, -1)  # (B, K, N, D/N)
        mixed = attend(query.transpose(1, 2), memory.keys, memory.values, memory_mask, 0.0)
        x = self.cross_norm(self.cross_output(mixed.transpose(1, 2).reshape(rows, width), x))
        return self.norm(self.contract(self.expand(x), x))


def _projection(attention: Attention, like: Tensor) -> Function:
    packed = attention.packed_self(like)
    if packed is not None:
        return packed.linear
    return lambda x: torch.cat([attention.query(x), attention.key(x), attention.value(x)], dim=1)


def _product(layer: nn.Module, like: Tensor) -> Function:
    packed = layer.usable(like) if isinstance(layer, Linear) else None
    return layer if packed is None else packed.linear


def _sum(layer: nn.Module, like: Tensor) -> Sum:
    packed = layer.usable(like) if isinstance(layer, Linear) else None
    return (lambda x, other: add_linear(layer, x, other)) if packed is None else packed.add


def _gelu(layer: Linear, like: Tensor) -> Function:
    packed = layer.usable(like) if isinstance(layer, Linear) else None
    return layer.gelu if packed is None else packed.gelu


def _norm(norm: nn.LayerNorm) -> Function:
    shape, weight, bias, eps = list(norm.normalized_shape), norm.weight, norm.bias, norm.eps
    return lambda x: F.layer_norm(x, shape, weight, bias, eps)
