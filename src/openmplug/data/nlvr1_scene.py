"""What a drawing of NLVR shows: three boxes of coloured shapes; those of the data set, and new ones drawn by chance.

A scene is three white boxes of 100 x 100 px, 150 px from one to the next, with circles, triangles and squares of three sizes in three
colours; its six pictures differ in the order of the boxes. Two thirds of the scenes are towers: squares of 20 px on one another.

Source: ``structured_rep`` of github.com/lil-lab/nlvr, folder nlvr (Suhr et al. 2017).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations

BOXES = 3
STEP = 150  # px from the left side of one box to that of the next
SIDE = 100  # px
SIZES = {10: "small", 20: "medium", 30: "large"}
COLOURS = {"#0099ff": "blue", "yellow": "yellow", "black": "black"}
SHAPES = ("circle", "square", "triangle")
NAMES = tuple(COLOURS.values())
BLOCK = 20  # px, side of a tower's squares
PLACES = ("left", "middle", "right")


@dataclass(frozen=True)
class Thing:
    """A figure: ``left`` and ``top`` are px within its box."""

    shape: str
    colour: str
    size: int
    left: int
    top: int

    def touches(self, edge: str) -> bool:
        """Say whether it touches the ``bottom``, the ``right`` wall, a ``corner``, or any ``edge``, of its box."""
        left, top, right, bottom = (gap <= 0 for gap in (self.left, self.top, SIDE - self.left - self.size, SIDE - self.top - self.size))
        corner = (left or right) and (top or bottom)
        return {"bottom": bottom, "right": right, "corner": corner, "edge": left or top or right or bottom}[edge]

    def meets(self, other: Thing) -> bool:
        """Say whether the squares around the two have a pixel in common, or lie side by side without one between them."""
        return max(self.left - other.left - other.size, other.left - self.left - self.size) < 1 and (
            max(self.top - other.top - other.size, other.top - self.top - self.size) < 1
        )


Scene = tuple[tuple[Thing, ...], ...]
"""The things of each box, from left to right."""


def orders(scene: Scene) -> Iterator[Scene]:
    """Yield the scene of each of its six pictures, as NLVR numbers them."""
    return permutations(scene)


def is_tower(scene: Scene) -> bool:
    """Say whether all of a scene's things are blocks of towers."""
    return all(one.shape == "square" and one.size == BLOCK for box in scene for one in box)


def make_scene(rng: random.Random, tower: bool) -> Scene:
    """Draw a scene by chance, in numbers like the data set's.

    Args:
        rng: Where chance comes from.
        tower: One to four blocks on one another in each box; else one to seven things anywhere.
    """
    return tuple(_tower(rng) if tower else _scattered(rng) for _ in range(BOXES))


def _tower(rng: random.Random) -> tuple[Thing, ...]:
    return tuple(
        Thing("square", rng.choice(NAMES), BLOCK, (SIDE - BLOCK) // 2, SIDE - BLOCK - storey * (BLOCK + 1))
        for storey in range(rng.randint(1, 4))
    )


def _scattered(rng: random.Random, tries: int = 50) -> tuple[Thing, ...]:
    things: list[Thing] = []
    for _ in range(rng.randint(1, 7)):
        shape, colour, size = rng.choice(SHAPES), rng.choice(NAMES), rng.choice(tuple(SIZES))
        for _ in range(tries):
            one = Thing(shape, colour, size, _place(rng, size), _place(rng, size))
            if not any(one.meets(other) for other in things):
                things.append(one)
                break
    return tuple(things)


def _place(rng: random.Random, size: int) -> int:
    """Choose a thing's left or top side: a fifth of them touch the right wall, or the base; few the left one, or the top."""
    chance, most = rng.random(), SIDE - size
    return most if chance < 0.2 else 0 if chance < 0.22 else rng.randint(1, most - 1)


def alter(scene: Scene, rng: random.Random) -> Scene:
    """Change one thing of a scene: give it another colour, or a neighbour's and the neighbour its own, or take it away.

    Two scenes drawn apart differ in so much that what there is tells what lies over what: three of four statements can be judged without
    looking at an order.
    """
    boxes = [list(box) for box in scene]
    box = rng.choice([box for box in boxes if box])
    at, kind = rng.randrange(len(box)), rng.randrange(3)
    if kind == 0 or len(box) == 1:
        box[at] = replace(box[at], colour=rng.choice([name for name in NAMES if name != box[at].colour]))
    elif kind == 1:
        other = (at + 1) % len(box)
        box[at], box[other] = replace(box[at], colour=box[other].colour), replace(box[other], colour=box[at].colour)
    else:
        del box[-1 if is_tower(scene) else at]  # of a tower the topmost
    return tuple(tuple(box) for box in boxes)
