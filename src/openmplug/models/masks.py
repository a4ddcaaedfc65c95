"""Attention masks. A mask is bool, True = may attend; it broadcasts to (B, N, queries, keys)."""

from __future__ import annotations

import torch
from torch import Tensor


def key_mask(mask: Tensor | None) -> Tensor | None:
    """Turn a padding mask (B, T) into one every query shares, (B, 1, 1, T); None stays None (nothing is hidden).

    Example:
        >>> key_mask(torch.tensor([[True, False]])).shape
        torch.Size([1, 1, 1, 2])
    """
    return None if mask is None else mask[:, None, None, :]


def causal_mask(queries: int, keys: int, device: torch.device | None = None) -> Tensor:
    """Let the last ``queries`` of ``keys`` positions see themselves and everything before, (queries, keys).

    Example:
        >>> causal_mask(2, 3).int().tolist()
        [[1, 1, 0], [1, 1, 1]]
    """
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(diagonal=keys - queries)


def causal_padding_mask(mask: Tensor) -> Tensor:
    """Combine the causal rule with a padding mask (B, T), (B, 1, T, T).

    The first token must be real: a row that may attend to nothing would be NaN.

    Example:
        >>> causal_padding_mask(torch.tensor([[True, True, False]]))[0, 0].int().tolist()
        [[1, 0, 0], [1, 1, 0], [1, 1, 0]]
    """
    length = mask.shape[1]
    return causal_mask(length, length, mask.device) & mask[:, None, None, :]
