"""Recall at k and median rank, both ways, from ranks or from a score matrix."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

RECALL_AT = (1, 5, 10)


def ranks_from_scores(scores: ArrayLike, positives: Sequence[Collection[int]]) -> NDArray[np.int64]:
    """Find at which place each query's best-ranked right candidate stands.

    Of equal scores the candidate with the higher index comes first, as in the originals, which reverse an ascending order. Ties matter
    there: every candidate that was not re-ranked has the score -100.

    Args:
        scores: Score of every candidate for every query, (N, M); higher is better. -inf is allowed, NaN is not.
        positives: For each query the indices of its right candidates, at least one each.

    Returns:
        Ranks (N,), 0 = first place.

    Raises:
        ValueError: If shapes do not fit, a query has no right candidate, an index is out of range, or a score is NaN.

    Example:
        >>> ranks_from_scores([[0.1, 0.9, 0.5], [0.3, 0.3, 0.3]], [[2, 0], [0]]).tolist()
        [1, 2]
    """
    matrix = np.asarray(scores)
    if matrix.ndim != 2 or len(matrix) != len(positives):
        raise ValueError(f"scores have shape {matrix.shape} for {len(positives)} queries; expected ({len(positives)}, candidates)")
    count = matrix.shape[1]
    ranks = np.empty(len(matrix), dtype=np.int64)
    for query, (row, right) in enumerate(zip(matrix, positives, strict=True)):
        if not len(right) or min(right) < 0 or max(right) >= count:
            raise ValueError(f"query {query} has right candidates {sorted(right)[:5]}; expected at least one, each in 0 .. {count - 1}")
        if np.isnan(row).any():
            raise ValueError(f"query {query} has a score that is not a number; expected real scores")
        best = max(right, key=lambda index: (row[index], index))
        ranks[query] = np.count_nonzero(row > row[best]) + np.count_nonzero(row[best + 1 :] == row[best])
    return ranks


def recall_at_k(ranks: ArrayLike, k: int) -> float:
    """Return how many queries have a right candidate among their first ``k``, in percent.

    Args:
        ranks: Best rank of each query, 0 = first place, (N,).
        k: How many places count, >= 1.

    Raises:
        ValueError: If there are no ranks or ``k`` is less than 1.
    """
    places = np.asarray(ranks)
    if places.size == 0 or k < 1:
        raise ValueError(f"{places.size} ranks and k={k}; expected at least one of each")
    return float(100.0 * np.count_nonzero(places < k) / places.size)


def median_rank(ranks: ArrayLike) -> float:
    """Return the median place, 1 = always first."""
    return float(np.median(np.asarray(ranks))) + 1.0


def retrieval_scores(i2t_ranks: ArrayLike, t2i_ranks: ArrayLike) -> dict[str, float]:
    """Sum up retrieval both ways.

    Args:
        i2t_ranks: For every image the rank of its best-placed caption, 0 = first place.
        t2i_ranks: For every caption the rank of its image.

    Returns:
        ``txt_r1``, ``txt_r5``, ``txt_r10`` (captions found for images, percent), their mean ``txt_r_mean``, and ``txt_median_rank``
        (1 = always first); the same with ``img_`` (images found for captions); ``r_mean``, the mean of the two means.

    Raises:
        ValueError: If either has no ranks.
    """
    scores: dict[str, float] = {}
    for side, ranks in (("txt", i2t_ranks), ("img", t2i_ranks)):
        recalls = {f"{side}_r{k}": recall_at_k(ranks, k) for k in RECALL_AT}
        scores |= recalls | {f"{side}_r_mean": sum(recalls.values()) / len(recalls), f"{side}_median_rank": median_rank(ranks)}
    scores["r_mean"] = (scores["txt_r_mean"] + scores["img_r_mean"]) / 2
    return scores
