"""What the front door gives back: small frozen dataclasses, a score in each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and how sure it is.

    Args:
        text: The answer.
        score: Written freely: the length-normalised log probability (<= 0, higher is surer). Chosen from candidates: its probability
            among them.
        candidates: The candidates with their probabilities, best first; empty for an answer written freely.
    """

    text: str
    score: float
    candidates: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption and its length-normalised log probability (<= 0, higher is surer)."""

    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Label:
    """A class or a number.

    Args:
        text: The class's name, or the number written out.
        score: The class's probability (0 to 1), or the number.
        probabilities: The likeliest classes with their probabilities, best first; empty for a number.
    """

    text: str
    score: float
    probabilities: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Match:
    """How well a text fits a picture: the matching head's probability (0 to 1) and the cosine similarity of both (-1 to 1).

    The probability is None where the model was trained without matching (``settings.matching_weight: 0``).
    """

    probability: float | None
    similarity: float


@dataclass(frozen=True, slots=True)
class Box:
    """Where a phrase is in a picture: left, top, right and bottom in the picture's own pixels.

    The score is the probability of the four coordinates, each one given those before it.
    """

    left: float
    top: float
    right: float
    bottom: float
    score: float
