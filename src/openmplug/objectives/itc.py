"""Image-text contrastive learning with a queue and soft targets.

Shapes: features (B, E) unit rows, queue (Q, E), index (B,) and queue index (Q,) numbers of the pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor


def positive_targets(index: Tensor, queue_index: Tensor) -> Tensor:
    """Share one unit of probability among everything that shows the same picture, (B, B + Q).

    Example:
        >>> positive_targets(torch.tensor([7, 8, 7]), torch.tensor([-100, 8])).tolist()[0]
        [0.5, 0.0, 0.5, 0.0, 0.0]
    """
    same = (index[:, None] == torch.cat([index, queue_index])[None]).float()
    return same / same.sum(dim=1, keepdim=True)


def soft_targets(similarities: Tensor, positives: Tensor, alpha: Tensor | float) -> Tensor:
    """Mix what the momentum twin believes with the positives: alpha * softmax(similarities) + (1 - alpha) * positives."""
    return alpha * similarities.float().softmax(dim=1) + (1 - alpha) * positives


def soft_cross_entropy(similarities: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy against a distribution, averaged over rows (scalar)."""
    return -(similarities.float().log_softmax(dim=1) * targets).sum(dim=1).mean()
