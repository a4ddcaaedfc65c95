"""Boxes as words: coordinates become tokens, and the loss weighs tokens by how wrong the box is.

Shapes: boxes (B, 4). ``cxcywh`` is centre and size from 0 to 1, ``xyxy`` are corners in the same unit.
"""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 336  # hard-coded in the original, whatever the image size


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Turn centre and size into corners."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def box_tokens(boxes_cxcywh: Tensor, first_id: int) -> Tensor:
    """Quantise boxes to token ids: ``first_id + floor(x * 336)``, clamped to 0 .. 336."""
    return (boxes_cxcywh.clamp(0, 1) * BINS).floor().long() + first_id


def tokens_to_boxes(ids: Tensor, first_id: int) -> Tensor:
    """Turn token ids back into cxcywh boxes."""
    return (ids - first_id).float() / BINS


def pairwise_iou(a_xyxy: Tensor, b_xyxy: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Intersection over union of every pair, (A, B), and the unions (A, B)."""
    low = torch.maximum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])
    high = torch.minimum(a_xyxy[:, None, 2:], b_xyxy[None, :, 2:])
    overlap = (high - low).clamp(min=0).prod(dim=-1)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).prod(dim=-1) for box in (a_xyxy, b_xyxy))
    union = area_a[:, None] + area_b[None] - overlap
    return overlap / (union + eps), union


def pairwise_giou(a_xyxy: Tensor, b_xyxy: Tensor, eps: float = 1e-5) -> Tensor:
    """Generalised IoU of every pair, (A, B). Source: Rezatofighi et al. 2019; eps as in the original."""
    iou, union = pairwise_iou(a_xyxy, b_xyxy, eps)
    low = torch.minimum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])
    high = torch.maximum(a_xyxy[:, None, 2:], b_xyxy[None, :, 2:])
    hull = (high - low).clamp(min=0).prod(dim=-1)
    return iou - (hull - union) / (hull + eps)


def grounding_loss(token_losses: Tensor, predicted_cxcywh: Tensor, target_cxcywh: Tensor) -> Tensor:
    """Weigh the cross-entropy of the four box tokens by the errors of the predicted boxes.

    The original's broadcast makes an outer product: every sample's cross-entropy is weighted by all samples' errors,
    ``mean over i, j, c of CE[i, c] * |error|[j, c] * (1 - GIoU)[j]``. For one sample it is the formula that was meant.

    Args:
        token_losses: (B, 4).
        predicted_cxcywh: Boxes of the most probable tokens, no gradient.
        target_cxcywh: True boxes.
    """
    return (token_losses[:, None] * _errors(predicted_cxcywh, target_cxcywh)[None]).mean()


def paired_grounding_loss(token_losses: Tensor, predicted_cxcywh: Tensor, target_cxcywh: Tensor) -> Tensor:
    """Weigh the cross-entropy of each sample's four box tokens by the errors of its own box; arguments as ``grounding_loss``.

    What the original's formula says without its slip: ``mean over i, c of CE[i, c] * |error|[i, c] * (1 - GIoU)[i]``.
    """
    return (token_losses * _errors(predicted_cxcywh, target_cxcywh)).mean()


def _errors(predicted_cxcywh: Tensor, target_cxcywh: Tensor) -> Tensor:
    """Return the weights (B, 4): distance of each coordinate, times what the whole box lacks of fitting."""
    distance = (predicted_cxcywh - target_cxcywh).abs().clamp(0, 5)
    overlap = 1 - pairwise_giou(cxcywh_to_xyxy(predicted_cxcywh), cxcywh_to_xyxy(target_cxcywh)).diagonal()  # (B,)
    return distance * overlap[:, None]


def near_bins(bins: Tensor, spread: float) -> Tensor:
    """Spread each true coordinate over its neighbours.

    Args:
        bins: True coordinates (...), 0 to 336.
        spread: Standard deviation in bins, > 0.

    Returns:
        (..., 337), a cut normal distribution around each; sums are 1.
    """
    distance = torch.arange(BINS + 1, device=bins.device) - bins[..., None]
    return (-0.5 * (distance / spread) ** 2).softmax(dim=-1)
