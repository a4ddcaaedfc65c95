"""Retrieval as the papers evaluate it: contrastive similarity chooses k candidates, matching ranks them.

Pictures and texts are encoded once each. Pairs are fused picture by picture, texts of similar length together, so that what a picture
brings to its pairs is computed once for a block of queries; only a few pairs are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from openmplug.models.network import Network
from openmplug.models.pairing import PairFusion

NOT_A_CANDIDATE = -100.0
_BLOCK_PAIRS = 16384  # candidates chosen before they are fused: the more, the more texts of a block meet the same picture


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


def image_to_text(
    model: Network, split: Encoded, k: int, add_similarity: bool = False, pairs_per_call: int | None = None
) -> Iterator[Tensor]:
    """Score texts for each picture, in blocks of rows (b, J); what is not among the best k by similarity is -100.

    Args:
        model: With fusion and matching head, in eval mode.
        split: What to compare.
        k: Candidates per picture, at most J; 0 scores by the cosine similarity alone, and needs neither states nor matching head.
        add_similarity: Add the cosine similarity to the matching logit (videos), or not (images).
        pairs_per_call: Pairs fused at a time; bounds memory. Default 16 on a CPU, where texts of equal length matter most, else 256.
    """
    for start, similarities in _blocks(split.vision_features, split.text_features, k):
        if k == 0:
            yield similarities
            continue
        values, texts = similarities.topk(k, dim=1)
        images = torch.arange(start, start + len(texts), device=texts.device)[:, None].expand_as(texts)
        scores = _matching_logits(model, split, images.flatten(), texts.flatten(), pairs_per_call).view(values.shape)
        yield _row(similarities, texts, scores + values if add_similarity else scores)


def text_to_image(
    model: Network, split: Encoded, k: int, add_similarity: bool = False, pairs_per_call: int | None = None
) -> Iterator[Tensor]:
    """Score pictures for each text, in blocks of rows (b, I); arguments as in ``image_to_text``, k at most I."""
    for start, similarities in _blocks(split.text_features, split.vision_features, k):
        if k == 0:
            yield similarities
            continue
        values, images = similarities.topk(k, dim=1)
        texts = torch.arange(start, start + len(images), device=images.device)[:, None].expand_as(images)
        scores = _matching_logits(model, split, images.flatten(), texts.flatten(), pairs_per_call).view(values.shape)
        yield _row(similarities, images, scores + values if add_similarity else scores)


def _blocks(queries: Tensor, candidates: Tensor, k: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the first query of each block and its similarities (b, candidates)."""
    size = max(1, _BLOCK_PAIRS // max(1, k)) if k else 512
    for start in range(0, len(queries), size):
        # Autocast would leave two digits, too few to tell a thousand candidates apart.
        with torch.autocast(queries.device.type, enabled=False):
            similarities = queries[start : start + size].float() @ candidates.float().T
        yield start, similarities


def _row(like: Tensor, chosen: Tensor, scores: Tensor) -> Tensor:
    return torch.full_like(like, NOT_A_CANDIDATE).scatter(1, chosen, scores)


@torch.no_grad()
def _matching_logits(model: Network, split: Encoded, images: Tensor, texts: Tensor, pairs_per_call: int | None) -> Tensor:
    """Compute the matching logit of each pair (P,) of a picture and a text."""
    per_call = pairs_per_call or (16 if split.vision.device.type == "cpu" else 256)
    lengths = split.text_mask.sum(dim=1)
    # Padding costs as much as words do, so texts of similar length meet: picture by picture, shorter texts first.
    order = (images * (split.text_mask.shape[1] + 1) + lengths[texts]).argsort(stable=True)
    fusion, scores = PairFusion(model.fusion), torch.empty(len(images), device=images.device)
    needed, own = texts.unique(return_inverse=True)
    longest = int(lengths[needed].max())
    mask = split.text_mask[needed, :longest]
    begun = torch.cat([fusion.begin(split.text[some, :longest], split.text_mask[some, :longest]) for some in needed.split(8 * per_call)])
    pictures, counts = images[order].unique_consecutive(return_counts=True)
    for image, pairs in zip(pictures.tolist(), order.split(counts.tolist()), strict=True):
        picture = fusion.picture(split.vision[image])
        for some in pairs.split(per_call):
            length = int(lengths[texts[some[-1]]])
            states = fusion.class_states(picture, begun[own[some], :length], mask[own[some], :length])
            scores[some] = model.matching(states[:, None])[:, 1].float()
    return scores
