"""Retrieval as the papers evaluate it: contrastive similarity chooses k candidates, matching ranks them.

Pictures and texts are encoded once each. Score rows are made a block at a time, so all pairs are never in memory together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from openmplug.models.mplug import MPLUG

NOT_A_CANDIDATE = -100.0


@dataclass(frozen=True, slots=True)
class Encoded:
    """A whole split after the two encoders.

    Shapes: vision (I, V, D), vision_features (I, E), text (J, T, D), text_mask (J, T), text_features (J, E).
    """

    vision: Tensor
    vision_features: Tensor
    text: Tensor
    text_mask: Tensor
    text_features: Tensor


def image_to_text(model: MPLUG, split: Encoded, k: int, add_similarity: bool = False, pairs_per_call: int = 512) -> Iterator[Tensor]:
    """Score texts for each picture, in blocks of rows (b, J); what is not among the best k by similarity is -100.

    The k texts of a picture share its keys and values until a connected layer.

    Args:
        model: With fusion and matching head, in eval mode.
        split: What to compare.
        k: Candidates per picture, at most J; 0 scores by the cosine similarity alone, and needs neither states nor matching head.
        add_similarity: Add the cosine similarity to the matching logit (videos), or not (images).
        pairs_per_call: Pairs fused at a time; bounds memory.
    """
    for start in range(0, len(split.vision_features), block := _block(k, pairs_per_call)):
        similarities = _similarities(split.vision_features[start : start + block], split.text_features)  # (b, J)
        if k == 0:
            yield similarities
            continue
        values, chosen = similarities.topk(k, dim=1)
        vision, texts = split.vision[start : start + block], chosen.flatten()
        yield _rows(model, similarities, chosen, values if add_similarity else None, vision, split.text[texts], split.text_mask[texts])


def text_to_image(model: MPLUG, split: Encoded, k: int, add_similarity: bool = False, pairs_per_call: int = 512) -> Iterator[Tensor]:
    """Score pictures for each text, in blocks of rows (b, I); arguments as in ``image_to_text``, k at most I."""
    for start in range(0, len(split.text_features), block := _block(k, pairs_per_call)):
        similarities = _similarities(split.text_features[start : start + block], split.vision_features)  # (b, I)
        if k == 0:
            yield similarities
            continue
        values, chosen = similarities.topk(k, dim=1)
        rows = torch.arange(start, start + len(chosen), device=chosen.device).repeat_interleave(k)
        vision = split.vision[chosen.flatten()]
        yield _rows(model, similarities, chosen, values if add_similarity else None, vision, split.text[rows], split.text_mask[rows])


def _block(k: int, pairs_per_call: int) -> int:
    """How many queries to score at a time."""
    return max(1, pairs_per_call // max(1, k))


def _similarities(queries: Tensor, candidates: Tensor) -> Tensor:
    # Autocast would leave two digits, too few to tell a thousand candidates apart.
    with torch.autocast(queries.device.type, enabled=False):
        return queries.float() @ candidates.float().T


def _rows(
    model: MPLUG, like: Tensor, chosen: Tensor, similarities: Tensor | None, vision: Tensor, text: Tensor, text_mask: Tensor
) -> Tensor:
    # Longest text of this call, not of the split: padding costs as much as words do.
    length = int(text_mask.sum(dim=1).max())
    fused = model.fuse(vision, text[:, :length], text_mask[:, :length])
    scores = model.matching(fused.text)[:, 1].float().view(chosen.shape)
    if similarities is not None:
        scores = scores + similarities
    return torch.full_like(like, NOT_A_CANDIDATE).scatter(1, chosen, scores)
