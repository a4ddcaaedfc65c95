"""What can be said of NLVR's drawings by templates: phrases that name one thing, statements that are true or false.

The templates are ours; their words are those of NLVR's sentences (github.com/lil-lab/nlvr, Suhr et al. 2017).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, permutations

from openmplug.batch import Coordinates
from openmplug.data.nlvr1_scene import BOXES, NAMES, PLACES, SHAPES, SIZES, STEP, Scene, Thing, is_tower

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
TRIES = 20
NAMED_BOX = 0.25  # share of the statements about one box: those about all are made of them
TOUCHING = {
    "edge": ("touching the edge", "touching the wall", "touching an edge", "touching the side"),
    "bottom": ("touching the base", "closely touching the bottom of a box", "touching the bottom edge"),
    "corner": ("touching the corner", "closely touching a corner"),
    "right": ("closely touching right wall of a box",),
}
AWAY = ("not touching any edge", "not touching the edge")

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
Form = Callable[[Scene, random.Random, bool], Statement]


def _a(what: str) -> str:
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"


def _noun(rng: random.Random, tower: bool) -> tuple[str, Callable[[Thing], bool]]:
    """Draw what is counted: "item", "yellow block", "blue triangle"."""
    colour = rng.choice((*NAMES, "")) if rng.random() < 0.8 else ""
    shape = "" if tower or rng.random() < 0.4 else rng.choice(SHAPES)
    name = shape or rng.choice(("block", "block", "item", "object") if tower else ("item", "object"))
    return f"{colour} {name}".strip(), lambda one: colour in ("", one.colour) and shape in ("", one.shape)


def _placed(scene: Scene, rng: random.Random, tower: bool) -> Statement:
    colour, shape, place = rng.choice(NAMES), "square" if tower else rng.choice(SHAPES), rng.randrange(BOXES)
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
    wanted = rng.sample(NAMES, 2 if several else 1)
    found = [bool(box) and {one.colour for one in box} == set(wanted) for box in scene]
    noun = rng.choice(("items", "objects")) if not tower else rng.choice(("items", "blocks"))
    colours = " and ".join(wanted)
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
    edge = rng.choice(("edge", "edge", "bottom", "bottom", "corner", "right"))
    away = edge == "edge" and rng.random() < 0.3
    count = sum(fits(one) and one.touches(edge) != away for box in scene for one in box)
    words = AWAY if away else TOUCHING[edge]
    return amount.there(noun, f" {rng.choice(words)}"), amount.holds(count)


def _pair(scene: Scene, rng: random.Random, tower: bool) -> Statement:
    (one, fits_one), (other, fits_other) = (_noun(rng, tower) for _ in range(2))
    found = any(fits_one(a) and fits_other(b) for box in scene for a, b in permutations(box, 2))
    return f"there is a box with {_a(one)} and {_a(other)}", found


def _stacked(box: Sequence[Thing]) -> list[str]:
    """Return a tower's colours from the base up."""
    return [one.colour for one in sorted(box, key=lambda one: -one.top)]


def _end(scene: Scene, rng: random.Random, tower: bool) -> Statement:
    colour, end = rng.choice(NAMES), rng.choice(("base", "top"))
    height = _Amount.draw(rng)
    towers = [_stacked(box) for box in scene if box]
    ended = [each[0 if end == "base" else -1] == colour for each in towers]
    high = [height.holds(len(each)) for each in towers]
    amount, storey = _Amount.draw(rng, BOXES), rng.choice(("block", "item"))
    said = "bottom" if end == "base" and rng.random() < 0.2 else end
    kind = rng.randrange(8)
    if kind == 0:
        return amount.there("tower", f" {rng.choice(('with', 'having'))} a {colour} block at the {said}"), amount.holds(sum(ended))
    if kind == 1:
        return amount.there(f"{colour} block", f" as the {end} of a tower"), amount.holds(sum(ended))
    both = any(a and b for a, b in zip(ended, high, strict=True))
    if kind == 2:
        return f"there is a {colour} block as the {end} of a tower with {height.of('block')}", both
    if kind == 3:
        return f"there is a tower with {height.of('block')} {rng.choice(('having', 'with'))} a {colour} block at the {said}", both
    if kind == 4:
        return f"there is a box with {height.of('item')} and a {colour} {storey} on {end}", both
    if kind == 5:
        many = rng.randint(1, BOXES)
        which = f"{NUMBERS[many]} of the {rng.choice(('towers', 'three towers'))} has"
        return f"{which} a {colour} {said}", sum(ended) == many
    if kind == 6:
        return f"the {said} of {rng.choice(('a tower', 'one of the towers'))} is {colour}", any(ended)
    number = rng.randint(1, 4)
    found = [a for a, each in zip(ended, towers, strict=True) if len(each) == number]
    what = f"the tower with {number if rng.random() < 0.3 else NUMBERS[number]} block{'' if number == 1 else 's'}"
    return f"{what} has a {colour} block at the {said}", any(found)


