"""Counted n-grams of captions and their references, and how many items of a large set say each.

Shapes: N items, S sentences (hypotheses first, then all references), G different n-grams of one length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain

import numpy as np
from numpy.typing import NDArray

LONGEST = 4
_CHUNK = 20_000  # items counted at once
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, bits well mixed

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Keys = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Ngrams:
    """How often each n-gram of one order occurs in each sentence: parallel arrays, ordered by sentence, then n-gram.

    ``keys`` (G,) names each n-gram beyond this corpus: equal words, equal key.
    """

    sentence: Ints
    gram: Ints
    count: Ints
    kinds: int  # different n-grams, G
    keys: Keys

    def of(self, chosen: NDArray[np.bool_]) -> tuple[Ints, Ints, Ints]:
        """Return sentence, gram and count of some entries."""
        return self.sentence[chosen], self.gram[chosen], self.count[chosen]


class Corpus:
    """Hypotheses and references as counted n-grams.

    Attributes:
        size: N.
        item: To which item each sentence belongs, (S,).
        lengths: Words of each sentence, (S,).
        orders: n-grams of length 1 to 4.
    """

    def __init__(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        sentences = [text.split() for text in chain(hypotheses, chain.from_iterable(references))]
        self.size = len(hypotheses)
        owners = np.repeat(np.arange(self.size), [len(several) for several in references])
        self.item = np.concatenate([np.arange(self.size), owners])
        self.lengths = np.array([len(words) for words in sentences], dtype=np.int64)
        self.orders = list(self._count(sentences))

    def frequency(self, grams: Ngrams) -> Ints:
        """Count the items whose references hold each n-gram, (G,)."""
        from_reference = grams.sentence >= self.size
        seen = np.unique(self.item[grams.sentence[from_reference]] * grams.kinds + grams.gram[from_reference])
        return np.bincount(seen % grams.kinds, minlength=grams.kinds)

    def _count(self, sentences: list[list[str]]) -> Iterator[Ngrams]:
        numbers: dict[str, int] = {}
        words = np.array([numbers.setdefault(word, len(numbers)) for sentence in sentences for word in sentence], dtype=np.int64)
        names = np.array([_name(word) for word in numbers], dtype=np.uint64)
        sentence = np.repeat(np.arange(len(sentences)), self.lengths)
        ends = np.repeat(np.cumsum(self.lengths), self.lengths)
        start = np.arange(len(words))
        gram = words
        name = names[words] if len(words) else names
        for order in range(1, LONGEST + 1):
            if order > 1:
                # An n-gram is the (n-1)-gram that starts at the same place and one more word; renumbered, so that numbers stay small.
                fits = start + order <= ends[start]
                start, gram = start[fits], gram[fits]
                following = words[start + order - 1]
                name = name[fits] * _MULTIPLIER + names[following] if len(start) else name[fits]
                gram = np.unique(gram * max(len(numbers), 1) + following, return_inverse=True)[1]
            kinds = int(gram.max()) + 1 if len(gram) else 1
            keys = np.zeros(kinds, dtype=np.uint64)
            keys[gram] = name
            pairs, counts = np.unique(sentence[start] * kinds + gram, return_counts=True)
            yield Ngrams(pairs // kinds, pairs % kinds, counts, kinds, keys)


class DocumentFrequencies:
    """How many items of a set say each n-gram, kept small: 12 bytes for each different one.

    Args:
        references: For each item what people wrote, tokens separated by white space.

    Attributes:
        documents: Items counted.

    Raises:
        ValueError: If there are none.
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        if not references:
            raise ValueError("no references to count n-grams of; give those of the training set")
        self.documents = len(references)
        parts: list[list[tuple[Keys, Ints]]] = [[] for _ in range(LONGEST)]
        for first in range(0, len(references), _CHUNK):
            some = references[first : first + _CHUNK]
            corpus = Corpus([""] * len(some), some)
            for part, grams in zip(parts, corpus.orders, strict=True):
                part.append((grams.keys, corpus.frequency(grams)))
        self._orders = [_merged(part) for part in parts]

    def of(self, order: int, keys: Keys) -> Ints:
        """Return the frequency of n-grams of ``order + 1`` words, (G,); 0 where the set has none."""
        known, frequency = self._orders[order]
        return look_up(known, frequency, keys).astype(np.int64)


def _merged(parts: Sequence[tuple[Keys, Ints]]) -> tuple[Keys, NDArray[np.int32]]:
    keys, inverse = np.unique(np.concatenate([key for key, _ in parts]), return_inverse=True)
    total = np.bincount(inverse, weights=np.concatenate([count for _, count in parts]), minlength=len(keys))
    return keys, total.astype(np.int32)


def _name(word: str) -> int:
    # Python's own hash differs from process to process. 64 bits: of ten million n-grams two share a name once in 370,000 sets.
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def look_up(keys: NDArray[np.generic], values: NDArray[np.generic], wanted: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return the value at each wanted key, 0 where there is none; ``keys`` ascend."""
    if not len(keys):
        return np.zeros(len(wanted), dtype=values.dtype)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], np.zeros((), dtype=values.dtype))
