"""Image-text matching with hard negatives from the batch.

Shapes: similarities (B, B) [image, text] over temperature, index (B,) numbers of the pictures.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class NegativeWeights(NamedTuple):
    """How likely each candidate is drawn: an image for each text, and a text for each image, both (B, B)."""

    images_for_texts: Tensor
    texts_for_images: Tensor


class Negatives(NamedTuple):
    """Drawn candidates: ``images[b]`` is the wrong picture of text b, ``texts[b]`` the wrong text of picture b, both (B,)."""

    images: Tensor
    texts: Tensor


@torch.no_grad()
def negative_weights(image_to_text: Tensor, text_to_image: Tensor, index: Tensor) -> NegativeWeights:
    """Weigh candidates by similarity; those that show the same picture weigh nothing.

    Args:
        image_to_text: Similarities (B, B) of each image to the batch's texts.
        text_to_image: Similarities (B, B) of each text to the batch's images.
        index: Numbers of the pictures, (B,).

    Returns:
        Rows need not sum to one.
    """
    same = index[:, None] == index[None]
    return NegativeWeights(
        text_to_image.float().softmax(dim=1).masked_fill(same, 0.0), image_to_text.float().softmax(dim=1).masked_fill(same, 0.0)
    )


@torch.no_grad()
def sample_negatives(weights: NegativeWeights, generator: torch.Generator | None = None) -> Negatives:
    """Draw one negative picture per text, then one negative text per picture.

    A row without any candidate (the whole batch shows one picture) draws uniformly instead of failing as the original does.
    """
    drawn = []
    for table in weights:
        empty = table.sum(dim=1, keepdim=True) <= 0
        drawn.append(torch.multinomial(torch.where(empty, torch.ones_like(table), table), 1, generator=generator)[:, 0])
    return Negatives(*drawn)


def matching_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of (3B, 2) logits whose first B rows match and the other 2B do not."""
    labels = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    labels[: len(logits) // 3] = 1
    return F.cross_entropy(logits.float(), labels)
