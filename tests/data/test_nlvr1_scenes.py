"""What is said of NLVR's scenes by templates is true, or false, as told."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from openmplug.data.nlvr1_scene import Scene
from openmplug.data.nlvr1_text import contrasts
from openmplug.data.readers.nlvr1 import read_scene

HEX = {"blue": "#0099ff", "yellow": "Yellow", "black": "Black"}


def tower(*colours: str) -> list[dict[str, Any]]:
    """Blocks from the base up."""
    return [thing("square", colour, 20, 40, 80 - 21 * place) for place, colour in enumerate(colours)]


def thing(shape: str, colour: str, size: int, left: int, top: int) -> dict[str, Any]:
    return {"type": shape, "color": HEX[colour], "size": size, "x_loc": left, "y_loc": top}


def scene(*boxes: Sequence[dict[str, Any]]) -> Scene:
    return read_scene({"structured_rep": boxes}, "a test")


TOWERS = scene(tower("black", "yellow"), tower("blue"), tower("yellow", "yellow", "black"))
SCATTERED = scene(
    [thing("circle", "blue", 10, 5, 90), thing("circle", "blue", 30, 40, 30)],
    [],
    [thing("triangle", "yellow", 20, 80, 10), thing("square", "black", 10, 20, 20), thing("square", "yellow", 10, 50, 60)],
)

# By hand.
OF_TOWERS = {
    "there is exactly one tower with a black block at the base": True,
    "there are exactly two towers with a black block at the top": False,
    "there is a black block as the top of a tower with exactly 3 blocks": True,
    "there is a black block as the top of a tower with exactly 2 blocks": False,
    "there is a blue block as the base of a tower with at least 2 blocks": False,
    "the tower with 2 blocks has a yellow block at the top": True,
    "the tower with 1 block has a blue block at the base": True,
    "there is a black block over a yellow block": True,
    "there is a black block above a blue block": False,
    "there is a blue tower": True,
    "there is a tower with 2 blocks": True,
    "there is a blue square in the middle box": True,
    "there is a yellow tower": False,
    "there are exactly 3 yellow blocks": True,
    "there are at least 3 black blocks": False,
    "there is a box with 3 items of two different colors": True,
    "one of the towers has exactly 2 yellow blocks": True,
    "one of the three towers has a black base": True,
    "two of the towers has a black top": False,
    "the top of a tower is yellow": True,
    "the base of one of the towers is blue": True,
    "there is a box with 2 yellow and 1 black block": True,
    "there is a box with 2 yellow and 1 blue item": False,
}
OF_SCATTERED = {
    "there are exactly two circles": True,
    "there is exactly one blue circle touching the edge": True,
    "there is a yellow object touching the base": False,
    "there is a blue object closely touching the bottom of a box": True,
    "there are exactly 3 objects not touching any edge": True,
    "there is a yellow item touching the wall": True,  # the triangle ends at the right side
    "there is a yellow item closely touching right wall of a box": True,
    "there is a blue circle touching the corner": False,
    "there is a yellow square in the left box": False,
    "there is a box with a square and a triangle": True,
    "there is a box with a yellow square and a yellow square": False,  # one thing is not two
    "there is a box with a blue circle and a square": False,
    "there is a box with items of only blue color": True,
    "there is a box with only blue and yellow items": False,
    "there is a box with 3 items of two different colors": True,
}


# By hand: as if there were no other boxes.
OF_ONE_BOX = {
    "there is a blue square in the middle box": True,
    "there are exactly two yellow blocks in the right box": True,
    "there is a black block over a yellow block in the left box": False,
    "there is a black block over a yellow block in the right box": True,
    "the base of a tower is black in the right box": False,
    "there is a tower with exactly 2 blocks in the left box": True,
}

OTHER = scene(tower("blue", "black", "black", "blue"), tower("black"), tower("blue"))


def drawn(rng: random.Random, towers: bool) -> Scene:
    """Draw a scene of the same kind."""
    if towers:
        return scene(*(tower(*rng.choices(list(HEX), k=rng.randint(1, 4))) for _ in range(3)))
    places = [(left, top) for left in (0, 35, 70) for top in (0, 35, 70)]
    shapes, colours = ("circle", "square", "triangle"), list(HEX)
    boxes = [rng.sample(places, rng.randint(1, 5)) for _ in range(3)]
    return scene(*([thing(rng.choice(shapes), rng.choice(colours), rng.choice((10, 20, 30)), *place) for place in box] for box in boxes))


@pytest.mark.parametrize(("kind", "of", "known"), [("towers", TOWERS, OF_TOWERS), ("scattered", SCATTERED, OF_SCATTERED)])
def test_statements_are_as_true_as_they_say(kind: str, of: Scene, known: dict[str, bool]) -> None:
    said: dict[str, bool] = {}
    for seed in range(10000):
        if said.keys() >= known.keys():
            break
        made = contrasts(of, drawn(random.Random(seed), kind == "towers"), random.Random(seed), 12)
        assert len(made) == len(dict(made))
        said.update(made)
    assert {text: said.get(text) for text in known} == known


def test_a_statement_about_a_named_box_is_true_of_it_alone() -> None:
    said: dict[str, bool] = {}
    for seed in range(10000):
        if said.keys() >= OF_ONE_BOX.keys():
            break
        said.update(contrasts(TOWERS, drawn(random.Random(seed), True), random.Random(seed), 12, where=True))
    assert {text: said.get(text) for text in OF_ONE_BOX} == OF_ONE_BOX
    assert all(text.endswith((" in the left box", " in the middle box", " in the right box")) for text in said)


def test_a_statement_is_true_of_one_scene_and_false_of_the_other() -> None:
    for seed in range(50):
        made = contrasts(TOWERS, OTHER, random.Random(seed), 6)
        turned = dict(contrasts(OTHER, TOWERS, random.Random(seed), 6))
        assert len(made) == 6 and sum(true for _, true in made) == 3
        assert all(turned[text] != true for text, true in made if text in turned)
    assert contrasts(TOWERS, TOWERS, random.Random(0), 6) == []  # nothing tells a scene from itself
    assert contrasts(TOWERS, OTHER, random.Random("a"), 6) != contrasts(TOWERS, OTHER, random.Random("b"), 6)
