"""mPLUG-2's universal layers: the same layers for words and for what is seen.

On text they are the last layers of a BERT encoder. On vision, learned queries ("latents") gather what they need from the vision tokens
through cross-attention, and in the last layer the vision tokens read it from them: what comes back is added to the vision tokens.

Source: ``mode="v_module"`` of the released ``modeling_mplug2.py`` (arXiv:2302.00402).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openmplug.models.layers import BERT_NORM_EPS, PostNormCrossBlock
from openmplug.models.masks import key_mask
from openmplug.models.text import init_bert


class UniversalLayers(nn.Module):
    """Layers shared by all modalities.

    Args:
        width, heads, intermediate, dropout, attention_dropout: Of each layer.
        layers: How many, >= 1.
        latents: How many queries.

    Shapes: text (B, T, D) -> (B, T, D), vision (B, V, D) -> (B, V, D).
    """

    def __init__(
        self, width: int, heads: int, intermediate: int, layers: int, latents: int, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.empty(latents, width))
        self.layers = nn.ModuleList(PostNormCrossBlock(width, heads, intermediate, dropout, attention_dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=BERT_NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        init_bert(self, width)
        nn.init.normal_(self.latents, std=0.02 * (768 / width) ** 0.5)

    def pack(self, copy: bool = True) -> None:
        """Pack the weights for inference; see ``models.packing``."""
        for layer in self._blocks():
            layer.pack(copy)

    def _blocks(self) -> list[PostNormCrossBlock]:
        return [layer for layer in self.layers if isinstance(layer, PostNormCrossBlock)]

    def read_text(self, text: Tensor, mask: Tensor) -> Tensor:
        """Encode text states (B, T, D) with mask (B, T); the cross-attention stands aside."""
        keys = key_mask(mask)
        for layer in self._blocks():
            text = layer(text, None, keys)
        return text

    def read_vision(self, vision: Tensor) -> Tensor:
        """Gather from vision tokens (B, V, D) and give back to them, (B, V, D), before residual and norm."""
        *gathering, giving = self._blocks()
        queries = self.latents.to(vision.dtype).expand(vision.shape[0], -1, -1)
        for layer in gathering:
            queries = layer(queries, layer.project_memory(vision))
        return giving(vision, giving.project_memory(queries))

    def forward(self, vision: Tensor) -> Tensor:
        """Return the vision tokens (B, V, D) that fusion and decoder take: norm(vision + what was read)."""
        return self.dropout(self.norm(vision + self.read_vision(vision)))
