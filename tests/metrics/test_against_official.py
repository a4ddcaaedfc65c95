"""Our metrics against pycocoevalcap, scikit-learn and scipy on random inputs; the dev extra installs all three."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from scipy import stats
from sklearn import metrics as learned

from openmplug.metrics.accuracy import accuracy, f1, matthews, pearson, root_mean_square, spearman, top_k_accuracy
from openmplug.metrics.captions import bleu, caption_scores, cider, rouge_l

WORDS = ["a", "dog", "cat", "runs", "on", "grass", "the", "café", "中文", "42"]
SENTENCES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)
CORPORA = st.lists(st.tuples(SENTENCES, st.lists(SENTENCES, min_size=1, max_size=5)), min_size=1, max_size=12)
# Bounded, so that neither side loses its digits in sums of squares: that is not what these tests are about.
NUMBERS = st.floats(-1e3, 1e3, allow_nan=False).map(lambda value: round(value, 3))


def _theirs(corpus: list[tuple[str, list[str]]]) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    return {number: several for number, (_, several) in enumerate(corpus)}, {number: [ours] for number, (ours, _) in enumerate(corpus)}


def _ours(corpus: list[tuple[str, list[str]]]) -> tuple[list[str], list[list[str]]]:
    return [ours for ours, _ in corpus], [several for _, several in corpus]


@settings(max_examples=60, deadline=None)
@given(CORPORA)
def test_cider_equals_pycocoevalcap(corpus: list[tuple[str, list[str]]]) -> None:
    wanted, each = Cider().compute_score(*_theirs(corpus))
    found, values = cider(*_ours(corpus))
    assert found == pytest.approx(wanted, abs=1e-9)
    np.testing.assert_allclose(values, each, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(CORPORA)
def test_bleu_equals_pycocoevalcap(corpus: list[tuple[str, list[str]]]) -> None:
    wanted, _ = Bleu(4).compute_score(*_theirs(corpus), verbose=0)
    assert bleu(*_ours(corpus)) == pytest.approx(wanted, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(CORPORA)
def test_rouge_l_equals_pycocoevalcap(corpus: list[tuple[str, list[str]]]) -> None:
    wanted, each = Rouge().compute_score(*_theirs(corpus))
    found, values = rouge_l(*_ours(corpus))
    assert found == pytest.approx(wanted, abs=1e-12)
    np.testing.assert_allclose(values, each, atol=1e-12)


def test_a_large_corpus_equals_pycocoevalcap() -> None:
    draw = np.random.default_rng(0)
    words = [f"w{number}" for number in range(200)]

    def sentence() -> str:
        return " ".join(words[index] for index in draw.zipf(1.4, size=draw.integers(1, 20)) % len(words))

    corpus = [(sentence(), [sentence() for _ in range(draw.integers(1, 6))]) for _ in range(300)]
    wanted = [
        *Bleu(4).compute_score(*_theirs(corpus), verbose=0)[0],
        *(one.compute_score(*_theirs(corpus))[0] for one in (Rouge(), Cider())),
    ]
    assert list(caption_scores(*_ours(corpus), tokenise=False).values()) == pytest.approx(wanted, abs=1e-9)


LABELLED = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@settings(max_examples=40, deadline=None)
@given(LABELLED)
def test_labels_equal_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    ours, theirs = [one for one, _ in pairs], [other for _, other in pairs]
    assert accuracy(ours, theirs) == pytest.approx(learned.accuracy_score(theirs, ours), abs=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single class
        assert matthews(ours, theirs) == pytest.approx(learned.matthews_corrcoef(theirs, ours), abs=1e-12)
    for positive in range(4):
        flags = [[one == positive for one in labels] for labels in (theirs, ours)]
        assert f1(ours, theirs, positive) == pytest.approx(learned.f1_score(*flags, zero_division=0.0), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.permutations(range(5)), st.integers(0, 4)), min_size=1, max_size=30), st.integers(1, 5))
def test_the_first_k_equal_scikit_learn(ranked: list[tuple[list[int], int]], k: int) -> None:
    scores = np.array([[-ranking.index(label) for label in range(5)] for ranking, _ in ranked], dtype=float)
    true = [label for _, label in ranked]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # k = 5 is always right
        wanted = learned.top_k_accuracy_score(true, scores, k=k, labels=range(5))
    assert top_k_accuracy([ranking for ranking, _ in ranked], true, k) == pytest.approx(wanted, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=60))
def test_numbers_equal_scipy(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = [one for one, _ in pairs], [other for _, other in pairs]
    assert root_mean_square(ours, theirs) == pytest.approx(learned.root_mean_squared_error(theirs, ours), abs=1e-9)
    assume(np.std(ours) > 1e-2 and np.std(theirs) > 1e-2)
    assert pearson(ours, theirs) == pytest.approx(stats.pearsonr(ours, theirs).statistic, abs=1e-9)
    assert spearman(ours, theirs) == pytest.approx(stats.spearmanr(ours, theirs).statistic, abs=1e-9)
