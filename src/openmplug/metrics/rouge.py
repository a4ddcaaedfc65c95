"""ROUGE-1, ROUGE-2 and ROUGE-L of summaries, the F1 that papers on Gigaword report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from openmplug.metrics.captions import longest_common_subsequence
from openmplug.metrics.stemming import stem

_NO_WORD = re.compile(r"[^a-z0-9]+")
_SHORT = 3  # longest word that is not stemmed


def rouge_words(text: str, stemmed: bool = True) -> list[str]:
    """Split a text as ROUGE does: lower case, letters and digits only, and words of more than three of them cut to their stems.

    Example:
        >>> rouge_words("Two dogs were running, it's said.")
        ['two', 'dog', 'were', 'run', 'it', 's', 'said']
    """
    words = _NO_WORD.sub(" ", text.lower()).split()
    return [stem(word) if len(word) > _SHORT else word for word in words] if stemmed else words


def rouge_scores(hypotheses: Sequence[str], references: Sequence[Sequence[str]], stemmed: bool = True) -> dict[str, float]:
    """Score summaries against what people wrote, one sentence each.

    Args:
        hypotheses: One summary per item.
        references: For each item its references, at least one; of several the best one counts, for each score by itself.
        stemmed: Compare stems, as ROUGE-1.5.5 does with ``-m``.

    Returns:
        ``rouge_1``, ``rouge_2``, ``rouge_l``: means of the items' F1, 0 to 1.

    Raises:
        ValueError: If there is nothing to score, the lengths differ, or an item has no reference.

    Source: Lin, ROUGE (2004), as ROUGE-1.5.5 computes it with ``-n 2 -m`` (F with alpha 0.5).
    """
    if len(hypotheses) != len(references) or not hypotheses:
        raise ValueError(f"{len(hypotheses)} summaries for {len(references)} records; expected as many, and at least one")
    totals = {"rouge_1": 0.0, "rouge_2": 0.0, "rouge_l": 0.0}
    for hypothesis, several in zip(hypotheses, references, strict=True):
        if not several:
            raise ValueError("a record has no reference; expected at least one")
        words = rouge_words(hypothesis, stemmed)
        others = [rouge_words(text, stemmed) for text in several]
        totals["rouge_1"] += max(_ngram_f1(words, other, 1) for other in others)
        totals["rouge_2"] += max(_ngram_f1(words, other, 2) for other in others)
        totals["rouge_l"] += max(_f1(longest_common_subsequence(words, other), len(words), len(other)) for other in others)
    return {name: total / len(hypotheses) for name, total in totals.items()}


def _ngram_f1(words: Sequence[str], others: Sequence[str], length: int) -> float:
    ours, theirs = (Counter(zip(*(text[first:] for first in range(length)), strict=False)) for text in (words, others))
    return _f1((ours & theirs).total(), ours.total(), theirs.total())


def _f1(common: int, ours: int, theirs: int) -> float:
    return 2 * common / (ours + theirs) if common else 0.0
