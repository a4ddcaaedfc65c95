"""Heads: the contrastive projections with their temperature, the matching classifier, the classifier of labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openmplug.models.layers import BERT_NORM_EPS
from openmplug.models.text import init_bert


class ContrastiveHead(nn.Module):
    """Class tokens to L2-normalised fp32 features in one space, whatever the precision of the tokens.

    ``temperature`` has shape (1,), not a scalar, because sharded training cannot split 0-D parameters.
    """

    def __init__(self, width: int, embed_dim: int, temperature: float = 0.07) -> None:
        super().__init__()
        self.vision = nn.Linear(width, embed_dim)
        self.text = nn.Linear(width, embed_dim)
        self.temperature = nn.Parameter(torch.full((1,), temperature))
        init_bert(self, width)

    def vision_features(self, tokens: Tensor, frames: int = 1) -> Tensor:
        """Project the class token of (B, V, D) to (B, embed_dim).

        With several frames, ``tokens`` is (B, F * V, D) frame by frame; the projected class tokens are averaged, then normalised.
        """
        first = tokens.unflatten(1, (frames, -1))[:, :, 0]  # (B, F, D)
        return F.normalize(self.vision(first.to(self.vision.weight.dtype)).float().mean(dim=1), dim=-1)

    def text_features(self, tokens: Tensor) -> Tensor:
        """Project the class token of (B, T, D) to (B, embed_dim)."""
        return F.normalize(self.text(tokens[:, 0].to(self.text.weight.dtype)).float(), dim=-1)


class MatchingHead(nn.Module):
    """Two logits from the fused text's class token; index 1 means that picture and text belong together."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2)
        init_bert(self, width)

    def forward(self, fused_text: Tensor) -> Tensor:
        """Classify (B, T, D) to (B, 2)."""
        return self.linear(fused_text[:, 0].to(self.linear.weight.dtype))


class ClassificationHead(nn.Module):
    """One logit per class, or one number to predict, from a class token: Linear, GELU, LayerNorm, Linear.

    The papers name a head and do not draw it; this is BERT's prediction head, as the decoder has one.

    Args:
        width: Of a token, and of the layer between.
        classes: Number of outputs.
        tokens: How many class tokens are read side by side, as those of two pictures are.
    """

    def __init__(self, width: int, classes: int, tokens: int = 1) -> None:
        super().__init__()
        self.transform = nn.Linear(tokens * width, width)
        self.norm = nn.LayerNorm(width, eps=BERT_NORM_EPS)
        self.linear = nn.Linear(width, classes)
        init_bert(self, width)

    def forward(self, states: Tensor) -> Tensor:
        """Classify the class token of (B, T, tokens * D), vision, text or fused, to (B, classes)."""
        first = states[:, 0].to(self.linear.weight.dtype)
        return self.linear(self.norm(F.gelu(self.transform(first))))
