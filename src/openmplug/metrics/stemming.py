"""Porter's stemmer, which ROUGE uses so that "runs" and "running" are one word.

Source: M. F. Porter, An algorithm for suffix stripping, 1980, with the two changes of his own later programs (``bli``, ``logi``).
"""

from __future__ import annotations

from functools import lru_cache

# Longest suffix first wherever one ends in another; each with what takes its place.
_STEP_2 = (
    *(("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"), ("izer", "ize"), ("bli", "ble"), ("alli", "al")),
    *(("entli", "ent"), ("eli", "e"), ("ousli", "ous"), ("ization", "ize"), ("ation", "ate"), ("ator", "ate"), ("alism", "al")),
    *(("iveness", "ive"), ("fulness", "ful"), ("ousness", "ous"), ("aliti", "al"), ("iviti", "ive"), ("biliti", "ble"), ("logi", "log")),
)
_STEP_3 = (("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", ""))
_STEP_4 = "al ance ence er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize".split()
_LONGEST_FIRST = tuple(sorted(_STEP_4, key=len, reverse=True))


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """Cut a lower-case word to its stem; words of one or two letters stay.

    Example:
        >>> [stem(word) for word in ("caresses", "ponies", "hopping", "filing", "relational", "adjustment", "sky")]
        ['caress', 'poni', 'hop', 'file', 'relat', 'adjust', 'sky']
    """
    if len(word) <= 2:
        return word
    return _step_5(_step_4(_step_3(_step_2(_step_1c(_step_1b(_step_1a(word)))))))


def _consonants(word: str) -> str:
    """Write each letter as c (consonant) or v (vowel); y after a consonant is a vowel."""
    kinds = ""
    for letter in word:
        kinds += "v" if letter in "aeiou" or (letter == "y" and kinds[-1:] == "c") else "c"
    return kinds


def _measure(stem: str) -> int:
    return _consonants(stem).count("vc")


def _ends_double(word: str) -> bool:
    return len(word) > 1 and word[-1] == word[-2] and _consonants(word)[-1] == "c"


def _ends_short(word: str) -> bool:
    return _consonants(word)[-3:] == "cvc" and word[-1] not in "wxy"


def _step_1a(word: str) -> str:
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _step_1b(word: str) -> str:
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    cut = next((word[: -len(suffix)] for suffix in ("ed", "ing") if word.endswith(suffix)), None)
    if cut is None or "v" not in _consonants(cut):
        return word
    if cut.endswith(("at", "bl", "iz")):
        return cut + "e"
    if _ends_double(cut) and cut[-1] not in "lsz":
        return cut[:-1]
    return cut + "e" if _measure(cut) == 1 and _ends_short(cut) else cut


def _step_1c(word: str) -> str:
    return word[:-1] + "i" if word.endswith("y") and "v" in _consonants(word[:-1]) else word


def _replace(word: str, table: tuple[tuple[str, str], ...]) -> str:
    for suffix, new in table:
        if word.endswith(suffix):
            cut = word[: -len(suffix)]
            return cut + new if _measure(cut) > 0 else word
    return word


def _step_2(word: str) -> str:
    return _replace(word, _STEP_2)


def _step_3(word: str) -> str:
    return _replace(word, _STEP_3)


def _step_4(word: str) -> str:
    for suffix in _LONGEST_FIRST:
        if word.endswith(suffix):
            cut = word[: -len(suffix)]
            fits = _measure(cut) > 1 and (suffix != "ion" or cut.endswith(("s", "t")))
            return cut if fits else word
    return word


def _step_5(word: str) -> str:
    if word.endswith("e"):
        measure = _measure(word[:-1])
        if measure > 1 or (measure == 1 and not _ends_short(word[:-1])):
            word = word[:-1]
    return word[:-1] if word.endswith("ll") and _measure(word) > 1 else word
