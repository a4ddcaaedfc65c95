"""Language losses: next-token prediction over a causal decoder, and hidden words of a text.

Shapes: logits (R, T, vocab) at every position, labels (R, T) with -100 = ignore.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
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


class Masked(NamedTuple):
    """A text with hidden words: ids (B, T) to read, labels (B, T) with the true ids where one was chosen and -100 elsewhere."""

    ids: Tensor
    labels: Tensor


@torch.no_grad()
def mask_words(
    ids: Tensor,
    maskable: Tensor,
    mask_id: int,
    vocab_size: int,
    share: float = 0.15,
    first_word: int = 104,
    generator: torch.Generator | None = None,
) -> Masked:
    """Choose words to be predicted: 80 % of them become ``mask_id``, 10 % another word, 10 % stay.

    Args:
        ids: (B, T).
        maskable: (B, T) bool, where a word may be chosen: no padding, no special token.
        mask_id: Of ``[MASK]``.
        vocab_size: Random words are drawn from ``first_word`` on, below it.
        share: Of the maskable words; a text of which none was drawn has one chosen, so that every text teaches.
        first_word: The first id that is a word.
        generator: Where chance comes from, on the device of ``ids``; None takes torch's own.

    Source: BERT (arXiv:1810.04805), section 3.1.
    """
    drawn = torch.rand(ids.shape, device=ids.device, generator=generator).masked_fill(~maskable, 2.0)
    least = drawn.min(dim=1, keepdim=True).values
    chosen = maskable & ((drawn < share) | (drawn == least))
    kind = torch.rand(ids.shape, device=ids.device, generator=generator)
    other = torch.randint(first_word, vocab_size, ids.shape, device=ids.device, generator=generator)
    hidden = torch.where(chosen & (kind < 0.8), torch.full_like(ids, mask_id), ids)
    hidden = torch.where(chosen & (kind >= 0.9), other, hidden)
    return Masked(hidden, ids.masked_fill(~chosen, IGNORE))
