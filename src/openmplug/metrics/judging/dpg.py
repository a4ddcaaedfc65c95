"""DPG-Bench: scores of grids of pictures, by the published rule and by the strict one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from openmplug.metrics.judging.dependencies import MissingParent, yes_scores, zero_dependents

PUBLISHED, STRICT = "published", "strict"


@dataclass(frozen=True, slots=True)
class GradedPicture:
    """The answers about one file.

    Args:
        tiles: Per tile, the answer by proposition.
        parents: Propositions each depends on, 0 = none.
        categories: Level-2 category by proposition.
    """

    tiles: Sequence[Mapping[int, str]]
    parents: Mapping[int, Sequence[int]]
    categories: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class DPGScores:
    """Scores from 0 to 1.

    Args:
        pictures: Score by picture, in order.
        in_place: The same if a zeroed parent counts as failed; see ``score_pictures``.
        level1: Per category, the scores of its questions, a group for each picture.
        level2: Likewise, for the finer categories.
        failures: Reason by picture that could not be scored.
    """

    pictures: dict[str, float]
    in_place: dict[str, float]
    level1: dict[str, list[list[float]]]
    level2: dict[str, list[list[float]]]
    failures: dict[str, str]


def category_of(tuple_text: str) -> str:
    """Return the level-2 category of a proposition: the text of its tuple before the bracket.

    Example:
        >>> category_of("attribute - color (rubix cube, purple)")
        'attribute - color'
    """
    return tuple_text.split("(")[0].strip()


def broad_category(category: str) -> str:
    """Return the level-1 category of a level-2 one: the part before the hyphen.

    Example:
        >>> broad_category("attribute - color")
        'attribute'
    """
    return category.split("-")[0].strip()


def score_pictures(pictures: Mapping[str, GradedPicture], rule: str) -> DPGScores:
    """Score pictures: the mean over tiles of the mean over questions, dependents of failed ones zeroed.

    Category scores use the answers before zeroing. Under the published rule they use those of the last tile only, and a picture with
    a question whose parent was not asked is left out; the strict rule takes all tiles and refuses such a picture.

    The public script overwrites scores while it goes through the dependencies, so that there a question of a zeroed parent is zeroed
    too. ``in_place`` holds the scores under that reading.

    Args:
        pictures: By name. Under the published rule the caller has taken out the question that is never asked.
        rule: ``published`` or ``strict``.

    Raises:
        MissingParent: Under the strict rule, if a parent was not asked.
    """
    scores = DPGScores({}, {}, {}, {}, {})
    for name, picture in pictures.items():
        tiles = [yes_scores(answers) for answers in picture.tiles]
        try:
            score = _mean([_mean(list(zero_dependents(tile, picture.parents).values())) for tile in tiles])
            in_place = _mean([_mean(list(zero_dependents(tile, picture.parents, in_place=True).values())) for tile in tiles])
        except MissingParent as error:
            if rule == STRICT:
                raise MissingParent(f"picture '{name}': {error}") from None
            scores.failures[name] = str(error)
            continue
        scores.pictures[name], scores.in_place[name] = score, in_place
        _add_categories(scores, picture, tiles[-1:] if rule == PUBLISHED else tiles)
    return scores


def _add_categories(scores: DPGScores, picture: GradedPicture, tiles: Sequence[Mapping[int, float]]) -> None:
    fine: dict[str, list[float]] = {}
    for tile in tiles:
        for number, score in tile.items():
            fine.setdefault(picture.categories[number], []).append(score)
    broad: dict[str, list[float]] = {}
    for category, values in fine.items():
        scores.level2.setdefault(category, []).append(values)
        broad.setdefault(broad_category(category), []).extend(values)
    for category, values in broad.items():
        scores.level1.setdefault(category, []).append(values)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
