"""What answers about DPG-Bench come to: tiles put together, the figures of both rules, and a row per question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openmplug.data.readers.judging import GivenAnswer, Proposition, Questions
from openmplug.errors import DataError
from openmplug.inference.judge.report import figure
from openmplug.metrics.judging.dependencies import yes_scores, zero_dependents
from openmplug.metrics.judging.dpg import PUBLISHED, STRICT, DPGScores, GradedPicture, category_of, score_pictures

Tiles = Mapping[str, Sequence[Mapping[int, str]]]
"""Per item, the answer by proposition of each tile."""


def collect_tiles(given: Sequence[GivenAnswer]) -> tuple[dict[str, list[dict[int, str]]], dict[str, str]]:
    """Return the answers of each item's tiles, and the reason for each item whose picture could not be read."""
    reasons = {each.item_id: each.error for each in given if each.error}
    found: dict[str, dict[int, dict[int, str]]] = {}
    for each in given:
        if each.item_id not in reasons:
            found.setdefault(each.item_id, {}).setdefault(each.tile, {})[each.number] = each.answer
    return {item: [tiles[number] for number in sorted(tiles)] for item, tiles in found.items()}, reasons


def figures_of(asked: Questions, tiles: Tiles, unread: Mapping[str, str], rule: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Compute the figures of both rules.

    Args:
        asked: The questions.
        tiles: The answers.
        unread: Reason by item whose picture could not be read.
        rule: The one that gives the score; the other is computed where it can be.

    Returns:
        Figures by rule, and the reason by item that the published rule leaves out.

    Raises:
        DataError: If the published rule is wanted and leaves everything out, or the strict one and anything failed.
    """
    complete, gaps = _grade(asked, tiles, first_row=True)
    problems = {**unread, **gaps, **{item: asked.absent[item] for item in tiles if item in asked.absent}}
    if rule == STRICT and problems:
        item, reason = next(iter(problems.items()))
        raise DataError(f"item '{item}': {reason}")
    pictures, left_out = _grade(asked, tiles, first_row=False)
    scores = score_pictures(pictures, PUBLISHED)
    left_out = {**unread, **left_out, **scores.failures}
    if rule == PUBLISHED and not scores.pictures:
        raise DataError(f"none of the {len(left_out):,} pictures could be scored; the first: {next(iter(left_out.values()), 'no answers')}")
    figures: dict[str, Any] = {PUBLISHED: _figure(scores) if scores.pictures else {"not_computed": "every picture is left out"}}
    if problems:
        item, reason = next(iter(problems.items()))
        figures[STRICT] = {"not_computed": f"{len(problems):,} pictures failed, the first '{item}': {reason}"}
    else:
        figures[STRICT] = _figure(score_pictures(complete, STRICT))
    return figures, left_out


def _grade(asked: Questions, tiles: Tiles, first_row: bool) -> tuple[dict[str, GradedPicture], dict[str, str]]:
    """Put answers and questions together, with or without the first row of the questions; say what is missing where."""
    most = max((len(each) for each in tiles.values()), default=0)
    pictures: dict[str, GradedPicture] = {}
    gaps: dict[str, str] = {}
    for item, answered in tiles.items():
        wanted = {number: each for number, each in asked.items[item].items() if first_row or (item, number) != asked.first}
        gap = _gap(wanted, answered, most)
        if gap:
            gaps[item] = gap
            continue
        pictures[item] = GradedPicture(
            [{number: tile[number] for number in wanted} for tile in answered],
            {number: each.parents for number, each in wanted.items()},
            {number: category_of(each.tuple_text) for number, each in wanted.items()},
        )
    return pictures, gaps


def _gap(wanted: Mapping[int, Proposition], tiles: Sequence[Mapping[int, str]], expected: int) -> str:
    """Say which answer is missing; empty if none is."""
    if not wanted:
        return "its only question stands in the first row of the questions, which is never asked"
    if len(tiles) < expected:
        return f"has answers about {len(tiles)} of {expected} tiles"
    for position, tile in enumerate(tiles, start=1):
        for number in wanted:
            if number not in tile:
                return f"tile {position} has no answer to proposition {number}"
    return ""


def _figure(scores: DPGScores) -> dict[str, Any]:
    whole = figure([[score] for score in scores.pictures.values()], 100)
    in_place = 100 * sum(scores.in_place.values()) / len(scores.in_place)
    levels = {
        name: {category: {"questions": sum(map(len, groups)), **figure(groups, 100)} for category, groups in sorted(level.items())}
        for name, level in (("level1", scores.level1), ("level2", scores.level2))
    }
    return {"pictures": len(scores.pictures), **whole, "score_zeroing_in_place": in_place, **levels}


def differences(figures: Mapping[str, Any]) -> list[str]:
    """Say in words where the figures differ."""
    published, strict = figures[PUBLISHED], figures[STRICT]
    notes = [f"the {name} rule gives no score: {each['not_computed']}" for name, each in figures.items() if "not_computed" in each]
    if not notes and published["score"] != strict["score"]:
        notes.append(f"published rule {published['score']:.2f}, strict rule {strict['score']:.2f}")
    if published.get("score") != published.get("score_zeroing_in_place"):
        notes.append(
            f"published rule {published['score']:.2f}; {published['score_zeroing_in_place']:.2f} where a zeroed parent zeroes its own"
            " dependents too, as the public script's code does"
        )
    return notes


def answer_rows(asked: Questions, given: Sequence[GivenAnswer]) -> list[dict[str, Any]]:
    """Return a row per question, in order; the score with dependencies is that of all questions asked."""
    by_tile: dict[tuple[str, int], dict[int, str]] = {}
    for each in given:
        by_tile.setdefault((each.item_id, each.tile), {})[each.number] = each.answer
    zeroed: dict[tuple[str, int], dict[int, float]] = {}
    for key, answers in by_tile.items():
        parents = {number: [p for p in asked.items[key[0]][number].parents if p in answers] for number in answers}
        zeroed[key] = zero_dependents(yes_scores(answers), parents)
    rows = []
    for each in given:
        row: dict[str, Any] = {
            "item_id": each.item_id,
            "tile": each.tile,
            "proposition_id": each.number,
            "question": asked.items[each.item_id][each.number].question,
        }
        if each.error:
            row["error"] = each.error
        else:
            row |= {
                "answer": each.answer,
                "score": float(each.answer == "yes"),
                "score_with_dependencies": zeroed[each.item_id, each.tile][each.number],
            }
        rows.append(row)
    return rows
