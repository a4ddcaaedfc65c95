"""ROUGE by hand, and held to what google-research's rouge-score 0.1.2 says; stems to nltk's Porter (Martin's extensions)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openmplug.metrics.rouge import rouge_scores, rouge_words
from openmplug.metrics.stemming import stem

STEMS = """caresses caress ponies poni ties ti caress caress cats cat feed feed agreed agre plastered plaster motoring motor sing sing
conflated conflat troubled troubl sized size hopping hop tanned tan falling fall hissing hiss fizzed fizz failing fail filing file
happy happi sky sky relational relat conditional condit rational ration valenci valenc digitizer digit conformabli conform radicalli
radic differentli differ vileli vile analogousli analog vietnamization vietnam predication predic operator oper feudalism feudal
decisiveness decis hopefulness hope callousness callous formaliti formal sensitiviti sensit sensibiliti sensibl triplicate triplic
formative form formalize formal electriciti electr electrical electr goodness good revival reviv allowance allow inference infer
airliner airlin gyroscopic gyroscop adjustable adjust defensible defens irritant irrit replacement replac adjustment adjust dependent
depend adoption adopt communism commun activate activ angulariti angular homologous homolog effective effect bowdlerize bowdler
probate probat rate rate cease ceas controll control roll roll archaeology archaeolog is is""".split()


def test_stems_of_porters_own_examples() -> None:
    assert {word: stem(word) for word in STEMS[::2]} == dict(zip(STEMS[::2], STEMS[1::2], strict=True))


def test_by_hand() -> None:
    # 4 of 5 words and 2 of 4 pairs in common with a reference of 6 words; the longest common subsequence is 4.
    scores = rouge_scores(["the cat sat down there"], [["the cat was sat down it"]], stemmed=False)
    assert scores == pytest.approx({"rouge_1": 8 / 11, "rouge_2": 4 / 9, "rouge_l": 8 / 11})


def test_order_counts_for_pairs_and_sequences_only() -> None:
    scores = rouge_scores(["police kill the gunman"], [["the gunman kill police"]])
    assert scores == pytest.approx({"rouge_1": 1.0, "rouge_2": 1 / 3, "rouge_l": 0.5})


def test_repeated_words_count_as_often_as_in_the_reference() -> None:
    assert rouge_scores(["the the the"], [["the cat"]])["rouge_1"] == pytest.approx(2 / 5)


def test_stems_are_compared_above_three_letters() -> None:
    assert rouge_scores(["dogs running"], [["dog runs"]])["rouge_1"] == 1.0
    assert rouge_scores(["dogs running"], [["dog runs"]], stemmed=False)["rouge_1"] == 0.0
    assert rouge_words("was U.S.-led, $1,500") == ["was", "u", "s", "led", "1", "500"]


def test_the_best_reference_counts_and_nothing_scores_nothing() -> None:
    assert rouge_scores(["a b"], [["c d", "a b"]])["rouge_2"] == 1.0
    assert rouge_scores(["", "a b"], [["a b"], ["a b"]])["rouge_l"] == 0.5
    with pytest.raises(ValueError, match="0 summaries for 0 records"):
        rouge_scores([], [])
    with pytest.raises(ValueError, match="no reference"):
        rouge_scores(["a"], [[]])


def test_real_sentences(data_root: Path) -> None:
    rows = [json.loads(line) for line in (data_root / "glue" / "mrpc_valid.jsonl").read_text(encoding="utf-8").splitlines()]
    scores = rouge_scores([row["sentence1"] for row in rows], [[row["sentence2"]] for row in rows], stemmed=False)
    assert scores == pytest.approx({"rouge_1": 0.6577736562751536, "rouge_2": 0.484177676831475, "rouge_l": 0.6235336018169653}, abs=1e-12)
