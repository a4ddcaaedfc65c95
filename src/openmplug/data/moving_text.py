"""What can be said about a clip of the generated moving-shapes set: captions, and questions with answers.

All words follow from the clip, none from its pixels.
"""

from __future__ import annotations

import random
from collections import Counter

from openmplug.data.moving_scene import Clip
from openmplug.data.shapes_text import Question

MOTION_KINDS = ("direction", "first", "order")
"""Kinds of question that no single frame answers."""


def captions(clip: Clip) -> list[str]:
    """Describe a clip in two equally true ways; in three where there are turns, in the words in which is asked for them."""
    told = [f"a {mover.name} moves {mover.direction}" for mover in clip.movers]
    if len(told) == 1:
        (mover,) = clip.movers
        return [told[0], f"moving {mover.direction}, a {mover.name}"]
    if clip.turns:
        first, last = told
        return [
            f"first {first}, last {last}",
            f"{first} first, {last} last",
            f"{last} last, {first} first",
        ]
    return [" while ".join(told), " while ".join(reversed(told))]


def questions(clip: Clip, rng: random.Random, asked: Counter[tuple[str, str]]) -> list[Question]:
    """Ask one question of each kind that the clip allows: direction, first and order (motion), colour, shape and count.

    Of the possible ones the (question, answer) asked least so far is taken, so answers to one question are about equally frequent
    and the question alone tells little.

    Args:
        clip: What to ask about.
        rng: Where chance comes from.
        asked: How often each (question, answer) was asked; updated.
    """
    chosen = []
    for candidates in (_directions, _first, _order, _colours, _shapes, _counts):
        possible = candidates(clip)
        if possible:
            rng.shuffle(possible)
            question = min(possible, key=lambda each: asked[each.text, each.answer])
            asked[question.text, question.answer] += 1
            chosen.append(question)
    return chosen


def _directions(clip: Clip) -> list[Question]:
    return [Question("direction", f"which way does the {mover.name} move?", mover.direction) for mover in clip.movers]


def _first(clip: Clip) -> list[Question]:
    # Always the first: a word that turns the answer round ("first or last") is learned later than anything else here, or never.
    return [Question("first", "what colour is the thing that moves first?", clip.movers[0].colour)] if clip.turns else []


def _order(clip: Clip) -> list[Question]:
    turns = zip(clip.movers, ("first", "last"), strict=True) if clip.turns else ()
    return [Question("order", f"does the {mover.name} move {mover.direction} first or last?", turn) for mover, turn in turns]


def _colours(clip: Clip) -> list[Question]:
    shapes = Counter(mover.shape for mover in clip.movers)
    alone = [mover for mover in clip.movers if shapes[mover.shape] == 1]
    return [Question("colour", f"what colour is the {mover.shape}?", mover.colour) for mover in alone]


def _shapes(clip: Clip) -> list[Question]:
    return [Question("shape", f"what shape is the {mover.colour} thing?", mover.shape) for mover in clip.movers]


def _counts(clip: Clip) -> list[Question]:
    shapes = Counter(mover.shape for mover in clip.movers)
    named = [(f"{shape}s" if shape != "cross" else "crosses", number) for shape, number in shapes.items()]
    return [Question("count", f"how many {name} are there?", str(number)) for name, number in [*named, ("things", len(clip.movers))]]
