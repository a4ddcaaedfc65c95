"""From word pieces to the words a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from openmplug.data.tokenizer import CLS, MASK, PAD, SEP, Tokenizer

_UNSEEN = frozenset({CLS, SEP, PAD, MASK})


class Word(NamedTuple):
    """A word and the places of its pieces."""

    text: str
    places: tuple[int, ...]


def words_of(ids: Sequence[int], tokenizer: Tokenizer) -> list[Word]:
    """Join the pieces of a text to words; [CLS], [SEP] and padding are none.

    Example:
        >>> from openmplug.data.tokenizer import SPECIAL_TOKENS
        >>> tokenizer = Tokenizer([*SPECIAL_TOKENS, "a", "cup", "##board"])
        >>> words_of([2, 5, 6, 7, 3], tokenizer)
        [Word(text='a', places=(1,)), Word(text='cupboard', places=(2, 3))]
    """
    words: list[Word] = []
    follows = False
    for place, index in enumerate(ids):
        piece = tokenizer.vocab[index]
        if piece in _UNSEEN:
            follows = False
        elif piece.startswith("##") and len(piece) > 2 and follows:
            words[-1] = Word(words[-1].text + piece[2:], (*words[-1].places, place))
        else:
            words.append(Word(piece, (place,)))
            follows = True
    return words
