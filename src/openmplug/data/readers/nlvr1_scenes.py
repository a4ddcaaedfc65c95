"""What NLVR's drawings show, and what can be said of it by templates: phrases that name one thing, statements that are true or false.

A scene is three white boxes of 100 x 100 px, 150 px from one to the next, with circles, triangles and squares of three sizes in three
colours; its six pictures differ in the order of the boxes. Two thirds of the scenes are towers: squares of 20 px on one another.

Source: ``structured_rep`` of github.com/lil-lab/nlvr, folder nlvr (Suhr et al. 2017). The templates are ours; their words are those of
the sentences.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations
from typing import Any

from openmplug.batch import Coordinates
from openmplug.data.readers.files import need
from openmplug.errors import DataError

BOXES = 3
STEP = 150  # px from the left side of one box to that of the next
SIDE = 100  # px
SIZES = {10: "small", 20: "medium", 30: "large"}
COLOURS = {"#0099ff": "blue", "yellow": "yellow", "black": "black"}
SHAPES = ("circle", "square", "triangle")
PLACES = ("left", "middle", "right")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
TRIES = 200


@dataclass(frozen=True)
class Thing:
    """A figure: ``left`` and ``top`` are px within its box."""

    shape: str
    colour: str
    size: int
    left: int
    top: int

    def touches(self, edge: str) -> bool:
        """Say whether it touches the ``bottom``, or any ``edge``, of its box."""
        gaps = (self.left, self.top, SIDE - self.left - self.size)
        return SIDE - self.top - self.size <= 0 or (edge != "bottom" and min(gaps) <= 0)


Scene = tuple[tuple[Thing, ...], ...]
"""The things of each box, from left to right."""


def read_scene(row: Mapping[str, Any], where: str) -> Scene:
    """Take a scene from a record's ``structured_rep``.

    Raises:
        DataError: If it is not in NLVR's format.
    """
    boxes = need(row, "structured_rep", where)
    try:
        scene = tuple(
            tuple(Thing(one["type"], COLOURS[one["color"].lower()], one["size"], one["x_loc"], one["y_loc"]) for one in box)
            for box in boxes
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{where}: 'structured_rep' has a thing that lacks or misnames {error}; expected type, color, size, x_loc, y_loc"
        ) from error
    if len(scene) != BOXES or any(one.size not in SIZES or one.shape not in SHAPES for box in scene for one in box):
        raise DataError(
            f"{where}: 'structured_rep' is not three boxes of {', '.join(SHAPES)} with sides of {', '.join(map(str, SIZES))} px"
        )
    return scene


def orders(scene: Scene) -> Iterator[Scene]:
    """Yield the scene of each of its six pictures, as NLVR numbers them."""
    return permutations(scene)


# ------------------------------------------------------------------------------------------------------------------- phrases


def phrases(scene: Scene) -> Iterator[tuple[str, Coordinates, int]]:
    """Yield every phrase that names one thing alone, its corners in the picture (px) and its side (px)."""
    named: list[tuple[list[str], Coordinates, int]] = []
    for place, box in enumerate(scene):
        for one in box:
            looks = f"{one.colour} {one.shape}", f"{SIZES[one.size]} {one.colour} {one.shape}"
            names = [f"the {look}{where_it_is}" for where_it_is in ("", f" in the {PLACES[place]} box") for look in looks]
            left = place * STEP + one.left
            named.append((names, (left, one.top, left + one.size, one.top + one.size), one.size))
    count = Counter(name for names, _, _ in named for name in names)
    for names, box_xyxy, size in named:
        yield from ((name, box_xyxy, size) for name in names if count[name] == 1)


# ---------------------------------------------------------------------------------------------------------------- statements


@dataclass(frozen=True)
class _Amount:
    """What number is meant, and in which words: exactly two, at least one, a."""

    words: str
    number: int
    exact: bool

    @classmethod
    def draw(cls, rng: random.Random, most: int = 4) -> _Amount:
        if rng.random() < 0.4:  # whether there is one is learned before how many there are
            return cls("a", 1, False)
        number = rng.randint(1, most)
        said = NUMBERS[number] if rng.random() < 0.5 else str(number)
        kind = rng.choice(("exactly", "exactly", "only", "at least", "at least", ""))
        if not kind and number == 1:
            return cls("a", 1, False)
        return cls(f"{kind} {said}".strip(), number, kind != "at least")

    def holds(self, count: int) -> bool:
        return count == self.number if self.exact else count >= self.number

    def there(self, what: str, after: str = "") -> str:
        """Say that there is, or are, so many of ``what``."""
        return f"there {'is' if self.number == 1 else 'are'} {self.of(what)}{after}"

    def of(self, what: str) -> str:
        return _a(what) if self.words == "a" else f"{self.words} {what}{'' if self.number == 1 else 's'}"


Statement = tuple[str, bool]


def _a(what: str) -> str:
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"


def _noun(rng: random.Random, tower: bool) -> tuple[str, Callable[[Thing], bool]]:
    """Draw what is counted: "item", "yellow block", "blue triangle"."""
    colour = rng.choice((*COLOURS.values(), "")) if rng.random() < 0.8 else ""
    shape = "" if tower or rng.random() < 0.4 else rng.choice(SHAPES)
    name = shape or rng.choice(("block", "block", "item", "object") if tower else ("item", "object"))
    return f"{colour} {name}".strip(), lambda one: colour in ("", one.colour) and shape in ("", one.shape)


def _placed(scene: Scene, rng: random.Random, tower: bool) -> Statement:
    colour, shape, place = rng.choice(tuple(COLOURS.values())), "square" if tower else rng.choice(SHAPES), rng.randrange(BOXES)
    found = any((one.colour, one.shape) == (colour, shape) for one in scene[place])
    return f"there is {_a(f'{colour} {shape}')} in the {PLACES[place]} box", found


def _counted(scene: Scene, rng: random.Random, tower: bool) -> Statement:
    noun, fits = _noun(rng, tower)
    amount = _Amount.draw(rng)
    return amount.there(noun), amount.holds(sum(fits(one) for box in scene for one in box))


def _in_a_box(scene: Scene, rng: random.Random, tower: bool) -> Statement:
    noun, fits = _noun(rng, tower)
    amount = _Amount.draw(rng)
    found = [amount.holds(sum(map(fits, box))) for box in scene]
    kind = rng.randrange(3)
    container = rng.choice(("tower", "box")) if tower else "box"
    if kind == 0:
        return f"there is a {container} with {amount.of(noun)}", any(found)
    if kind == 1:
        many = rng.randint(1, BOXES)
        said = f"{NUMBERS[many]} of the {'towers' if container == 'tower' else 'grey boxes'} has {amount.of(noun)}"
        return said, sum(found) == many
    return f"{rng.choice(('each', 'every'))} {container} has {amount.of(noun)}", all(found)


def _only_colours(scene: Scene, rng: random.Random, tower: bool) -> Statement:
    several = rng.random() < 0.5
    wanted = set(rng.sample(tuple(COLOURS.values()), 2 if several else 1))
    found = [bool(box) and {one.colour for one in box} == wanted for box in scene]
    noun = rng.choice(("items", "objects")) if not tower else rng.choice(("items", "blocks"))
    colours = " and ".join(sorted(wanted, key=lambda _: rng.random()))
    said = rng.choice((f"there is a box with only {colours} {noun}", f"there is a box with {noun} of only {colours} color"))
    if tower and not several and rng.random() < 0.5:
        said = f"there is a {colours} tower"
    return said, any(found)


def _many_colours(scene: Scene, rng: random.Random, tower: bool) -> Statement:
    items, colours = rng.randint(2, 4), rng.randint(2, 3)
    found = any(len(box) == items and len({one.colour for one in box}) == colours for box in scene)
    which = "all 3 different" if colours == 3 else f"{NUMBERS[colours]} different"
    return f"there is a {'box' if not tower else rng.choice(('box', 'tower'))} with {items} items of {which} colors", found


def _touching(scene: Scene, rng: random.Random, tower: bool) -> Statement:
    noun, fits = _noun(rng, tower)
    amount = _Amount.draw(rng, 3)
    edge = rng.choice(("edge", "bottom"))
    away = edge == "edge" and rng.random() < 0.3
    count = sum(fits(one) and one.touches(edge) != away for box in scene for one in box)
    ends = (
        (("not touching any edge",) if away else ("touching the edge", "touching the wall"))
        if edge == "edge"
        else (
            "touching the base",
            "closely touching the bottom of a box",
        )
    )
    return amount.there(noun, f" {rng.choice(ends)}"), amount.holds(count)


def _pair(scene: Scene, rng: random.Random, tower: bool) -> Statement:
    (one, fits_one), (other, fits_other) = (_noun(rng, tower) for _ in range(2))
    found = any(fits_one(a) and fits_other(b) for box in scene for a, b in permutations(box, 2))
    return f"there is a box with {_a(one)} and {_a(other)}", found


def _stacked(box: Sequence[Thing]) -> list[str]:
    """Return a tower's colours from the base up."""
    return [one.colour for one in sorted(box, key=lambda one: -one.top)]


