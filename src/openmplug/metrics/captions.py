"""BLEU-1..4, ROUGE-L and CIDEr of captions, held to the numbers of the official COCO scorers.

Captions are strings of tokens separated by white space; ``caption_scores`` makes them from plain text first. ``cider`` is the metric
that papers report as "CIDEr" on COCO: the official scorer of that name computes CIDEr-D (clipped counts, a Gaussian penalty on the
difference in length), with document frequencies taken from the references at hand.

Shapes: N items, S sentences (hypotheses first, then all references), G different n-grams.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from openmplug.metrics.ngrams import Corpus, DocumentFrequencies, Floats, look_up
from openmplug.metrics.ptb import ptb_tokenise

__all__ = ["bleu", "caption_scores", "check_captions", "cider", "ptb_tokenise", "rouge_l"]

_ROUGE_BETA = 1.2
_CIDER_SIGMA = 6.0
# Keep the fractions of the official BLEU finite; they show in a corpus without a single 4-gram match (1e-4 instead of 0).
_TINY, _SMALL = 1e-15, 1e-9


def caption_scores(hypotheses: Sequence[str], references: Sequence[Sequence[str]], tokenise: bool = True) -> dict[str, float]:
    """Score captions against several references each.

    Args:
        hypotheses: One caption per item, (N,).
        references: For each item what people wrote, at least one each.
        tokenise: Split, lower-case and drop punctuation first, as COCO evaluation does. Without, texts are split at white space as
            they are.

    Returns:
        ``bleu_1`` to ``bleu_4``, ``rouge_l`` (0 to 1) and ``cider`` (0 to 10).

    Raises:
        ValueError: If there is nothing to score, the lengths differ, or an item has no reference.
    """
    check_captions(hypotheses, references)
    if tokenise:
        hypotheses = [ptb_tokenise(text) for text in hypotheses]
        references = [[ptb_tokenise(text) for text in several] for several in references]
    corpus = Corpus(hypotheses, references)
    scores = {f"bleu_{order}": value for order, value in enumerate(_bleu(corpus), start=1)}
    return scores | {"rouge_l": rouge_l(hypotheses, references)[0], "cider": float(_cider(corpus).mean())}


def bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return corpus BLEU-1 to BLEU-4 with the closest reference length.

    Args:
        hypotheses: One caption per item, tokens separated by white space.
        references: For each item its references, likewise.

    Raises:
        ValueError: As :func:`caption_scores`.
    """
    check_captions(hypotheses, references)
    return _bleu(Corpus(hypotheses, references))


def cider(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], frequencies: DocumentFrequencies | None = None
) -> tuple[float, Floats]:
    """Return the CIDEr of the official COCO scorer, which is CIDEr-D: the mean, and each item's score.

    Scores depend on the whole set: a single item scores 0, since all its words occur in every item. With the frequencies of another
    set they do not: so a few captions can be rewarded during training.

    Args:
        hypotheses: One caption per item, tokens separated by white space.
        references: For each item its references, likewise.
        frequencies: How many items of a training set say each n-gram; None counts these references.

    Returns:
        Mean and scores (N,), 0 to 10.

    Raises:
        ValueError: As :func:`caption_scores`.

    Source: Vedantam et al., CIDEr (CVPR 2015); sigma 6, no stemming, the length in the penalty counted in bigrams as there.
    """
    check_captions(hypotheses, references)
    scores = _cider(Corpus(hypotheses, references), frequencies)
    return float(scores.mean()), scores


