"""Scores of labels and numbers, held to tables that scikit-learn 1.6 and scipy 1.17 computed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from openmplug.metrics.accuracy import accuracy, f1, matthews, pearson, root_mean_square, spearman, top_k_accuracy

PREDICTED, TRUE = [1, 1, 0, 1, 0, 0, 1, 1], [1, 0, 0, 1, 1, 0, 1, 1]
OURS, THEIRS = [0.5, 2.0, 2.0, 3.5, 5.0, 4.0, 1.0], [1.0, 1.5, 2.5, 2.5, 4.0, 4.5, 0.0]


def test_two_classes() -> None:
    assert accuracy(PREDICTED, TRUE) == 0.75
    assert f1(PREDICTED, TRUE, positive=1) == pytest.approx(0.8)
    assert f1(PREDICTED, TRUE, positive=0) == pytest.approx(2 * 2 / (3 + 3))
    assert matthews(PREDICTED, TRUE) == pytest.approx(0.4666666666666667)
    assert matthews([1 - one for one in TRUE], TRUE) == pytest.approx(-1.0)


def test_three_classes() -> None:
    assert matthews([0, 1, 1, 0, 1, 2, 2, 0, 1, 2], [0, 1, 0, 0, 1, 2, 1, 0, 2, 2]) == pytest.approx(0.5606060606060606)


def test_constant_guesses_correlate_with_nothing() -> None:
    assert matthews([1] * 8, TRUE) == 0.0
    assert pearson([2.0] * 7, THEIRS) == 0.0
    assert spearman([2.0] * 7, THEIRS) == 0.0
    assert f1([0] * 8, TRUE, positive=1) == 0.0
    assert f1([0] * 8, [0] * 8, positive=1) == 0.0


def test_correlations() -> None:
    assert pearson(OURS, THEIRS) == pytest.approx(0.8919228615347704)
    assert spearman(OURS, THEIRS) == pytest.approx(0.9)  # with equal values on both sides
    assert spearman([value**3 for value in OURS], THEIRS) == pytest.approx(0.9)
    assert root_mean_square([1.0, 2.0], [1.0, 4.0]) == pytest.approx(2**0.5)


def test_the_first_k_of_a_ranking() -> None:
    rankings = [["a", "b", "c"], ["b", "a", "c"], ["c", "b", "a"]]
    assert [top_k_accuracy(rankings, ["a"] * 3, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1.0])


@pytest.mark.parametrize("score", [accuracy, matthews, pearson, spearman, root_mean_square])
def test_nothing_to_compare(score: Callable[..., float]) -> None:
    with pytest.raises(ValueError, match="0 predictions for 0 records; expected as many, and at least one"):
        score([], [])
    with pytest.raises(ValueError, match="2 predictions for 1 records"):
        score([1, 2], [1])
