"""BLEU, ROUGE-L and CIDEr against the official scorers' numbers, a plain CIDEr-D, and the caption splitter by table."""

import json
import math
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmplug.metrics.captions import bleu, caption_scores, cider, longest_common_subsequence, ptb_tokenise, rouge_l

OFFICIAL = {"bleu_1": "Bleu_1", "bleu_2": "Bleu_2", "bleu_3": "Bleu_3", "bleu_4": "Bleu_4", "rouge_l": "ROUGE_L", "cider": "CIDEr"}
WORDS = ["a", "dog", "cat", "runs", "on"]
SENTENCES = st.lists(st.sampled_from(WORDS), max_size=7).map(" ".join)
CORPORA = st.lists(st.tuples(SENTENCES, st.lists(SENTENCES, min_size=1, max_size=3)), min_size=1, max_size=5)


def _read(data_root, name):
    return json.loads((data_root / "eval_reference" / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def flickr8k(data_root):
    data = _read(data_root, "caption_flickr8k_dev/input_tokenised.json")
    names = list(data["gts"])
    return names, [data["res"][name][0] for name in names], [data["gts"][name] for name in names]


def test_small_cases_equal_their_authors_numbers(data_root):
    for case in _read(data_root, "caption_small/cases.json"):
        # "PTB tokenised" in one source, white space in the other; the "single" case rounds down in the last digit.
        scores = caption_scores(case["hyps"], case["refs"], tokenise="PTB" in case["source"])
        for ours, theirs in OFFICIAL.items():
            assert scores[ours] == pytest.approx(
                case["expected"][theirs], abs=(1.0 if "single" in case["name"] else 0.5) * 10 ** -case["places"]
            )


def test_flickr8k_equals_the_official_code(data_root, flickr8k):
    names, hypotheses, references = flickr8k
    expected = _read(data_root, "caption_flickr8k_dev/expected.json")
    started = time.process_time()
    scores = caption_scores(hypotheses, references, tokenise=False)
    assert time.process_time() - started < 1.0, "1,000 images"
    assert scores == pytest.approx({ours: expected["overall"][theirs] for ours, theirs in OFFICIAL.items()}, abs=1e-12)
    for scorer, name in ((cider, "CIDEr"), (rouge_l, "ROUGE_L")):
        each = dict(zip(names, scorer(hypotheses, references)[1], strict=True))
        for case in expected["first10"]:
            assert each[case["image"]] == pytest.approx(case[name], abs=1e-12)


def test_flickr8k_shifted_equals_the_official_code(data_root, flickr8k):
    _, hypotheses, references = flickr8k
    expected = _read(data_root, "caption_flickr8k_dev/expected_shifted.json")["overall"]
    scores = caption_scores(hypotheses[-1:] + hypotheses[:-1], references, tokenise=False)
    assert scores == pytest.approx({ours: expected[theirs] for ours, theirs in OFFICIAL.items()}, abs=1e-12)


def test_our_splitting_of_flickr8k_gives_the_tokenised_references(data_root, flickr8k):
    names, hypotheses, references = flickr8k
    with (data_root / "flickr8k" / "dev.jsonl").open(encoding="utf-8") as rows:
        captions = {row["image"]: row["captions"] for row in map(json.loads, rows)}
    pairs = [
        (ptb_tokenise(raw), tokenised)
        for name, hypothesis, several in zip(names, hypotheses, references, strict=True)
        for raw, tokenised in zip(captions[name], [hypothesis, *several], strict=True)
    ]
    # That file was split at white space only: it keeps quotation marks and brackets, and a typing error with "=" whole.
    different = [tokenised for ours, tokenised in pairs if ours != tokenised]
    assert len(different) < 0.01 * len(pairs)
    assert all(set(tokenised) & set('"(=') for tokenised in different)


def _plain_cider_d(hypotheses, references):
    """CIDEr-D from its definition, n-gram by n-gram."""

    def grams(text, order):
        words = text.split()
        return Counter(tuple(words[start : start + order]) for start in range(len(words) - order + 1))

    scores = []
    for hypothesis, several in zip(hypotheses, references, strict=True):
        total = 0.0
        for reference in several:
            for order in range(1, 5):
                known = [set().union(*(grams(text, order) for text in texts)) for texts in references]

                def weigh(text, order=order, known=known):
                    return {
                        gram: count * (math.log(len(references)) - math.log(max(1, sum(gram in item for item in known))))
                        for gram, count in grams(text, order).items()
                    }

                ours, theirs = weigh(hypothesis), weigh(reference)
                norms = math.hypot(*ours.values()) * math.hypot(*theirs.values())
                if norms:
                    dot = sum(min(weight, theirs[gram]) * theirs[gram] for gram, weight in ours.items() if gram in theirs)
                    bigrams = [max(len(text.split()) - 1, 0) for text in (hypothesis, reference)]
                    total += dot / norms * math.exp(-((bigrams[0] - bigrams[1]) ** 2) / 72)
        scores.append(10 * total / 4 / len(several))
    return scores


@settings(max_examples=40)
@given(CORPORA)
def test_cider_equals_a_plain_version(corpus):
    hypotheses, references = [pair[0] for pair in corpus], [pair[1] for pair in corpus]
    mean, each = cider(hypotheses, references)
    np.testing.assert_allclose(each, _plain_cider_d(hypotheses, references), atol=1e-9)
    assert mean == pytest.approx(each.mean())


@settings(max_examples=40)
@given(CORPORA)
def test_scores_stay_in_range_and_do_not_depend_on_the_order_of_items(corpus):
    hypotheses, references = [pair[0] for pair in corpus], [pair[1] for pair in corpus]
    scores = caption_scores(hypotheses, references, tokenise=False)
    assert all(-1e-9 <= value <= (10 if name == "cider" else 1) + 1e-9 for name, value in scores.items())
    assert caption_scores(hypotheses[::-1], references[::-1], tokenise=False) == pytest.approx(scores)


@given(st.lists(st.sampled_from(WORDS), max_size=9), st.lists(st.sampled_from(WORDS), max_size=9))
def test_common_subsequence_equals_the_usual_table(first, second):
    table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
    for row, one in enumerate(first):
        for column, other in enumerate(second):
            table[row + 1, column + 1] = table[row, column] + 1 if one == other else max(table[row, column + 1], table[row + 1, column])
    assert longest_common_subsequence(first, second) == table[-1, -1]


def test_bleu_by_hand():
    # 3 of 4 words, 1 of 3 pairs; the closest reference is as long as the caption, so no brevity penalty.
    scores = bleu(["a dog runs here"], [["a dog sits here", "a dog that sits on the grass"]])
    assert scores[:2] == pytest.approx([3 / 4, math.sqrt(3 / 4 * 1 / 3)])
    assert bleu(["a dog"], [["a dog runs on"]])[0] == pytest.approx(math.exp(1 - 4 / 2))
    assert bleu(["a a a"], [["a dog a", "a"]])[0] == pytest.approx(2 / 3), "counts are clipped"


def test_nothing_written_scores_nothing():
    scores = caption_scores(["", "..."], [["a dog"], ["a cat", ""]])
    assert scores["cider"] == scores["rouge_l"] == 0.0
    assert scores["bleu_4"] < 1e-6


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        ([], [], "0 captions and 0 lists of references; expected as many of each, at least one"),
        (["a"], [["a"], ["b"]], "1 captions and 2 lists of references"),
        (["a"], [[]], r"item 0 has references \[\]; expected a list of at least one text"),
        (["a"], ["a dog"], "item 0 has references 'a dog'; expected a list"),
    ],
)
@pytest.mark.parametrize("score", [caption_scores, bleu, cider, rouge_l])
def test_bad_input(score, hypotheses, references, message):
    with pytest.raises(ValueError, match=message):
        score(hypotheses, references)