def rouge_l(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, Floats]:
    """Return ROUGE-L: the mean, and each item's score.

    Of an item's references the best recall and the best precision count, even where they belong to different ones.

    Args:
        hypotheses: One caption per item, tokens separated by white space.
        references: For each item its references, likewise.

    Returns:
        Mean and scores (N,), 0 to 1.

    Raises:
        ValueError: As :func:`caption_scores`.
    """
    check_captions(hypotheses, references)
    scores = np.zeros(len(hypotheses))
    for item, (hypothesis, several) in enumerate(zip(hypotheses, references, strict=True)):
        words = hypothesis.split()
        pairs = [(longest_common_subsequence(words, reference.split()), len(reference.split())) for reference in several]
        recall = max(common / max(length, 1) for common, length in pairs)
        precision = max(common for common, _ in pairs) / max(len(words), 1)
        if recall > 0 and precision > 0:
            square = _ROUGE_BETA**2
            scores[item] = (1 + square) * precision * recall / (recall + square * precision)
    return float(scores.mean()), scores


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence.

    Bit-parallel: one integer holds a column of the usual table, bit i is 0 where the value grows from row i to row i + 1.
    """
    places: dict[str, int] = {}
    for index, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << index
    everything = (1 << len(first)) - 1
    column = everything
    for word in second:
        matches = column & places.get(word, 0)
        column = ((column + matches) | (column - matches)) & everything
    return len(first) - column.bit_count()


def check_captions(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Refuse what no caption metric can score.

    Raises:
        ValueError: If there is nothing to score, the lengths differ, or an item has no reference.
    """
    if len(hypotheses) != len(references) or not hypotheses:
        raise ValueError(f"{len(hypotheses)} captions and {len(references)} lists of references; expected as many of each, at least one")
    for item, several in enumerate(references):
        if isinstance(several, str) or not several:
            raise ValueError(f"item {item} has references {several!r}; expected a list of at least one text")


def _bleu(corpus: Corpus) -> list[float]:
    hypothesis_lengths = corpus.lengths[: corpus.size]
    distance = np.abs(corpus.lengths - hypothesis_lengths[corpus.item])[corpus.size :]
    # The closest reference, of equally close ones the shorter: sorted, so the first entry of each item.
    order = np.lexsort((corpus.lengths[corpus.size :], distance, corpus.item[corpus.size :]))
    first = order[np.unique(corpus.item[corpus.size :][order], return_index=True)[1]]
    reference_length = int(corpus.lengths[corpus.size :][first].sum())
    ratio = (int(hypothesis_lengths.sum()) + _TINY) / (reference_length + _SMALL)
    brevity = float(np.exp(1 - 1 / ratio)) if ratio < 1 else 1.0

    scores, product = [], 1.0
    for length, grams in enumerate(corpus.orders, start=1):
        ours, gram, count = grams.of(grams.sentence < corpus.size)
        theirs, their_gram, their_count = grams.of(grams.sentence >= corpus.size)
        keys, inverse = np.unique(corpus.item[theirs] * grams.kinds + their_gram, return_inverse=True)
        most = np.zeros(len(keys), dtype=np.int64)
        np.maximum.at(most, inverse, their_count)
        correct = int(np.minimum(count, look_up(keys, most, ours * grams.kinds + gram)).sum())
        guesses = int(np.maximum(hypothesis_lengths - length + 1, 0).sum())
        product *= (correct + _TINY) / (guesses + _SMALL)
        scores.append(product ** (1 / length) * brevity)
    return scores


def _cider(corpus: Corpus, frequencies: DocumentFrequencies | None = None) -> Floats:
    documents = corpus.size if frequencies is None else frequencies.documents
    of_references = slice(corpus.size, None)
    item = corpus.item[of_references]
    # As the official code counts it, a sentence's length is its number of bigrams.
    length = np.maximum(corpus.lengths - 1, 0)
    penalty = np.exp(-((length[item] - length[of_references]) ** 2) / (2 * _CIDER_SIGMA**2))

    similarity = np.zeros(len(item))
    for order, grams in enumerate(corpus.orders):
        from_reference = grams.sentence >= corpus.size
        frequency = corpus.frequency(grams) if frequencies is None else frequencies.of(order, grams.keys)  # (G,)
        weight = grams.count * (np.log(documents) - np.log(np.maximum(frequency, 1)))[grams.gram]
        norm = np.sqrt(np.bincount(grams.sentence, weights=weight**2, minlength=len(corpus.item)))  # (S,)

        hypothesis_keys = (grams.sentence * grams.kinds + grams.gram)[~from_reference]
        reference, gram, _ = grams.of(from_reference)
        theirs = weight[from_reference]
        ours = look_up(hypothesis_keys, weight[~from_reference], corpus.item[reference] * grams.kinds + gram)
        dot = np.bincount(reference - corpus.size, weights=np.minimum(ours, theirs) * theirs, minlength=len(item))
        norms = norm[item] * norm[of_references]
        similarity += np.divide(dot, norms, out=np.zeros(len(item)), where=norms > 0)
    per_reference = similarity * penalty / len(corpus.orders)
    return 10.0 * np.bincount(item, weights=per_reference, minlength=corpus.size) / np.bincount(item, minlength=corpus.size)
