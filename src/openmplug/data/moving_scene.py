"""What a clip of the generated moving-shapes set shows: one to three coloured shapes, which way each moves, and when.

A clip says everything; ``openmplug.data.moving`` draws it and ``openmplug.data.moving_text`` puts it into words. The picture is a torus:
what leaves at one side comes back at the other. So every single frame shows shapes at places that are equally likely whichever way they
move and whichever moves first: what moves, and when, is seen in several frames or not at all.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

from openmplug.data.shapes_scene import SIZE, Pair

FRAMES = 8
COLOURS, SHAPES = ("red", "green", "blue", "yellow"), ("circle", "square", "triangle", "star")
THINGS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
# In px, least and most. Three things must be smaller to pass each other.
RADIUS, SMALL_RADIUS = (10.0, 12.0), (9.0, 10.0)
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

    ``turns``: there are two, and the second begins when the first has stopped; else all move all the time.
    """

    movers: tuple[Mover, ...]
    background: int
    turns: bool = False

    @property
    def unseen(self) -> bool:
        """Say whether two of its things are seen moving so together in no training clip."""
        return any(held_out(a, b) for n, a in enumerate(self.movers) for b in self.movers[:n])


def held_out(first: Mover, second: Mover) -> bool:
    """Say whether two things that move so are together in dev clips only: a quarter of all such pairs is, drawn once and for all.

    Whole compositions are held out, not pairs of colour and shape, and by a draw, not by a rule: of a rule, such as that a red circle is
    never beside a green star, a model learns just that, and to ask for such pairs only would measure how well it unlearns it.
    """
    told = sorted(f"{mover.name} {mover.direction}" for mover in (first, second))
    return zlib.crc32("/".join(told).encode()) % 4 == 0


def make_clip(rng: random.Random, unseen: bool) -> Clip:
    """Draw a clip at random.

    Args:
        rng: Where chance comes from.
        unseen: True puts two movements together that ``held_out`` says, where there are two things; False none.
    """
    count = rng.choice((1, 1, 2, 2, 2, 3))
    turns = count == 2 and rng.random() < 0.7
    while True:
        # Half of the clips repeat a shape where they can, so that colours are needed to tell things apart.
        shapes = [rng.choice(SHAPES)] * count if rng.random() < 0.5 else [rng.choice(SHAPES) for _ in range(count)]
        things = list(zip(rng.sample(COLOURS, count), shapes, strict=True))
        movers = _place(rng, things, (FIRST, SECOND) if turns else (ALWAYS,) * count)
        clip = Clip(movers, rng.randint(215, 249), turns)
        if count == 1 or unseen == clip.unseen:
            return clip


def _place(rng: random.Random, pairs: list[Pair], steps: tuple[range, ...]) -> tuple[Mover, ...]:
    """Draw places and directions until no two movers touch in any frame."""
    radius = RADIUS if len(pairs) < 3 else SMALL_RADIUS
    while True:
        movers = tuple(
            Mover(
                *pair,
                rng.uniform(0, SIZE),
                rng.uniform(0, SIZE),
                rng.uniform(*radius),
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
