"""DSG-1k: the score of an item, and which category it belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from openmplug.metrics.judging.dependencies import yes_scores, zero_dependents

ALL = "all"
# In this order: the first that occurs in an item's id names its category.
_CATEGORIES = (
    ("tifa", "tifa"),
    ("stanford", "paragraph"),
    ("localized", "paragraph"),
    ("countbench", "count"),
    ("vrd", "relation"),
    ("diffusion", "real_user"),
    ("midjourney", "real_user"),
    ("posescript", "pose"),
    ("whoops", "defying"),
    ("drawtext", "text"),
)


def category_of(item_id: str) -> str | None:
    """Return the category of an item of DSG-1k, None for an item of other questions.

    Example:
        >>> category_of("stanford_paragraph_54"), category_of("mine_1")
        ('paragraph', None)
    """
    return next((category for part, category in _CATEGORIES if part in item_id), None)


def question_scores(answers: Mapping[int, str], parents: Mapping[int, Sequence[int]]) -> dict[int, float]:
    """Score an item's questions, dependents of failed ones zeroed.

    Args:
        answers: Answer by proposition; every question of the item has one, "" where the judge gave none.
        parents: See ``zero_dependents``; empty = the questions do not depend on each other.

    Raises:
        MissingParent: If a parent is not among the questions.
    """
    return zero_dependents(yes_scores(answers), parents)


def item_score(scores: Mapping[int, float]) -> float:
    """Return the mean over an item's questions; 0 for an item without any."""
    return sum(scores.values()) / len(scores) if scores else 0.0


def by_category(item_scores: Mapping[str, float]) -> dict[str, list[float]]:
    """Group the scores of items by category, in order of appearance, with all of them under ``all`` at the end."""
    groups: dict[str, list[float]] = {}
    for item, score in item_scores.items():
        category = category_of(item)
        if category is not None:
            groups.setdefault(category, []).append(score)
    return {**groups, ALL: list(item_scores.values())}


def benchmark_items(answered: Sequence[str], items: Sequence[str]) -> list[str]:
    """Return the items a model is measured on.

    One that has answers in every category of the benchmark is measured on all of it: an item without any answer scores 0 and counts.
    One that was only run on some categories (four of the five models of the released answers were on one) is measured on the items
    it answered.

    Args:
        answered: Items the model has answers for.
        items: Items of the benchmark, in order.
    """
    there = set(answered)
    if {category_of(item) for item in items} <= {category_of(item) for item in there}:
        return list(items)
    return [item for item in items if item in there]
