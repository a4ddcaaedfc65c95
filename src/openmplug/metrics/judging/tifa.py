"""TIFA v1.0: the mean over captions of the mean over their questions, and accuracy per kind of element."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TIFAScores:
    """Scores from 0 to 1.

    Args:
        mean: TIFA, the mean over captions.
        stdev: Standard deviation of a sample, over captions; None for a single one.
        captions: Score by caption.
        types: Per ``element_type``, the scores of its questions, a group for each caption.
    """

    mean: float
    stdev: float | None
    captions: dict[str, float]
    types: dict[str, list[list[float]]]

    def accuracy_by_type(self) -> dict[str, float]:
        """Return the mean over the questions of each ``element_type``."""
        return {kind: statistics.fmean(value for group in groups for value in group) for kind, groups in self.types.items()}


def score_captions(questions: Sequence[tuple[str, str, float]]) -> TIFAScores:
    """Aggregate the scores of questions.

    Args:
        questions: Caption id, element type and score (1 = the chosen answer is the right one) of each; at least one.

    Raises:
        ValueError: If there are no questions.

    Source: ``tifa_score_benchmark`` of Yushi-Hu/tifa.

    Example:
        >>> scores = score_captions([("a", "color", 1), ("a", "object", 0), ("b", "color", 1)])
        >>> scores.mean, scores.accuracy_by_type()
        (0.75, {'color': 1.0, 'object': 0.0})
    """
    if not questions:
        raise ValueError("no questions to score")
    captions: dict[str, list[float]] = {}
    types: dict[str, dict[str, list[float]]] = {}
    for caption, kind, score in questions:
        captions.setdefault(caption, []).append(score)
        types.setdefault(kind, {}).setdefault(caption, []).append(score)
    means = {caption: statistics.fmean(scores) for caption, scores in captions.items()}
    return TIFAScores(
        statistics.fmean(means.values()),
        statistics.stdev(means.values()) if len(means) > 1 else None,
        means,
        {kind: list(groups.values()) for kind, groups in types.items()},
    )
