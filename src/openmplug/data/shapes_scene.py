"""What a picture of the generated data set shows: coloured shapes in the cells of a grid, and which pairs are kept from training.

A scene says everything; ``openmplug.data.shapes`` draws it and ``openmplug.data.shapes_text`` puts it into words.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

SIZE = 64  # side of a picture, px
COLOURS = {
    "red": (215, 40, 40),
    "green": (40, 160, 60),
    "blue": (45, 85, 220),
    "yellow": (240, 205, 30),
    "purple": (150, 55, 190),
    "black": (30, 30, 30),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")
PAIRS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
UNSEEN = tuple((colour, SHAPES[index % len(SHAPES)]) for index, colour in enumerate(COLOURS))

_CELL = SIZE / 3

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Figure:
    """One coloured shape: its cell in the 3 x 3 grid, its centre and its radius in px."""

    colour: str
    shape: str
    row: int
    column: int
    x: float
    y: float
    radius: float

    @property
    def pair(self) -> Pair:
        """Colour and shape."""
        return self.colour, self.shape

    @property
    def name(self) -> str:
        """Colour and shape as words."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class Scene:
    """One to three figures of different (colour, shape), in reading order, on a light background (grey level 0 to 255).

    Two figures share a row or a column. In a dev scene, ``focus`` is the number of a figure with an unseen pair.
    """

    figures: tuple[Figure, ...]
    background: int
    focus: int | None = None

    @property
    def pairs(self) -> set[Pair]:
        """What there is to see."""
        return {figure.pair for figure in self.figures}


def make_scene(rng: random.Random, unseen: bool, count: int | None = None) -> Scene:
    """Draw a scene at random.

    Args:
        rng: Where chance comes from.
        unseen: True puts at least one pair of ``UNSEEN`` in it, False none.
        count: Figures; None draws 1 to 3.
    """
    count = rng.choice((1, 2, 2, 3, 3)) if count is None else count
    allowed = PAIRS if unseen else [pair for pair in PAIRS if pair not in UNSEEN]
    pairs = [rng.choice(UNSEEN if unseen else allowed)]
    while len(pairs) < count:
        # Half of the further figures repeat a colour or a shape, so that counting and telling apart need both.
        alike = rng.choice((None, None, 0, 1))
        pair = rng.choice([pair for pair in allowed if alike is None or pair[alike] == pairs[0][alike]])
        if pair not in pairs:
            pairs.append(pair)
    cells = _cells(rng, count)
    places = dict(zip(cells, pairs, strict=True))
    figures = tuple(_place(rng, places[cell], *cell) for cell in sorted(places))
    focus = next(index for index, figure in enumerate(figures) if figure.pair == pairs[0]) if unseen else None
    return Scene(figures, rng.randint(215, 250), focus)


def _cells(rng: random.Random, count: int) -> list[tuple[int, int]]:
    """Choose different cells (row, column) in random order; two share a row or column."""
    every = [(row, column) for row in range(3) for column in range(3)]
    if count != 2:
        return rng.sample(every, count)
    first, second = rng.sample(range(3), 2)
    line = rng.randrange(3)
    return [(line, first), (line, second)] if rng.random() < 0.5 else [(first, line), (second, line)]


def _place(rng: random.Random, pair: Pair, row: int, column: int) -> Figure:
    radius = rng.uniform(6.5, 9.0)
    slack = _CELL / 2 - radius - 0.5
    x, y = ((cell + 0.5) * _CELL + rng.uniform(-slack, slack) for cell in (column, row))
    return Figure(*pair, row, column, x, y, radius)
