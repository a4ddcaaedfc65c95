"""Ranks against a plain sort, recall against hand-made tables."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmplug.metrics.retrieval import median_rank, ranks_from_scores, recall_at_k, retrieval_scores


@st.composite
def _queries(draw):
    candidates, queries = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    scores = draw(st.lists(st.lists(st.sampled_from([-100.0, 0.0, 0.5, 1.0]), min_size=candidates, max_size=candidates), min_size=queries))
    positives = [draw(st.sets(st.integers(0, candidates - 1), min_size=1)) for _ in scores]
    return np.array(scores).reshape(-1, candidates), positives


@given(_queries())
def test_ranks_equal_a_reversed_ascending_sort(queries):
    scores, positives = queries
    for row, right, rank in zip(scores, positives, ranks_from_scores(scores, positives), strict=True):
        order = np.argsort(row, kind="stable")[::-1]
        assert rank == min(int(np.flatnonzero(order == index)[0]) for index in right)


def test_candidates_that_were_not_re_ranked_come_last_in_reversed_order():
    assert ranks_from_scores([[-100, -100, 3, -100]], [[0]]).tolist() == [3]
    assert ranks_from_scores([[-100, -100, 3, -100]], [[0, 3]]).tolist() == [1]


@pytest.mark.parametrize(
    ("scores", "positives", "message"),
    [
        ([[1.0, 2.0]], [[0], [1]], r"scores have shape \(1, 2\) for 2 queries; expected \(2, candidates\)"),
        ([1.0, 2.0], [[0], [1]], r"scores have shape \(2,\)"),
        ([[1.0, 2.0]], [[]], r"query 0 has right candidates \[\]; expected at least one, each in 0 .. 1"),
        ([[1.0, 2.0]], [[2]], r"query 0 has right candidates \[2\]"),
        ([[1.0, float("nan")]], [[0]], r"query 0 has a score that is not a number"),
    ],
)
def test_bad_scores(scores, positives, message):
    with pytest.raises(ValueError, match=message):
        ranks_from_scores(scores, positives)


def test_recall_and_median_by_hand():
    ranks = [0, 1, 4, 5, 9, 10, 11, 100]
    assert [recall_at_k(ranks, k) for k in (1, 5, 10)] == [12.5, 37.5, 62.5]
    assert median_rank(ranks) == 8.0
    for bad in (lambda: recall_at_k([], 1), lambda: recall_at_k([0], 0)):
        with pytest.raises(ValueError, match="expected at least one of each"):
            bad()


def test_summary_of_both_ways():
    scores = retrieval_scores(np.array([0, 0, 4, 9]), [0, 20])
    assert scores == {
        "txt_r1": 50.0,
        "txt_r5": 75.0,
        "txt_r10": 100.0,
        "txt_r_mean": 75.0,
        "txt_median_rank": 3.0,
        "img_r1": 50.0,
        "img_r5": 50.0,
        "img_r10": 50.0,
        "img_r_mean": 50.0,
        "img_median_rank": 11.0,
        "r_mean": 62.5,
    }
