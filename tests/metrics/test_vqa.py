"""VQA accuracy against the official scorer's numbers, and against a plain version written from its rule."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmplug.metrics.vqa import exact_match, normalise_answer, vqa_accuracy


def _read(data_root, name):
    return json.loads((data_root / "eval_reference" / "vqa_v2" / name).read_text(encoding="utf-8"))


def test_normalisation_equals_the_official(data_root):
    for case in _read(data_root, "normalisation_golden.json"):
        assert normalise_answer(case["raw"]) == case["processed"]


def test_accuracy_equals_the_official(data_root):
    annotations = _read(data_root, "annotations.json")["annotations"]
    answers = {record["question_id"]: [entry["answer"] for entry in record["answers"]] for record in annotations}
    for case in _read(data_root, "expected_accuracy.json"):
        accuracy = vqa_accuracy(case["answer"], answers[case["question_id"]])
        assert round(100 * accuracy, 2) == case["expected_accuracy_percent"]


@pytest.mark.parametrize(
    ("answer", "normalised"),
    [
        ("somebody'd", "somebodyd"),
        ("yall'll couldn'tve", "y'all'll couldn't've"),
        ("one, 1,000 a/b", "1 1000 ab"),
        ("." * 34, ".."),
        ("3.5.", "3.5"),
        ("Im", "im"),
        ("An", ""),
    ],
)
def test_normalisation_quirks(answer, normalised):
    assert normalise_answer(answer) == normalised


@pytest.mark.parametrize(("matches", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)])
def test_accuracy_by_number_of_matches(matches, accuracy):
    references = ["Red."] * matches + [f"other {index}" for index in range(10 - matches)]
    assert vqa_accuracy("the red", references) == pytest.approx(accuracy)


@given(st.sampled_from("abc"), st.lists(st.sampled_from("bcd"), min_size=4, max_size=10))
def test_accuracy_equals_leaving_out_one_by_one(answer, references):
    if len(set(references)) > 1:
        answer = normalise_answer(answer)
    left_out = [references[:index] + references[index + 1 :] for index in range(len(references))]
    plain = sum(min(others.count(answer) / 3, 1) for others in left_out) / len(references)
    assert vqa_accuracy(answer, references) == pytest.approx(plain)


def test_few_annotators_can_give_full_marks():
    assert vqa_accuracy("Two", ["2"]) == 1.0
    assert vqa_accuracy("three", ["2"]) == 0.0
    assert vqa_accuracy("red", ["red", "red"]) == 1.0
    assert vqa_accuracy("red", ["red", "red", "red"]) == 1.0
    assert vqa_accuracy("red", ["red", "blue"]) == 0.5


def test_exact_match_folds_case_and_space_only():
    assert exact_match(" Garbage  bin", ["cup", "garbage bin"]) == 1.0
    assert exact_match("the cup", ["cup"]) == 0.0


@pytest.mark.parametrize("score", [vqa_accuracy, exact_match])
def test_no_references_are_refused(score):
    with pytest.raises(ValueError, match="no references; expected"):
        score("red", [])
