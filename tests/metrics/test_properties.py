"""What must hold of every metric: the order of records, records given twice, empty predictions, unicode, a single reference."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmplug.metrics.accuracy import accuracy, consistency, f1, matthews, pearson, root_mean_square, spearman, top_k_accuracy
from openmplug.metrics.boxes import intersection_over_union
from openmplug.metrics.captions import bleu, caption_scores, cider, rouge_l
from openmplug.metrics.retrieval import median_rank, recall_at_k, retrieval_scores
from openmplug.metrics.rouge import rouge_scores
from openmplug.metrics.vqa import exact_match, normalise_answer, vqa_accuracy

Scores = dict[str, float]
# Letters of several scripts, a mark that is two code points, an emoji of several, spaces and signs; also nothing at all.
WORDS = ["a", "dog", "Hund", "café", "cafe\u0301", "собака", "狗", "كلب", "👩‍🚒", "don't", "2", "!", "U.S."]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
ANNOTATED = st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=4)), min_size=1, max_size=8)


def _mean(score: Callable[[str, Sequence[str]], float]) -> Callable[[Sequence[str], Sequence[Sequence[str]]], Scores]:
    return lambda ours, theirs: {"mean": sum(map(score, ours, theirs)) / len(ours)}


OF_TEXTS: dict[str, Callable[[Sequence[str], Sequence[Sequence[str]]], Scores]] = {
    "captions": caption_scores,
    "summaries": rouge_scores,
    "answers": _mean(vqa_accuracy),
    "exact answers": _mean(exact_match),
}
PAIRS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=20)
OF_LABELS: dict[str, Callable[[Sequence[int], Sequence[int]], float]] = {
    "accuracy": accuracy,
    "f1": lambda ours, theirs: f1(ours, theirs, positive=1),
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "rmse": root_mean_square,
    "top 2": lambda ours, theirs: top_k_accuracy([(one, (one + 1) % 3) for one in ours], theirs, 2),
    "consistency": lambda ours, theirs: consistency(ours, theirs, [0] * len(ours)),
}


def _shuffled(records: list[Any]) -> list[Any]:
    return random.Random(0).sample(records, len(records))


def _of(records: list[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    return [one for one, _ in records], [other for _, other in records]


@pytest.mark.parametrize("name", OF_TEXTS)
@settings(max_examples=25, deadline=None)
@given(records=ANNOTATED)
def test_the_order_of_records_and_of_references_does_not_matter(name: str, records: list[tuple[str, list[str]]]) -> None:
    score = OF_TEXTS[name]
    mixed = [(ours, _shuffled(several)) for ours, several in _shuffled(records)]
    assert score(*_of(mixed)) == pytest.approx(score(*_of(records)), abs=1e-9)


@pytest.mark.parametrize("name", OF_TEXTS)
@settings(max_examples=25, deadline=None)
@given(records=ANNOTATED)
def test_records_given_twice_change_nothing(name: str, records: list[tuple[str, list[str]]]) -> None:
    score = OF_TEXTS[name]
    once, twice = score(*_of(records)), score(*_of(records * 2))
    for scores in (once, twice):
        scores.pop("cider", None)  # below
    # The official BLEU adds 1e-15 to its counts and takes up to the fourth root: a corpus without a match has up to 2e-4 and not 0.
    assert twice == pytest.approx(once, abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(ANNOTATED)
def test_cider_of_records_given_twice_changes_by_words_of_nobody_only(records: list[tuple[str, list[str]]]) -> None:
    """Frequencies are shares of the records, but for n-grams that no reference has: the official scorer counts those as said once."""
    references = [several for _, several in records]
    said = [several[0] for several in references[1:] + references[:1]]
    assert cider(said * 2, references * 2)[0] == pytest.approx(cider(said, references)[0], abs=1e-9)


@pytest.mark.parametrize("name", OF_TEXTS)
@settings(max_examples=25, deadline=None)
@given(several=st.lists(TEXTS.filter(lambda text: any(map(str.isalnum, normalise_answer(text)))), min_size=1, max_size=4))
def test_an_empty_prediction_is_worth_nothing_and_breaks_nothing(name: str, several: list[str]) -> None:
    # An answer that is an article only ("a") is nothing to the official scorer, and equals nothing: such references are left out.
    for empty in ("", " ", "\n"):
        assert all(value < 1e-6 for value in OF_TEXTS[name]([empty, empty], [several, several]).values())


@pytest.mark.parametrize("name", ["captions", "answers", "exact answers"])
@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.lists(st.sampled_from(WORDS[:9]), min_size=4, max_size=8).map(" ".join), min_size=2, max_size=6))
def test_a_single_reference_that_is_met_is_worth_everything(name: str, texts: list[str]) -> None:
    scores = OF_TEXTS[name](texts, [[text] for text in texts])
    scores.pop("cider", None)  # what all records say is worth nothing there: below
    assert all(value == pytest.approx(1.0) for value in scores.values())


def test_cider_of_single_references_that_are_met() -> None:
    texts = ["a dog runs on grass", "two cats sleep all day", "собака на траве сегодня", "狗 在 草 地 上"]
    assert cider(texts, [[text] for text in texts])[0] == pytest.approx(10.0)
    assert cider(texts[:1], [texts[:1]])[0] == 0.0, "of a single record every n-gram is said everywhere"


@pytest.mark.parametrize("score", [bleu, cider, rouge_l, caption_scores, rouge_scores])
@settings(max_examples=25, deadline=None)
@given(records=st.lists(st.tuples(st.text(max_size=12), st.lists(st.text(max_size=12), min_size=1, max_size=2)), min_size=1, max_size=3))
def test_no_text_breaks_a_scorer(score: Callable[..., Any], records: list[tuple[str, list[str]]]) -> None:
    score(*_of(records))
    for ours, several in records:
        assert 0 <= vqa_accuracy(ours, several) <= 1 and exact_match(ours, several) in (0.0, 1.0)


@pytest.mark.parametrize("name", OF_LABELS)
@settings(max_examples=25, deadline=None)
@given(records=PAIRS)
def test_labels_and_numbers_have_no_order_and_count_by_share(name: str, records: list[tuple[int, int]]) -> None:
    score = OF_LABELS[name]
    value = score(*_of(records))
    assert score(*_of(_shuffled(records))) == pytest.approx(value, abs=1e-9)
    assert score(*_of(records * 2)) == pytest.approx(value, abs=1e-9)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.lists(st.integers(0, 30), min_size=1, max_size=20))
def test_ranks_have_no_order_and_more_places_find_no_less(texts: list[int], pictures: list[int]) -> None:
    scores = retrieval_scores(texts, pictures)
    assert retrieval_scores(texts[::-1] * 2, pictures * 2) == pytest.approx(scores)
    assert scores["txt_r1"] <= scores["txt_r5"] <= scores["txt_r10"] <= 100
    assert recall_at_k(texts, 31) == 100.0 and 1 <= median_rank(texts) <= 31


BOXES = st.tuples(*[st.integers(0, 20)] * 2, *[st.integers(1, 20)] * 2).map(lambda box: [box[0], box[1], box[0] + box[2], box[1] + box[3]])


@given(BOXES, BOXES, st.integers(-9, 9))
def test_overlap_is_symmetric_and_stays_where_both_boxes_move(one: list[int], other: list[int], moved: int) -> None:
    overlap = intersection_over_union(one, other)
    assert 0 <= overlap <= 1 and (overlap == 1) == (one == other)
    assert intersection_over_union(other, one) == overlap
    assert intersection_over_union([side + moved for side in one], [side + moved for side in other]) == pytest.approx(overlap)
