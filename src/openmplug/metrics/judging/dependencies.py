"""Questions that only make sense if another was answered with yes: a child of a failed parent scores 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

YES = "yes"
NO_PARENT = 0
"""What a dependency says where there is none."""


class MissingParent(ValueError):
    """A question depends on one that the item does not have, or that was not asked."""


def yes_scores(answers: Mapping[int, str]) -> dict[int, float]:
    """Score answers: 1 for exactly ``yes``, else 0.

    Example:
        >>> yes_scores({1: "yes", 2: "no", 3: "Yes"})
        {1: 1.0, 2: 0.0, 3: 0.0}
    """
    return {number: float(answer == YES) for number, answer in answers.items()}


def zero_dependents(scores: Mapping[int, float], parents: Mapping[int, Sequence[int]], in_place: bool = False) -> dict[int, float]:
    """Set the score of every question with a failed parent to 0.

    A parent counts with its own score, before any zeroing: with 1 answered no, and 2 (a child of 1) and 3 (a child of 2) answered yes,
    2 becomes 0 and 3 stays 1.

    Args:
        scores: Score by proposition.
        parents: Propositions each depends on, in the file's order; 0 = none. Those of propositions without a score are not looked at.
        in_place: Let a zeroed parent count as failed, if it comes before its child in ``parents``.

    Returns:
        Score by proposition, in the order of ``scores``.

    Raises:
        MissingParent: If a parent has no score. Parents after a failed one are not looked at, as in the public scorers.

    Source: ``calc_vqa_score`` of j-min/DSG; ``compute_dpg_one_sample`` of TencentQQGYLab/ELLA zeroes in place.

    Example:
        >>> zero_dependents({1: 0.0, 2: 1.0, 3: 1.0}, {1: [0], 2: [1], 3: [2]})
        {1: 0.0, 2: 0.0, 3: 1.0}
        >>> zero_dependents({1: 0.0, 2: 1.0, 3: 1.0}, {1: [0], 2: [1], 3: [2]}, in_place=True)
        {1: 0.0, 2: 0.0, 3: 0.0}
    """
    zeroed = dict(scores)
    known = zeroed if in_place else scores
    for number, needed in parents.items():
        if number in zeroed and _has_failed_parent(number, needed, known):
            zeroed[number] = 0.0
    return zeroed


def _has_failed_parent(number: int, needed: Sequence[int], known: Mapping[int, float]) -> bool:
    for parent in needed:
        if parent == NO_PARENT:
            continue
        if parent not in known:
            raise MissingParent(f"proposition {number} depends on {parent}, which has no answer")
        if known[parent] == 0:
            return True
    return False
