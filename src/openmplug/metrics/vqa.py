"""VQA accuracy, held to the official scorer's numbers, and exact match."""

from __future__ import annotations

import re
from collections.abc import Sequence

_PUNCTUATION = ';/[]"{}()=+\\_->@<`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32  # the official code passes a flag (re.UNICODE, 32) where the number of replacements belongs
_ARTICLES = frozenset(("a", "an", "the"))
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
_NUMBERS = {"none": "0"} | {word: str(value) for value, word in enumerate(_NUMBER_WORDS.split())}

# The official table maps a contraction that lost one apostrophe to the whole one. Verb forms:
_CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't isn't might've mightn't "
    "mightn't've must've mustn't needn't not've oughtn't shan't should've shouldn't shouldn't've wasn't weren't won't would've wouldn't "
    "wouldn't've "
    # Pronouns. It has no I'll, I'm and the like: the words it meets are lower-case, its own "Im" and "Ive" are not.
    "he'd he'd've he's it'd it'd've it'll she'd've they'd they'd've they'll they're they've we'd've we've you'd you'd've you'll you're "
    "you've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll "
    "that's there'd there'd've there're there's "
    # Question words, and the rest.
    "how'd how'll how's what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're "
    "why's ma'am o'clock 'ow's'at 'twas y'all y'all'll y'all'd've"
)
_RESTORED = {
    whole[:index] + whole[index + 1 :]: whole for whole in _CONTRACTIONS.split() for index, letter in enumerate(whole) if letter == "'"
} | {"somebody'd": "somebodyd"}  # as it stands there, the wrong way round


def normalise_answer(answer: str) -> str:
    """Normalise an answer as the official VQA v2 scorer does.

    A punctuation mark is deleted where one of its kind touches a space, or where the answer holds a number such as 1,000; else it
    becomes a space. Periods not followed by a digit go; words are lower-cased, articles dropped, number words up to ten written
    as digits, and lost apostrophes restored.

    Source: ``vqaEval.py`` of GT-Vision-Lab/VQA (``processPunctuation``, then ``processDigitArticle``), with its quirks: only the first
        32 periods go, and "its" and "mens" stay.

    Example:
        >>> normalise_answer("An apple, and two oranges.")
        'apple and 2 oranges'
    """
    text = answer
    has_number = _COMMA_IN_NUMBER.search(answer) is not None
    for mark in _PUNCTUATION:
        if mark in text:
            touches_space = f"{mark} " in answer or f" {mark}" in answer
            text = text.replace(mark, "" if touches_space or has_number else " ")
    text = _PERIOD.sub("", text, count=_MOST_PERIODS)
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_RESTORED.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Score one answer against what all annotators said, by the official rule.

    For each annotator left out in turn, min(number of the others who gave this answer / 3, 1); the mean of these. Answers are
    normalised only if the annotators do not all agree to the letter: with ten times "orange", even "Orange" scores 0.

    With fewer than four annotators, for whom the official rule has no full score, "3" becomes the number of the others; with a
    single one the score is 1 for an equal normalised answer, else 0.

    Args:
        answer: The predicted answer.
        references: One answer per annotator (VQA v2 has ten), at least one.

    Returns:
        Accuracy from 0 to 1.

    Raises:
        ValueError: If there are no references.

    Source: ``vqaEval.py`` of GT-Vision-Lab/VQA.

    Example:
        >>> round(vqa_accuracy("net", ["net", "net", "mesh", "grid", "wire", "bars", "rope", "web", "lace", "fence"]), 4)
        0.6
    """
    if not references:
        raise ValueError("no references; expected the annotators' answers, at least one")
    stripped, given = _strip(answer), [_strip(reference) for reference in references]
    if len(given) == 1:
        return float(normalise_answer(stripped) == normalise_answer(given[0]))
    if len(set(given)) > 1:
        stripped, given = normalise_answer(stripped), [normalise_answer(reference) for reference in given]
    matches, others = given.count(stripped), len(given) - 1
    needed = min(3, others)
    # Leaving out one who gave this answer leaves matches - 1; leaving out any other leaves them all.
    total = matches * min(1.0, (matches - 1) / needed) + (len(given) - matches) * min(1.0, matches / needed)
    return total / len(given)


def _strip(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def exact_match(answer: str, references: Sequence[str]) -> float:
    """Return 1.0 if the answer equals one of the references but for case and white space, else 0.0.

    Args:
        answer: The predicted answer.
        references: The right answers, at least one.

    Raises:
        ValueError: If there are no references.
    """
    if not references:
        raise ValueError("no references; expected at least one right answer")
    folded = " ".join(answer.lower().split())
    return float(any(folded == " ".join(reference.lower().split()) for reference in references))
