"""Language losses: next-token prediction over a causal decoder.

Shapes: logits (R, T, vocab) at every position, labels (R, T) with -100 = ignore.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

IGNORE = -100


def text_labels(ids: Tensor, mask: Tensor, ignore_first: int = 0) -> Tensor:
    """Make labels (R, T) of a text: its own ids, padding and the first ``ignore_first`` tokens ignored."""
    labels = ids.masked_fill(~mask, IGNORE)
    labels[:, :ignore_first] = IGNORE
    return labels


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each next token, (R, T - 1); 0 where the label is ignored."""
    shifted = labels[:, 1:]
    return F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), shifted, ignore_index=IGNORE, reduction="none")


def soft_token_losses(logits: Tensor, labels: Tensor, soft_labels: Tensor, dim: int = -1) -> Tensor:
    """Cross-entropy of each next token against a teacher's distribution, (R, T - 1); 0 where the label is ignored.

    Args:
        logits: (R, T, vocab).
        labels: (R, T).
        soft_labels: (R, T - 1, vocab), the teacher's probabilities.
        dim: The axis that is normalised. -1 is the vocabulary. The originals normalise axis 1, the positions; that is kept
            reachable because their vectors hold it (their training multiplies the term by 0).
    """
    losses = -(logits[:, :-1].float().log_softmax(dim=dim) * soft_labels).sum(dim=-1)
    return losses * (labels[:, 1:] != IGNORE)
