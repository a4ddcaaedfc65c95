"""Image-text contrastive learning with a queue and soft targets.

Shapes: features (B, E) unit rows, index (B,) numbers of the pictures; equal numbers are positives of each other.
"""

from __future__ import annotations

from torch import Tensor


def positive_targets(index: Tensor, candidates: Tensor) -> Tensor:
    """Share one unit of probability among the candidates that show the same picture.

    Args:
        index: Numbers of the pictures, (B,).
        candidates: Numbers of the candidates' pictures, (N,); each row's own number is among them.

    Returns:
        (B, N), rows sum to one.

    Example:
        >>> import torch
        >>> positive_targets(torch.tensor([7, 8]), torch.tensor([7, 8, 7, -100, 8])).tolist()[0]
        [0.5, 0.0, 0.5, 0.0, 0.0]
    """
    same = (index[:, None] == candidates[None]).float()
    return same / same.sum(dim=1, keepdim=True)


def soft_targets(similarities: Tensor, positives: Tensor, alpha: Tensor | float) -> Tensor:
    """Mix what the momentum twin believes with the positives: alpha * softmax(similarities) + (1 - alpha) * positives."""
    return alpha * similarities.float().softmax(dim=1) + (1 - alpha) * positives


def soft_cross_entropy(similarities: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy against a distribution, averaged over rows (scalar)."""
    return -(similarities.float().log_softmax(dim=1) * targets).sum(dim=1).mean()
