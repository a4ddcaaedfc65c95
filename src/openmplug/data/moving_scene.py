"""What a clip of the generated moving-shapes set shows: one to three coloured shapes, which way each moves, and when.

A clip says everything; ``openmplug.data.moving`` draws it and ``openmplug.data.moving_text`` puts it into words. The picture is a torus:
what leaves at one side comes back at the other. So every single frame shows shapes at places that are equally likely whichever way they
move and whichever moves first: what moves, and when, is seen in several frames or not at all.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from openmplug.data import shapes_scene
from openmplug.data.shapes_scene import SIZE, Pair

FRAMES = 8
COLOURS, SHAPES = ("red", "green", "blue", "yellow"), ("circle", "square", "triangle", "star")
PAIRS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
UNSEEN = tuple(pair for pair in shapes_scene.UNSEEN if pair in PAIRS)  # one of each colour and of each shape
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
# Steps lead from one frame to the next. Reversed in time, first and second turn change places.
ALWAYS, FIRST, SECOND = range(7), range(3), range(4, 7)


@dataclass(frozen=True, slots=True)
class Mover:
    """One coloured shape: its centre in the first frame and its radius in px, and during which steps it moves which way."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float
    direction: str
    steps: range
    speed: float

    @property
    def pair(self) -> Pair:
        """Colour and shape."""
        return self.colour, self.shape

    @property
    def name(self) -> str:
        """Colour and shape as words."""
        return f"{self.colour} {self.shape}"

    def place(self, frame: int) -> tuple[float, float]:
        """Return the centre in a frame, 0 <= x, y < ``SIZE``."""
        gone = self.speed * sum(step < frame for step in self.steps)
        dx, dy = DIRECTIONS[self.direction]
        return (self.x + gone * dx) % SIZE, (self.y + gone * dy) % SIZE


@dataclass(frozen=True, slots=True)
class Clip:
    """One to three movers of different colours on a light background (grey level 0 to 255), in the order in which they are told.

    ``turns``: there are two, and the second begins when the first has stopped; else all move all the time. In a dev clip, ``focus`` is the
    number of a mover with an unseen pair.
    """

    movers: tuple[Mover, ...]
    background: int
    turns: bool = False
    focus: int | None = None

    @property
    def pairs(self) -> set[Pair]:
        """What there is to see."""
        return {mover.pair for mover in self.movers}


def make_clip(rng: random.Random, unseen: bool) -> Clip:
    """Draw a clip at random.

    Args:
        rng: Where chance comes from.
        unseen: True puts at least one pair of ``UNSEEN`` in it, False none.
    """
    count = rng.choice((1, 1, 2, 2, 2, 3))
    turns = count == 2 and rng.random() < 0.7
    allowed = PAIRS if unseen else [pair for pair in PAIRS if pair not in UNSEEN]
    pairs = [rng.choice(UNSEEN if unseen else allowed)]
    while len(pairs) < count:
        # Half of the further ones repeat a shape, so that colours are needed to tell them apart.
        alike = rng.random() < 0.5
        pairs.append(
            rng.choice([pair for pair in allowed if pair[0] not in {each[0] for each in pairs} and (not alike or pair[1] == pairs[0][1])])
        )
    order = rng.sample(range(count), count)
    movers = _place(rng, [pairs[index] for index in order], (FIRST, SECOND) if turns else (ALWAYS,) * count)
    return Clip(movers, rng.randint(215, 249), turns, order.index(0) if unseen else None)


def _place(rng: random.Random, pairs: list[Pair], steps: tuple[range, ...]) -> tuple[Mover, ...]:
    """Draw places and directions until no two movers touch in any frame."""
    while True:
        movers = tuple(
            Mover(
                *pair,
                rng.uniform(0, SIZE),
                rng.uniform(0, SIZE),
                rng.uniform(7.0, 9.0),
                rng.choice([*DIRECTIONS]),
                when,
                rng.uniform(7.0, 9.0),
            )
            for pair, when in zip(pairs, steps, strict=True)
        )
        if not any(_touch(a, b, frame) for n, a in enumerate(movers) for b in movers[:n] for frame in range(FRAMES)):
            return movers


def _touch(first: Mover, second: Mover, frame: int) -> bool:
    (x1, y1), (x2, y2) = first.place(frame), second.place(frame)
    dx, dy = ((a - b + SIZE / 2) % SIZE - SIZE / 2 for a, b in ((x1, x2), (y1, y2)))  # the short way round
    return dx * dx + dy * dy < (first.radius + second.radius + 1) ** 2
