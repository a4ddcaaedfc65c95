"""Skip-connected fusion: cheap co-attention on the text side, a connected layer over both streams now and then."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn

from openmplug.models.layers import PostNormBlock, PostNormCrossBlock
from openmplug.models.masks import key_mask
from openmplug.models.text import init_bert


class Fused(NamedTuple):
    """Both streams after fusion: vision (B, V, D), text (B, T, D)."""

    vision: Tensor
    text: Tensor


class CoAttentionLayer(nn.Module):
    """Asymmetric co-attention: text attends to itself and to vision; vision skips the layer."""

    def __init__(self, width: int, heads: int, intermediate: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.block = PostNormCrossBlock(width, heads, intermediate, dropout, attention_dropout)

    def forward(self, vision: Tensor, text: Tensor, vision_mask: Tensor | None, text_mask: Tensor) -> Fused:
        """Shapes: vision (B, V, D), text (R, T, D) with B dividing R, masks (B, V) or None and (R, T)."""
        memory = self.block.project_memory(vision)
        return Fused(vision, self.block(text, memory, key_mask(text_mask), key_mask(vision_mask)))


class ConnectedLayer(nn.Module):
    """Connected attention: one self-attention over [vision; text], with an extra residual on the vision stream.

    The residual has no norm after it. Source: mPLUG fusion.
    """

    def __init__(self, width: int, heads: int, intermediate: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.block = PostNormBlock(width, heads, intermediate, dropout, attention_dropout)

    def forward(self, vision: Tensor, text: Tensor, vision_mask: Tensor | None, text_mask: Tensor) -> Fused:
        """Shapes as in ``CoAttentionLayer``; where R > B, vision comes back with R rows."""
        rows, visible = text.shape[0], vision.shape[1]
        if vision.shape[0] != rows:
            vision = vision.repeat_interleave(rows // vision.shape[0], dim=0)
            if vision_mask is not None:
                vision_mask = vision_mask.repeat_interleave(rows // len(vision_mask), dim=0)
        if vision_mask is None:
            vision_mask = text_mask.new_ones(rows, visible)
        mixed = self.block(torch.cat([vision, text], dim=1), key_mask(torch.cat([vision_mask, text_mask], dim=1)))
        return Fused(vision + mixed[:, :visible], mixed[:, visible:])


class SkipConnectedFusion(nn.Module):
    """The fusion stack.

    Args:
        width, heads, intermediate, dropout, attention_dropout: Of each layer.
        layers: Number of layers.
        connected: Which of them (from 0) are connected layers; the others are co-attention.

    Shapes: vision (B, V, D), text (R, T, D) -> the same. ``R`` may be a multiple of ``B``: each picture then serves ``R / B``
    consecutive texts, and its keys and values are projected once.
    """

    def __init__(
        self, width: int, heads: int, intermediate: int, layers: int, connected: Collection[int], dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        outside = [index for index in connected if not 0 <= index < layers]
        if outside:
            raise ValueError(f"connected layers {outside} are not among the {layers} fusion layers; choose from 0 to {layers - 1}")
        self.layers = nn.ModuleList(
            (ConnectedLayer if index in connected else CoAttentionLayer)(width, heads, intermediate, dropout, attention_dropout)
            for index in range(layers)
        )
        init_bert(self, width)

    def pack(self, copy: bool = True) -> None:
        """Pack the weights for inference on a CPU, where that pays; a copy takes their size in memory once more."""
        for layer in self.layers:
            assert isinstance(layer, CoAttentionLayer | ConnectedLayer)
            layer.block.pack(copy)

    def forward(self, vision: Tensor, text: Tensor, text_mask: Tensor, vision_mask: Tensor | None = None) -> Fused:
        """Fuse; masks (R, T) and (B, V) bool, None = every vision token is visible."""
        fused = Fused(vision, text)
        for layer in self.layers:
            fused = layer(fused.vision, fused.text, vision_mask, text_mask)
            if vision_mask is not None and len(vision_mask) != len(fused.vision):  # a connected layer gave each text its own copy
                vision_mask = vision_mask.repeat_interleave(len(fused.vision) // len(vision_mask), dim=0)
        return fused


def connected_layers(stride: int, layers: int) -> tuple[int, ...]:
    """Which layers the released code connects: j > 0 with ``j % stride == 0``.

    Example:
        >>> connected_layers(3, 6), connected_layers(6, 6)
        ((3,), ())
    """
    return tuple(index for index in range(1, layers) if index % stride == 0)
