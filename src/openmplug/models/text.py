"""BERT's embeddings and text encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openmplug.models.layers import BERT_NORM_EPS, PostNormBlock
from openmplug.models.masks import key_mask


class TextEmbeddings(nn.Module):
    """Word + position + type embedding, LayerNorm, dropout.

    The only type ever used is 0. ``padding_idx=0`` keeps the gradient of the padding row at zero.
    """

    def __init__(self, vocab_size: int, width: int, max_positions: int, dropout: float) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab_size, width, padding_idx=0)
        self.positions = nn.Embedding(max_positions, width)
        self.types = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=BERT_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor, start: int = 0, at: Tensor | None = None) -> Tensor:
        """Embed ids (B, T) whose first token stands at position ``start``, or each at its own place ``at`` (B, T).

        Raises:
            ValueError: If the text is longer than the position table.
        """
        if at is not None:
            return self._finish(self.words(ids) + self.types.weight[0] + self.positions(at))
        end = start + ids.shape[1]
        if end > self.positions.num_embeddings:
            raise ValueError(f"text of {end} tokens, the model has {self.positions.num_embeddings} positions; shorten the text")
        x = self.words(ids) + self.types.weight[0] + self.positions.weight[start:end]
        return self._finish(x)  # (B, T, D)

    def _finish(self, x: Tensor) -> Tensor:
        # With a bf16 word table the small tables are fp32, and so are the sum and its norm.
        return self.dropout(self.norm(x)).to(self.words.weight.dtype)


class TextEncoder(nn.Module):
    """Words to tokens: BERT with ``layers`` layers and no pooler.

    Shapes: ids (B, T), mask (B, T) bool -> (B, T, D).
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        heads: int,
        intermediate: int,
        layers: int,
        max_positions: int,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(vocab_size, width, max_positions, dropout)
        self.layers = nn.ModuleList(PostNormBlock(width, heads, intermediate, dropout, attention_dropout) for _ in range(layers))
        init_bert(self, width)

    def pack(self, copy: bool = True) -> None:
        """Pack the weights for inference; see ``models.packing``."""
        for layer in self.layers:
            assert isinstance(layer, PostNormBlock)
            layer.pack(copy)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encode ids (B, T); padding is hidden from every token."""
        x, keys = self.embeddings(ids), key_mask(mask)
        for layer in self.layers:
            x = layer(x, keys)
        return x


@torch.no_grad()
def init_bert(root: nn.Module, width: int) -> None:
    """Initialise every linear layer and table below ``root`` as BERT does: normal weights, zero biases, a zero padding row.

    BERT's standard deviation of 0.02 belongs to its width of 768. Narrower models take ``0.02 * sqrt(768 / width)``, which keeps
    the size of the activations: with 0.02 a model of width 128 hardly looks at the picture for its first thousand steps.
    """
    std = 0.02 * (768 / width) ** 0.5
    for module in root.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            module.weight[module.padding_idx].zero_()
