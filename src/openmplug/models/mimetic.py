"""Starting values for parts that no weights are loaded into: what trained ones look like, in the place of noise.

A tower that starts as CLIP's does needs many pictures before its attention looks at anything in particular. These values give it what
training always arrives at: positions that tell near from far, attention to what is alike, heads that take away what they have read, and
neighbouring frames that reach each other.

A captioner's decoder already finds what words name in the picture. Text encoder and fusion that begin as it need not learn that again.

Source: arXiv:2305.09828 (Mimetic Initialization of Self-Attention Layers), for positions and attention; the temporal part and the start
from a decoder are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openmplug.models.decoder import TextDecoder
from openmplug.models.fusion import CoAttentionLayer, SkipConnectedFusion
from openmplug.models.layers import PreNormBlock
from openmplug.models.text import TextEncoder
from openmplug.models.video import LocalTemporal, TemporalLayer, TemporalModules
from openmplug.models.vision import VisionTransformer

POSITION_SCALE = 0.5  # the patches' own projections are of about this size
QUERY_KEY = 0.7, 0.7  # how much noise and how much identity, as in the paper
VALUE_OUTPUT = 0.4, -0.4


@torch.no_grad()
def start_tower(tower: VisionTransformer) -> None:
    """Set positions and attention of an image tower; draws from torch's generator."""
    side = tower.image_size // tower.patches.patch_size
    tower.positions[1:] = POSITION_SCALE * grid_positions(side, len(tower.class_token))
    for layer in tower.layers:
        assert isinstance(layer, PreNormBlock)
        _start_attention(layer.attention.qkv, layer.attention.output, layer.attention.heads)


@torch.no_grad()
def start_temporal(temporal: TemporalModules) -> None:
    """Let neighbouring frames reach each other from the first step on, where identity would have to be unlearned first."""
    for layer in temporal.layers:
        assert isinstance(layer, TemporalLayer)
        for module in (layer.before, layer.after):
            assert isinstance(module, LocalTemporal)
            nn.init.normal_(module.expand.weight, std=(len(module.expand.weight) * 2 * len(temporal.layers)) ** -0.5)
    if temporal.outer_taps is not None:
        nn.init.normal_(temporal.outer_taps, std=temporal.outer_taps[0, 0].numel() ** -0.5)


def start_text(text: TextEncoder, decoder: TextDecoder) -> None:
    """Give a text encoder the word and position embeddings of a decoder, (vocabulary, D) and (positions, D); its layers stay."""
    text.embeddings.load_state_dict(decoder.embeddings.state_dict())


def start_fusion(fusion: SkipConnectedFusion, decoder: TextDecoder) -> None:
    """Let the layers of a fusion stack that attend to vision begin as those of a decoder, in order, as far as it has layers."""
    attending = [layer for layer in fusion.layers if isinstance(layer, CoAttentionLayer)]
    for layer, theirs in zip(attending, decoder.layers, strict=False):
        layer.block.load_state_dict(theirs.state_dict())


def grid_positions(side: int, width: int) -> Tensor:
    """Return the sines and cosines of a grid's columns and rows, (side * side, width), patches row by row.

    Source: arXiv:2104.02057 (MoCo v3), after arXiv:1706.03762.
    """
    waves = torch.full((width // 4,), 1e-4).pow(torch.arange(width // 4) / max(width // 4, 1))
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [place.flatten()[:, None] * waves for place in (column, row)]
    table = torch.cat([each(angle) for angle in angles for each in (torch.sin, torch.cos)], dim=1)
    return nn.functional.pad(table, (0, width - table.shape[1]))


def _start_attention(qkv: nn.Linear, output: nn.Linear, heads: int) -> None:
    """Make queries times keys about the identity in each head, and values times output about minus the identity in all together."""
    width = output.in_features
    size = width // heads
    query, key, value = qkv.weight.view(3, width, width)
    for head in range(heads):
        rows = slice(head * size, (head + 1) * size)
        query[rows], key[rows] = _factors(width, size, *QUERY_KEY)
    value[:], transposed = _factors(width, width, *VALUE_OUTPUT)
    output.weight.copy_(transposed.T)


def _factors(width: int, rank: int, noise: float, identity: float) -> tuple[Tensor, Tensor]:
    """Return a and b, (rank, width) each, so that a.T @ b is the best such product for noise plus a part of the identity."""
    wanted = noise * torch.randn(width, width) * width**-0.5 + identity * torch.eye(width)
    left, strengths, right = torch.linalg.svd(wanted)
    root = strengths[:rank, None].sqrt()
    return root * left.T[:rank], root * right[:rank]