def _over(scene: Scene, rng: random.Random, tower: bool) -> Statement:
    upper, lower = (rng.choice(NAMES) for _ in range(2))
    found = [sum(pair == (lower, upper) for pair in pairwise(_stacked(box))) for box in scene]
    word = rng.choice(("over", "above", "on"))
    if rng.random() < 0.5:
        return f"there is a {upper} block {word} a {lower} block", any(found)
    amount = _Amount.draw(rng, BOXES)
    return amount.there("tower", f" {rng.choice(('with', 'having'))} a {upper} block {word} a {lower} block"), amount.holds(
        sum(map(bool, found))
    )


def _items(scene: Scene, rng: random.Random, tower: bool) -> Statement:
    """Say of which colours the blocks of one box are."""
    first, second = rng.sample(NAMES, 2)
    numbers = rng.randint(1, 3), rng.randint(1, 2)
    found = any((colours.count(first), colours.count(second)) == numbers for colours in map(_stacked, scene))
    (one, other), noun = numbers, rng.choice(("block", "item"))
    return f"there is a {rng.choice(('box', 'tower'))} with {one} {first} and {other} {second} {noun}{'' if other == 1 else 's'}", found


def _heights(scene: Scene, rng: random.Random, tower: bool) -> Statement:
    height, amount = _Amount.draw(rng), _Amount.draw(rng, BOXES)
    return amount.there("tower", f" with {height.of('block')}"), amount.holds(sum(height.holds(len(box)) for box in scene if box))


# Where a thing is, a model that finds boxes nearly knows; it leads to the others.
_ANYWHERE = (
    _placed,
    _placed,
    _counted,
    _counted,
    _in_a_box,
    _in_a_box,
    _only_colours,
    _many_colours,
    _touching,
    _touching,
    _touching,
    _pair,
)
_TOWERS = (
    *(_placed, _placed, _counted, _counted, _in_a_box, _in_a_box, _only_colours, _many_colours),
    *(_end, _end, _end, _end, _over, _over, _heights, _heights, _items),
)


def _of_one_box(form: Form, scene: Scene, rng: random.Random, tower: bool) -> Statement:
    """Say it of one box, as if there were no others."""
    place = rng.randrange(BOXES)
    text, true = form(tuple(box if at == place else () for at, box in enumerate(scene)), rng, tower)
    return f"{text} in the {PLACES[place]} box", true


def contrasts(first: Scene, second: Scene, rng: random.Random, number: int, where: bool = False) -> list[Statement]:
    """Say ``number`` things in words like NLVR's that are true of one of two scenes and false of the other.

    Each is to be told of both scenes. So words alone tell nothing: where "exactly four" is seldom true, a model learns that and does not
    look.

    Args:
        first: A scene.
        second: Another one; both of towers, or neither.
        rng: Draws words.
        number: How many; fewer where the scenes are too alike.
        where: Say only what is to be seen in one named box.

    Returns:
        Different statements, each with its truth of ``first``, alternately true and false.
    """
    tower = is_tower(first)
    forms = _TOWERS if tower else _ANYWHERE
    found: dict[str, bool] = {}
    wanted = rng.random() < 0.5
    for _ in range(2 * number):
        if len(found) == number:
            break
        # The form first: how many blocks there are tells two scenes apart more seldom than where one is, and is to be said as often.
        form = rng.choice(forms)
        if form is not _placed and (where or rng.random() < NAMED_BOX):
            form = partial(_of_one_box, form)
        for _ in range(TRIES):
            seed = rng.random()
            # The same draws give the same words, whatever the scene is.
            (text, true), (_, other) = (form(scene, random.Random(seed), tower) for scene in (first, second))
            if true == wanted and other != true and text not in found:
                found[text] = true
                wanted = not wanted
                break
    return list(found.items())
