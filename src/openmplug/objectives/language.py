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


class Split(NamedTuple):
    """Texts cut in two: ``prefix`` (B, T) to read, ``target`` (B, T + 1) to write, [CLS] and [SEP] included, each with its mask."""

    prefix: Tensor
    prefix_mask: Tensor
    target: Tensor
    target_mask: Tensor


@torch.no_grad()
def split_prefix(ids: Tensor, mask: Tensor, share: Tensor, sep_id: int) -> Split:
    """Cut each text into what is read and what is to be written; at least its last token is to be written.

    Args:
        ids: (B, T), each row [CLS] and n tokens, right-padded.
        mask: (B, T) bool.
        share: (B,) from 0 to below 1; ``floor(share * n)`` tokens are the prefix.
        sep_id: Ends what is to be written.

    Source: arXiv:2205.12005 names the objective and PALM (arXiv:2004.07159) behind it; where the cut falls is in neither release
    (docs/deviations.md).
    """
    words = mask.sum(dim=1) - 1  # (B,)
    cut = (share * words).long().clamp(min=0)
    places = torch.arange(ids.shape[1] + 1, device=ids.device)[None]  # (1, T + 1)
    prefix_mask = places[:, :-1] <= cut[:, None]
    length = words - cut + 2  # [CLS], what is left, [SEP]
    ended = torch.cat([ids, ids[:, :1]], dim=1).scatter(1, (words + 1)[:, None], sep_id)
    moved = ended.gather(1, (places + cut[:, None]).clamp(max=ids.shape[1]))
    moved[:, 0] = ids[:, 0]
    target_mask = places < length[:, None]
    return Split(ids * prefix_mask, prefix_mask, moved * target_mask, target_mask)


def distilled_losses(logits: Tensor, labels: Tensor, teacher: Tensor | None, alpha: float) -> Tensor:
    """Compute cross-entropy against labels, mixed with that against a teacher: ``(1 - alpha) * hard + alpha * soft``, (N,).

    Args:
        logits: (N, vocab).
        labels: (N,).
        teacher: Its logits (N, vocab), no gradient; None where ``alpha`` is 0.
        alpha: Weight of the teacher.
    """
    hard = F.cross_entropy(logits.float(), labels, reduction="none")
    if teacher is None or alpha == 0:
        return hard
    soft = -(logits.float().log_softmax(dim=-1) * teacher.float().softmax(dim=-1)).sum(dim=-1)
    return (1 - alpha) * hard + alpha * soft
