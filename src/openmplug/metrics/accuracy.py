"""Scores of labels and of numbers: accuracy, top-k, F1, Matthews' and the two correlations, and what guessing reaches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np


def accuracy(predicted: Sequence[Hashable], true: Sequence[Hashable]) -> float:
    """Return the share of equal pairs.

    Raises:
        ValueError: If the two differ in length or are empty.

    Example:
        >>> accuracy(["cat", "dog", "cat"], ["cat", "cat", "cat"])
        0.6666666666666666
    """
    _check(predicted, true)
    return sum(one == other for one, other in zip(predicted, true, strict=True)) / len(true)


def consistency(predicted: Sequence[Hashable], true: Sequence[Hashable], groups: Sequence[Hashable]) -> float:
    """Return the share of groups in which every pair is equal: of NLVR2's sentences, those judged rightly about all their pictures.

    Raises:
        ValueError: If the three differ in length or are empty.

    Example:
        >>> consistency([1, 1, 0], [1, 0, 0], ["a", "a", "b"])
        0.5

    Source: the scorers of NLVR and NLVR2.
    """
    _check(predicted, true)
    _check(groups, true)
    wrong = {group for one, other, group in zip(predicted, true, groups, strict=True) if one != other}
    return 1 - len(wrong) / len(set(groups))


def top_k_accuracy(ranked: Sequence[Sequence[Hashable]], true: Sequence[Hashable], k: int) -> float:
    """Return the share of items whose class is among the first ``k`` of their ranking, best first.

    Raises:
        ValueError: If the two differ in length or are empty.
    """
    _check(ranked, true)
    return sum(wanted in ranking[:k] for ranking, wanted in zip(ranked, true, strict=True)) / len(true)


def f1(predicted: Sequence[Hashable], true: Sequence[Hashable], positive: Hashable) -> float:
    """Return the harmonic mean of precision and recall of one class; 0 where it is neither predicted nor there.

    Raises:
        ValueError: If the two differ in length or are empty.

    Example:
        >>> f1([1, 1, 0, 0], [1, 0, 1, 0], positive=1)
        0.5
    """
    _check(predicted, true)
    hits = sum(one == other == positive for one, other in zip(predicted, true, strict=True))
    named = sum(one == positive for one in predicted) + sum(one == positive for one in true)
    return 2 * hits / named if named else 0.0


def matthews(predicted: Sequence[Hashable], true: Sequence[Hashable]) -> float:
    """Return Matthews' correlation coefficient, of two classes or more; 0 where one side is constant, as scikit-learn has it.

    Raises:
        ValueError: If the two differ in length or are empty.

    Source: Gorodkin 2004 (R_K); for two classes (TP TN - FP FN) / sqrt((TP+FP)(TP+FN)(TN+FP)(TN+FN)).
    """
    _check(predicted, true)
    guesses, classes, count = Counter(predicted), Counter(true), len(true)
    hits = sum(one == other for one, other in zip(predicted, true, strict=True))
    together = hits * count - sum(guesses[each] * classes[each] for each in classes)
    spread = (count**2 - sum(n * n for n in guesses.values())) * (count**2 - sum(n * n for n in classes.values()))
    return together / math.sqrt(spread) if spread else 0.0


def pearson(predicted: Sequence[float], true: Sequence[float]) -> float:
    """Return the linear correlation of two series; 0 where one is constant, for which there is none.

    Raises:
        ValueError: If the two differ in length or are empty.
    """
    _check(predicted, true)
    ours, theirs = (np.asarray(values, np.float64) - np.mean(values, dtype=np.float64) for values in (predicted, true))
    norm = math.sqrt(float(ours @ ours) * float(theirs @ theirs))
    return float(ours @ theirs) / norm if norm else 0.0


def spearman(predicted: Sequence[float], true: Sequence[float]) -> float:
    """Return the correlation of the ranks of two series, equal values sharing their mean rank.

    Raises:
        ValueError: If the two differ in length or are empty.

    Example:
        >>> spearman([1.0, 10.0, 100.0], [2.0, 4.0, 5.0])
        1.0
    """
    _check(predicted, true)
    return pearson(_ranks(predicted), _ranks(true))


def _ranks(values: Sequence[float]) -> list[float]:
    _, place, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return [float(rank) for rank in (last - (counts - 1) / 2)[place]]


def root_mean_square(predicted: Sequence[float], true: Sequence[float]) -> float:
    """Return the root of the mean squared error.

    Raises:
        ValueError: If the two differ in length or are empty.
    """
    _check(predicted, true)
    return float(np.sqrt(np.mean((np.asarray(predicted, np.float64) - np.asarray(true, np.float64)) ** 2)))


def _check(predicted: Sequence[object], true: Sequence[object]) -> None:
    if len(predicted) != len(true) or not true:
        raise ValueError(f"{len(predicted)} predictions for {len(true)} records; expected as many, and at least one")
