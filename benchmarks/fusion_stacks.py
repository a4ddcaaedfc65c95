"""What the fusion benchmark compares: three ways to fuse vision and text from the same post-LN blocks, and plain attention.

Shapes: vision (B, V, D), text (B, T, D), text_mask (B, T) bool, True = real token.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isqrt

import flops
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openmplug.models import layers
from openmplug.models.fusion import Fused, SkipConnectedFusion, connected_layers
from openmplug.models.layers import PostNormBlock, PostNormCrossBlock
from openmplug.models.masks import key_mask
from openmplug.models.text import TextEncoder, init_bert
from openmplug.models.vision import VisionTransformer

PATCH = 16  # pixels; the whole model sees pictures of so many patches as give the wanted tokens
WORDS = 30522  # of mPLUG base, as the numbers of encoder layers below are


@dataclass(frozen=True)
class Encoders:
    """Sizes of the encoders around a stack: layers of the tower and of the text encoder."""

    vision_layers: int = 12
    text_layers: int = 6


class ConnectedStack(nn.Module):
    """Connected attention throughout: BERT's layers over [vision; text] (single-stream models such as UNITER and OSCAR)."""

    def __init__(self, width: int, heads: int, intermediate: int, layers: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PostNormBlock(width, heads, intermediate, dropout, attention_dropout) for _ in range(layers))
        init_bert(self, width)

    def forward(self, vision: Tensor, text: Tensor, text_mask: Tensor) -> Fused:
        """Fuse; every vision token is visible."""
        mask = key_mask(torch.cat([text_mask.new_ones(vision.shape[:2]), text_mask], dim=1))
        mixed = torch.cat([vision, text], dim=1)  # (B, V + T, D)
        for layer in self.layers:
            mixed = layer(mixed, mask)
        return Fused(mixed[:, : vision.shape[1]], mixed[:, vision.shape[1] :])


class CoAttentionStack(nn.Module):
    """Co-attention on both streams: each attends to itself, then to what the other was before the layer (ViLBERT, LXMERT, METER)."""

    def __init__(self, width: int, heads: int, intermediate: int, layers: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        block = (width, heads, intermediate, dropout, attention_dropout)
        self.vision_layers = nn.ModuleList(PostNormCrossBlock(*block) for _ in range(layers))
        self.text_layers = nn.ModuleList(PostNormCrossBlock(*block) for _ in range(layers))
        init_bert(self, width)

    def forward(self, vision: Tensor, text: Tensor, text_mask: Tensor) -> Fused:
        """Fuse; every vision token is visible."""
        mask = key_mask(text_mask)
        for of_vision, of_text in zip(self.vision_layers, self.text_layers, strict=True):
            words, seen = of_vision.cross_attention.attention.project(text), of_text.cross_attention.attention.project(vision)
            vision, text = of_vision(vision, words, None, mask), of_text(text, seen, mask)
        return Fused(vision, text)


class WholeModel(nn.Module):
    """Pixels and words to fused states: mPLUG base's encoders around any of the stacks."""

    def __init__(self, tower: VisionTransformer, text: TextEncoder, stack: nn.Module) -> None:
        super().__init__()
        self.tower, self.text, self.stack = tower, text, stack

    def forward(self, images: Tensor, ids: Tensor, mask: Tensor) -> Fused:
        """Encode and fuse pictures (B, 3, H, W) and ids (B, T) with mask (B, T)."""
        return self.stack(self.tower(images), self.text(ids, mask), mask)


def stride_of(variant: str) -> int:
    """Return S of ``skip S=3``."""
    return int(variant.partition("=")[2])


def variants(strides: tuple[int, ...]) -> list[str]:
    return ["connected", "co-attention", *(f"skip S={stride}" for stride in strides)]


def build_stack(variant: str, width: int, heads: int, intermediate: int, layers: int, dropout: float) -> nn.Module:
    if variant == "connected":
        return ConnectedStack(width, heads, intermediate, layers, dropout, dropout)
    if variant == "co-attention":
        return CoAttentionStack(width, heads, intermediate, layers, dropout, dropout)
    connected = connected_layers(stride_of(variant), layers)
    return SkipConnectedFusion(width, heads, intermediate, layers, connected, dropout, dropout)


def build_encoders(
    sizes: Encoders, vision: int, width: int, heads: int, intermediate: int, dropout: float
) -> tuple[VisionTransformer, TextEncoder]:
    """Build the tower whose pictures give ``vision`` tokens, and the text encoder.

    Raises:
        ValueError: If no square picture gives so many.
    """
    side = isqrt(vision - 1)
    if 1 + side * side != vision:
        raise ValueError(f"{vision} vision tokens are not one class token and a square of patches; choose 197, 257, 577 or the like")
    tower = VisionTransformer(side * PATCH, PATCH, width, sizes.vision_layers, heads, dropout)
    return tower, TextEncoder(WORDS, width, heads, intermediate, sizes.text_layers, 64, dropout, dropout)


def stack_flops(variant: str, vision: int, text: int, width: int, intermediate: int, layers: int) -> int:
    """Operations of one sample's forward."""
    sizes = (vision, text, width, intermediate, layers)
    if variant == "connected":
        return flops.connected_stack(*sizes)
    if variant == "co-attention":
        return flops.co_attention_stack(*sizes)
    return flops.skip_connected_stack(*sizes, len(connected_layers(stride_of(variant), layers)))


def encoder_flops(sizes: Encoders, vision: int, text: int, width: int, intermediate: int) -> tuple[int, int]:
    """Operations of one sample's encoders, and those of them that project pixels, which need no gradient of their input."""
    pixels = flops.linear(vision - 1, 3 * PATCH**2, width)
    encoders = sizes.vision_layers * flops.block(vision, width, 4 * width) + sizes.text_layers * flops.block(text, width, intermediate)
    return pixels + encoders, pixels


def eager_attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attention as the originals compute it: scores, softmax and mixture one after the other, each written to memory."""
    scores = query @ keys.transpose(2, 3) * query.shape[-1] ** -0.5  # (B, N, T, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return F.dropout(scores.softmax(dim=-1), dropout) @ values


@contextmanager
def attention_kind(kind: str) -> Iterator[None]:
    """Let every block attend by ``sdpa``, as it does anyway, or by ``eager_attention`` while the context is open."""
    before = layers.attend
    if kind == "eager":
        layers.attend = eager_attention
    try:
        yield
    finally:
        layers.attend = before