def _end(scene: Scene, rng: random.Random, tower: bool) -> Statement:
    colour, end = rng.choice(tuple(COLOURS.values())), rng.choice(("base", "top"))
    height = _Amount.draw(rng)
    towers = [_stacked(box) for box in scene if box]
    ended = [each[0 if end == "base" else -1] == colour for each in towers]
    high = [height.holds(len(each)) for each in towers]
    kind = rng.randrange(5)
    amount = _Amount.draw(rng, BOXES)
    said = "bottom" if end == "base" and rng.random() < 0.2 else end
    if kind == 0:
        return amount.there("tower", f" with a {colour} block at the {said}"), amount.holds(sum(ended))
    if kind == 1:
        return amount.there(f"{colour} block", f" as the {end} of a tower"), amount.holds(sum(ended))
    both = any(a and b for a, b in zip(ended, high, strict=True))
    if kind == 2:
        return f"there is a {colour} block as the {end} of a tower with {height.of('block')}", both
    if kind == 3:
        return f"there is a tower with {height.of('block')} {rng.choice(('having', 'with'))} a {colour} block at the {said}", both
    number = rng.randint(1, 4)
    found = [a for a, each in zip(ended, towers, strict=True) if len(each) == number]
    return f"the tower with {number} block{'' if number == 1 else 's'} has a {colour} block at the {said}", any(found)


