"""What can be said about a scene of the generated data set: captions, questions with answers, and statements true or false.

All words follow from the scene, none from its pixels. Words about a training scene name no pair of ``UNSEEN``, not even to deny it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from openmplug.data.shapes_scene import COLOURS, PAIRS, SHAPES, UNSEEN, Figure, Scene

_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")


def relation(first: Figure, second: Figure) -> str | None:
    """Say how the first figure lies to the second: "left of", "right of", "above", "below"; None if they lie askew."""
    if first.row == second.row:
        return "left of" if first.column < second.column else "right of"
    if first.column == second.column:
        return "above" if first.row < second.row else "below"
    return None


def captions(scene: Scene) -> list[str]:
    """Describe a scene in two equally true ways."""
    figures = scene.figures
    if len(figures) == 1:
        (figure,) = figures
        place = f"at the {_ROWS[figure.row]} {_COLUMNS[figure.column]}"
        return [f"a {figure.name} {place}", f"{place} a {figure.name}"]
    if len(figures) == 2:
        return [f"a {first.name} {relation(first, second)} a {second.name}" for first, second in (figures, figures[::-1])]
    return [_listed([figure.name for figure in order]) for order in (figures, figures[::-1])]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"a {name}" for name in names[:-1]) + f" and a {names[-1]}"


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its one answer; ``kind`` is colour, shape, count, exists, where or relation."""

    kind: str
    text: str
    answer: str


def questions(scene: Scene, rng: random.Random, asked: Counter[tuple[str, str]]) -> list[Question]:
    """Ask one question of each kind that the scene allows.

    Of the possible ones the (question, answer) asked least so far is taken, so answers to one question are about equally frequent
    and the question alone tells little.

    Args:
        scene: What to ask about; a dev scene is asked about its focus where possible.
        rng: Where chance comes from.
        asked: How often each (question, answer) was asked; updated.
    """
    chosen = []
    for candidates in (_colours, _shapes, _counts, _exists, _where, _relations):
        possible = candidates(scene, rng)
        if possible:
            rng.shuffle(possible)
            question = min(possible, key=lambda each: asked[each.text, each.answer])
            asked[question.text, question.answer] += 1
            chosen.append(question)
    return chosen


def _focused(scene: Scene, figures: Sequence[Figure]) -> Sequence[Figure]:
    """Keep the focus only, if it is among the figures."""
    focus = [figure for figure in figures if scene.focus is not None and figure is scene.figures[scene.focus]]
    return focus or figures


def _colours(scene: Scene, rng: random.Random) -> list[Question]:
    shapes = Counter(figure.shape for figure in scene.figures)
    alone = [figure for figure in scene.figures if shapes[figure.shape] == 1]
    return [Question("colour", f"what colour is the {figure.shape}?", figure.colour) for figure in _focused(scene, alone)]


def _shapes(scene: Scene, rng: random.Random) -> list[Question]:
    colours = Counter(figure.colour for figure in scene.figures)
    alone = [figure for figure in scene.figures if colours[figure.colour] == 1]
    return [Question("shape", f"what shape is the {figure.colour} thing?", figure.shape) for figure in _focused(scene, alone)]


def _counts(scene: Scene, rng: random.Random) -> list[Question]:
    found = Counter(word for figure in scene.figures for word in figure.pair)
    named = [(f"{shape}s" if shape != "cross" else "crosses", found[shape]) for shape in SHAPES]
    named += [(f"{colour} things", found[colour]) for colour in COLOURS]
    return [Question("count", f"how many {name} are there?", str(count)) for name, count in [*named, ("things", len(scene.figures))]]


def _exists(scene: Scene, rng: random.Random) -> list[Question]:
    focus = _focused(scene, scene.figures)
    # Asked about in equal parts: what is there, and what is made of a colour and a shape that are there but is not.
    known = UNSEEN if scene.focus is not None else [pair for pair in PAIRS if pair not in UNSEEN]
    absent = [pair for pair in known if pair not in scene.pairs]
    near = [pair for pair in absent if any(pair[0] == figure.colour or pair[1] == figure.shape for figure in scene.figures)]
    if rng.random() < 0.5:
        return [Question("exists", f"is there a {figure.name}?", "yes") for figure in focus]
    return [Question("exists", f"is there a {colour} {shape}?", "no") for colour, shape in near or absent]


def _related(scene: Scene) -> list[tuple[Figure, Figure, str]]:
    every = [(first, second, relation(first, second)) for first in scene.figures for second in scene.figures if first is not second]
    found = [(first, second, how) for first, second, how in every if how is not None]
    focus = scene.figures[scene.focus] if scene.focus is not None else None
    return [each for each in found if focus in each[:2]] or found


def _where(scene: Scene, rng: random.Random) -> list[Question]:
    text = "where is the {} relative to the {}?"
    return [Question("where", text.format(a.name, b.name), how.removesuffix(" of")) for a, b, how in _related(scene)]


def _relations(scene: Scene, rng: random.Random) -> list[Question]:
    if rng.random() < 0.5:
        return [Question("relation", f"is the {a.name} {how} the {b.name}?", "yes") for a, b, how in _related(scene)]
    wrong = [(a, b, other) for a, b, how in _related(scene) for other in _OPPOSITE if other != how]
    return [Question("relation", f"is the {a.name} {how} the {b.name}?", "no") for a, b, how in wrong]


def statements(scene: Scene, rng: random.Random) -> list[tuple[str, bool]]:
    """State something true about a scene and something false that differs in one word."""
    if len(scene.figures) == 2 and rng.random() < 0.5:
        first, second = scene.figures
        how = relation(first, second) or ""
        text = f"the {first.name} is {{}} the {second.name}"
        return [(text.format(how), True), (text.format(_OPPOSITE[how]), False)]
    figure = rng.choice(_focused(scene, scene.figures))
    known = PAIRS if scene.focus is not None else [pair for pair in PAIRS if pair not in UNSEEN]
    wrong = [pair for pair in known if pair not in scene.pairs and (pair[0] == figure.colour) != (pair[1] == figure.shape)]
    changed = " ".join(rng.choice(wrong))
    return [(f"there is a {name}", name == figure.name) for name in (figure.name, changed)]
