"""Words before they become token ids: cleaning, prompts, questions with context, weighted answers.

Everything here follows the released mPLUG and mPLUG-2 data code to the letter, because a model is only as good as the
agreement between the strings it was trained on and the strings it is asked about.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

END = "[SEP]"
"""Written without a space after every answer and caption; the tokenizer turns it into one id."""

SINGLE_ANSWER_WEIGHT = {"vg": 0.5, "gqa": 0.5}
"""Weight of the one answer of a record, by its ``dataset`` field; any other data set weighs 1."""

_DELETED = str.maketrans("-/", "  ", ",.'!?\"()*#:;~")
_SPACES = re.compile(r"\s{2,}")


def clean_question(text: str, max_words: int) -> str:
    """Lower-case, delete punctuation, open hyphens and slashes, and cut to a number of words.

    Spaces are not collapsed and each one between words counts when cutting: a double space uses up one of ``max_words``.

    Args:
        text: A question, or the joined words that OCR found.
        max_words: Most words to keep, >= 1.

    Source: ``pre_question`` of mPLUG.

    Example:
        >>> clean_question("Red/Blue - which one's (left)?", 30)
        'red blue   which ones left'
    """
    return _cut(text.lower().translate(_DELETED).rstrip(" "), max_words)


def clean_caption(text: str, max_words: int) -> str:
    """Clean a caption: as a question, ``<person>`` becomes ``person``, and runs of white space one space.

    Args:
        text: A caption.
        max_words: Most words to keep, >= 1.

    Source: ``pre_caption`` of mPLUG.

    Example:
        >>> clean_caption("<person> on the  street", 3)
        'person on the'
    """
    cleaned = text.lower().translate(_DELETED).replace("<person>", "person")
    return _cut(_SPACES.sub(" ", cleaned).rstrip("\n").strip(" "), max_words)


def _cut(text: str, max_words: int) -> str:
    if max_words < 1:
        raise ValueError(f"max_words is {max_words}; expected at least 1")
    words = text.split(" ")
    return " ".join(words[:max_words]) if len(words) > max_words else text


def question_with_context(
    question: str,
    ocr: Sequence[str] | None = None,
    object_label: str | None = None,
    add_ocr: bool = False,
    add_object: bool = False,
    max_words: int = 30,
) -> str:
    """Append the words read in the picture and the objects found in it, each after `` [SEP] ``.

    The question itself is not cleaned; the OCR words are.

    Args:
        question: The question, raw.
        ocr: Words found in the picture, in order (:func:`ocr_words` takes them from an annotation), or None.
        object_label: Names of objects joined by ``&&``, or None.
        add_ocr: Whether to append the words.
        add_object: Whether to append the objects.
        max_words: Most OCR words to keep.

    Source: ``vqa_dataset`` of mPLUG; as there, no OCR words add nothing, an empty object label adds a bare `` [SEP] ``.

    Example:
        >>> question_with_context("What?", ["STOP!"], "man&&red ball", add_ocr=True, add_object=True)
        'What? [SEP] stop [SEP] man red ball'
    """
    parts = [question]
    if add_ocr and ocr:
        parts.append(clean_question(" ".join(ocr), max_words))
    if add_object and object_label is not None:
        parts.append(" ".join(object_label.split("&&")))
    return f" {END} ".join(parts)


def ocr_words(record: Mapping[str, Any]) -> list[str]:
    """Take the words from an annotation's ``ocr`` field, a list of ``[position, word]`` pairs; none if it is absent."""
    return [str(word) for _, word in record.get("ocr") or ()]


def weigh_answers(answers: Sequence[str]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Return the different answers in order of appearance, each with the share of annotators who gave it.

    Args:
        answers: What every annotator answered, at least one.

    Raises:
        ValueError: If there is no answer.

    Example:
        >>> weigh_answers(["yes", "no", "yes", "yes"])
        (('yes', 'no'), (0.75, 0.25))
    """
    if not answers:
        raise ValueError("no answers; expected at least one answer per question")
    share = 1 / len(answers)
    weights: dict[str, float] = {}
    for answer in answers:
        # Added up one by one, as the original does: 0.1 + 0.1 + 0.1 is not 3 / 10 in the last bit.
        weights[answer] = weights.get(answer, 0.0) + share
    return tuple(weights), tuple(weights.values())


def unique_answers(record: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Return the different answers of an annotation and their weights.

    Args:
        record: Has ``answer``, a list of every annotator's answer or one string, and perhaps ``dataset``.

    Returns:
        Answers in order of appearance, without the end mark, and one weight each: the share of annotators for a list, 0.5 for the one
        answer of Visual Genome (``vg``) and GQA (``gqa``), else 1.

    Raises:
        ValueError: If there is no answer.
    """
    answer = record["answer"]
    if isinstance(answer, str):
        return (answer,), (SINGLE_ANSWER_WEIGHT.get(record.get("dataset", ""), 1.0),)
    return weigh_answers(answer)


def target_text(text: str, prompt: str = "") -> str:
    """Return the string a decoder learns to write: prompt, text and end mark, joined without spaces.

    The missing space between prompt and text ("a video of" + "a man" gives "a video ofa man") is how the released captioners
    were trained. End the prompt with a space for a model of your own.

    Example:
        >>> target_text("a man")
        'a man[SEP]'
    """
    return prompt + text + END


def sentence_pair(first: str, second: str) -> str:
    """Join two sentences that are classified together: ``[SEP]`` between them, and none behind, as this project's texts end.

    Example:
        >>> sentence_pair("Is it red?", "It is blue.")
        'Is it red? [SEP] It is blue.'
    """
    return f"{first} {END} {second}"


def remove_prompt(text: str, prompt: str) -> str:
    """Cut a generated caption at its prompt: what follows the prompt's last occurrence, or the whole text without one."""
    return text.split(prompt)[-1].strip() if prompt else text