def _over(scene: Scene, rng: random.Random, tower: bool) -> Statement:
    upper, lower = (rng.choice(tuple(COLOURS.values())) for _ in range(2))
    found = [sum(pair == (lower, upper) for pair in pairwise(_stacked(box))) for box in scene]
    word = rng.choice(("over", "above", "on"))
    if rng.random() < 0.5:
        return f"there is a {upper} block {word} a {lower} block", any(found)
    amount = _Amount.draw(rng, BOXES)
    return amount.there("tower", f" {rng.choice(('with', 'having'))} a {upper} block {word} a {lower} block"), amount.holds(
        sum(map(bool, found))
    )


def _heights(scene: Scene, rng: random.Random, tower: bool) -> Statement:
    height, amount = _Amount.draw(rng), _Amount.draw(rng, BOXES)
    return amount.there("tower", f" with {height.of('block')}"), amount.holds(sum(height.holds(len(box)) for box in scene if box))


# Where a thing is, a model that finds boxes nearly knows; it leads to the others.
_ANYWHERE = (_placed, _placed, _placed, _counted, _in_a_box, _only_colours, _many_colours, _touching, _pair)
_TOWERS = (_placed, _placed, _placed, _placed, _counted, _in_a_box, _only_colours, _many_colours, _end, _end, _end, _over, _over, _heights)


def is_tower(scene: Scene) -> bool:
    """Say whether all of a scene's things are blocks of towers."""
    return all(one.shape == "square" and one.size == 20 for box in scene for one in box)


def contrasts(first: Scene, second: Scene, rng: random.Random, number: int, where: bool = False) -> list[Statement]:
    """Say ``number`` things in words like NLVR's that are true of one of two scenes and false of the other.

    Each is to be told of both scenes. So words alone tell nothing: where "exactly four" is seldom true, a model learns that and does not
    look.

    Args:
        first: A scene.
        second: Another one; both of towers, or neither.
        rng: Draws words.
        number: How many; fewer where the scenes are too alike.
        where: Say only what is there and in which box.

    Returns:
        Different statements, each with its truth of ``first``, alternately true and false.
    """
    forms = _TOWERS if is_tower(first) else _ANYWHERE
    found: dict[str, bool] = {}
    wanted = rng.random() < 0.5
    for _ in range(TRIES * number):
        if len(found) == number:
            break
        form, seed = _placed if where else rng.choice(forms), rng.random()
        # The same draws give the same words, whatever the scene is.
        (text, true), (_, other) = (form(scene, random.Random(seed), forms is _TOWERS) for scene in (first, second))
        if true == wanted and other != true and text not in found:
            found[text] = true
            wanted = not wanted
    return list(found.items())