# Left: text; right: what the Stanford program and COCO's list of punctuation make of it.
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man, riding a horse .", "a man riding a horse"),
        ("The dog's T-shirt doesn't fit; can't it?", "the dog 's t-shirt does n't fit ca n't it"),
        ("they're we'll I'd should've mustn't", "they 're we 'll i 'd should 've must n't"),
        ("the dogs' toys 'quoted' \"double\"", "the dogs toys quoted double"),
        ("I cannot, gonna, gotta, wanna, gimme, lemme", "i can not gon na got ta wan na gim me lem me"),
        ("o'clock ma'am d'ivoire O'Brien c'mon y'all jack'o'lantern", "o'clock ma'am d'ivoire o'brien c'mon y' all jack o'lantern"),
        ("rock 'n' roll rock'n'roll '90s 1980's", "rock 'n' roll rock 'n' roll '90s 1980 's"),
        ("10,000 people at 10:30 p.m. pay $5.00 or 50%", "10,000 people at 10:30 p.m. pay $ 5.00 or 50 %"),
        ("1.5m 3,000ft 2-year-old 1/2 2-1/2 #5 #one 20th", "1.5 m 3,000 ft 2-year-old 1/2 2-1/2 # 5 #one 20th"),
        ("Mr. Smith of the U.S. at plan b. no. 5 etc.", "mr. smith of the u.s. at plan b. no. 5 etc."),
        ("he is ill. and says no.", "he is ill and says no"),
        ("Springfield, Ill. is nice", "springfield ill. is nice"),
        ("and/or either (left) [right] {curly}", "and/or either -lrb- left -rrb- -lsb- right -rsb- -lcb- curly -rcb-"),
        ("wow! wow!! what?! um... well -- so - yes", "wow wow !! what ?! um well so yes"),
        ("end.start word,word black&white AT&T", "end.start word word black & white at&t"),
        ("<person> at http://foo.com/bar, or me@foo.com :-)", "<person> at http://foo.com/bar or me@foo.com :--rrb-"),
        ("“curly” it’s £5 café 中文", "curly it 's # 5 café 中文"),
        ("one\ntwo\t three", "one two three"),
        ("", ""),
    ],
)
def test_splitting_as_coco_does(text, words):
    assert ptb_tokenise(text) == words


@given(st.text(alphabet="abI.,'\"()- /&!?$%01 \n", max_size=40))
def test_splitting_loses_no_letter_or_digit(text):
    words = ptb_tokenise(text)
    kept = words.replace("-lrb-", "").replace("-rrb-", "")
    assert [letter for letter in kept if letter.isalnum()] == [letter for letter in text.lower() if letter.isalnum()]
