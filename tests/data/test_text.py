"""Cleaning, context and answer weights: tables by hand and the original's own strings."""

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmplug.data.text import (
    clean_caption,
    clean_question,
    ocr_words,
    question_with_context,
    remove_prompt,
    target_text,
    unique_answers,
    weigh_answers,
)


@pytest.fixture(scope="module")
def extras(golden_root):
    return json.loads((golden_root / "extras" / "mplug_extras.json").read_text(encoding="utf-8"))


def test_cleaning_equals_the_original(extras):
    for record in extras["text"]:
        for words in (30, 5):
            assert clean_question(record["raw"], words) == record[f"pre_question_{words}"]
            assert clean_caption(record["raw"], words) == record[f"pre_caption_{words}"]


def test_vqa_examples_equal_the_original(extras):
    for example in extras["vqa_examples"]:
        record = extras["vqa_annotations"][example["i"]]
        text = question_with_context(
            record["question"], ocr_words(record), record.get("object_label"), example["add_ocr"], example["add_object"]
        )
        assert text == example["question"]
        answers, weights = unique_answers(record)
        assert [target_text(answer) for answer in answers] == example["answers"]
        assert list(weights) == example["weights"]


@pytest.mark.parametrize(
    ("text", "words", "question", "caption"),
    [
        ("A dog's BALL!", 30, "a dogs ball", "a dogs ball"),
        ("left-right", 30, "left right", "left right"),
        ("a  b c", 2, "a ", "a b"),
        ("<person> runs\n", 30, "<person> runs\n", "person runs"),
        ("", 3, "", ""),
        (" ?! ", 3, "", ""),
    ],
)
def test_cleaning_by_hand(text, words, question, caption):
    assert clean_question(text, words) == question
    assert clean_caption(text, words) == caption


@given(st.text(alphabet=string.printable), st.integers(1, 8))
def test_cleaning_keeps_no_punctuation_and_never_more_words(text, words):
    for cleaned in (clean_question(text, words), clean_caption(text, words)):
        assert not set(cleaned) & set(",.'!?\"()*#:;~-/")
        assert len(cleaned.split(" ")) <= words


def test_cleaning_to_no_words_is_refused():
    with pytest.raises(ValueError, match="max_words is 0; expected at least 1"):
        clean_question("what", 0)


def test_context_is_added_only_where_it_is():
    assert question_with_context("What?", [], "cat", add_ocr=True, add_object=False) == "What?"
    assert question_with_context("What?", None, None, add_ocr=True, add_object=True) == "What?"
    assert question_with_context("What?", ["A-B"], None, add_ocr=True) == "What? [SEP] a b"
    assert question_with_context("What?", ["one two", "three"], None, add_ocr=True, max_words=2) == "What? [SEP] one two"
    assert question_with_context("What?", None, "", add_object=True) == "What? [SEP] "
    assert ocr_words({}) == ocr_words({"ocr": None}) == []


@given(st.lists(st.sampled_from(["yes", "no", "2", "red"]), min_size=1, max_size=12))
def test_weights_sum_to_one_and_follow_appearance(answers):
    unique, weights = weigh_answers(answers)
    assert list(unique) == list(dict.fromkeys(answers))
    assert sum(weights) == pytest.approx(1)
    assert weights == pytest.approx([answers.count(answer) / len(answers) for answer in unique])


def test_single_answers_weigh_by_data_set():
    assert unique_answers({"dataset": "vg", "answer": "a man"}) == (("a man",), (0.5,))
    assert unique_answers({"dataset": "gqa", "answer": "a man"}) == (("a man",), (0.5,))
    assert unique_answers({"answer": "a man"}) == (("a man",), (1.0,))


def test_no_answers_are_refused():
    with pytest.raises(ValueError, match="no answers; expected at least one"):
        weigh_answers([])


def test_prompts_join_without_a_space():
    assert target_text("a man", prompt="a video of") == "a video ofa man[SEP]"
    assert remove_prompt("a video ofa man", "a video of") == "a man"
    assert remove_prompt("a man", "a video of") == "a man"
    assert remove_prompt(" a man", "") == " a man"
