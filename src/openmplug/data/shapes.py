"""The small generated data set behind quickstart and tests: coloured shapes and how they lie, with words for five tasks.

Everything follows from one seed. Six pairs of colour and shape (``UNSEEN``) occur in no training picture and no training text; every
dev picture shows at least one of them. Each colour and each shape alone is well known from training, so dev measures composition.
"""

from __future__ import annotations

import io
import json
import math
import random
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from openmplug.errors import UsageError

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
TASKS = ("vqa", "caption", "retrieval", "boxes", "statements")

_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
_CELL = SIZE / 3
_SMOOTH = 4  # shapes are drawn this many times larger and reduced: soft edges

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


def make_scene(rng: random.Random, unseen: bool) -> Scene:
    """Draw a scene at random.

    Args:
        rng: Where chance comes from.
        unseen: True puts at least one pair of ``UNSEEN`` in it, False none.
    """
    count = rng.choice((1, 2, 2, 3, 3))
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


# ------------------------------------------------------------------------------------------------------------------ drawing


def draw(scene: Scene) -> tuple[Image.Image, list[tuple[int, int, int, int]]]:
    """Draw a scene.

    Returns:
        A 64 x 64 RGB picture, and each figure's box (x1, y1, x2, y2) in px around its more than half covered pixels.
    """
    image = Image.new("RGB", (SIZE, SIZE), (scene.background,) * 3)
    boxes = []
    for figure in scene.figures:
        left, top = math.floor(figure.x - figure.radius), math.floor(figure.y - figure.radius)
        side = math.ceil(2 * figure.radius) + 2
        mask = Image.new("L", (side * _SMOOTH, side * _SMOOTH))
        _draw_shape(figure.shape, ImageDraw.Draw(mask), (figure.x - left) * _SMOOTH, (figure.y - top) * _SMOOTH, figure.radius * _SMOOTH)
        mask = mask.reduce(_SMOOTH)
        image.paste(COLOURS[figure.colour], (left, top), mask)
        x1, y1, x2, y2 = mask.point([0] * 128 + [255] * 128).getbbox() or (0, 0, side, side)
        boxes.append((left + x1, top + y1, left + x2, top + y2))
    return image, boxes


def _draw_shape(shape: str, canvas: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    if shape == "circle":
        canvas.ellipse((x - r, y - r, x + r, y + r), fill=255)
    elif shape == "square":
        canvas.rectangle((x - 0.85 * r, y - 0.85 * r, x + 0.85 * r, y + 0.85 * r), fill=255)
    elif shape == "cross":
        canvas.rectangle((x - r, y - 0.35 * r, x + r, y + 0.35 * r), fill=255)
        canvas.rectangle((x - 0.35 * r, y - r, x + 0.35 * r, y + r), fill=255)
    else:
        radii = (r, r, r) if shape == "triangle" else (r, 0.42 * r) * 5
        turns = (index / len(radii) * 2 * math.pi for index in range(len(radii)))
        canvas.polygon([(x + size * math.sin(turn), y - size * math.cos(turn)) for size, turn in zip(radii, turns, strict=True)], fill=255)


# -------------------------------------------------------------------------------------------------------------------- words


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


# ------------------------------------------------------------------------------------------------------------------ writing


def write_shapes(root: Path, train_images: int = 3000, dev_images: int = 500, seed: int = 0) -> dict[str, int]:
    """Write the data set, one folder per task, in the layout of one's own data.

    ``{task}/{split}.jsonl`` and ``{task}/{split}_images.zip`` for the tasks ``vqa`` (image, question, answer, kind), ``caption`` and
    ``retrieval`` (image, captions), ``boxes`` (image, phrase, box as x1 y1 x2 y2 in px) and ``statements`` (image, text, label), splits
    ``train`` and ``dev``. The pictures of a split are the same in every folder. No two dev pictures have the same captions.

    Args:
        root: Folder to write to; files of an earlier call are replaced.
        train_images: Pictures in ``train``.
        dev_images: Pictures in ``dev``.
        seed: Equal seeds give equal records and pixels.

    Returns:
        Number of records per ``{task}/{split}``.

    Raises:
        UsageError: If a number of pictures is not positive, or there are not so many different dev pictures.
    """
    if train_images < 1 or dev_images < 1:
        raise UsageError(f"train_images is {train_images} and dev_images {dev_images}; expected at least 1 each")
    counts = {}
    for split, number in (("train", train_images), ("dev", dev_images)):
        rng = random.Random(f"shapes/{seed}/{split}")
        rows, archive = _make_split(rng, number, unseen=split == "dev")
        for task in TASKS:
            folder = root / task
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{split}_images.zip").write_bytes(archive)
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[task]), encoding="utf-8")
            counts[f"{task}/{split}"] = len(rows[task])
    return counts


def _make_split(rng: random.Random, number: int, unseen: bool) -> tuple[dict[str, list[dict[str, Any]]], bytes]:
    rows: dict[str, list[dict[str, Any]]] = {task: [] for task in TASKS}
    asked: Counter[tuple[str, str]] = Counter()
    described: set[str] = set()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for index in range(number):
            scene = _new_scene(lambda: make_scene(rng, unseen), described) if unseen else make_scene(rng, unseen)
            image, boxes = draw(scene)
            name = f"{index:05d}.png"
            png = io.BytesIO()
            image.save(png, "PNG", compress_level=1)
            archive.writestr(zipfile.ZipInfo(name), png.getvalue())  # ZipInfo's date is fixed: equal seeds, equal bytes
            for question in questions(scene, rng, asked):
                row = {"question_id": len(rows["vqa"]), "image": name, "question": question.text, "answer": question.answer}
                rows["vqa"].append({**row, "kind": question.kind})
            caption = {"image": name, "captions": captions(scene)}
            rows["caption"].append(caption)
            rows["retrieval"].append(caption)
            for figure, box in zip(scene.figures, boxes, strict=True):
                rows["boxes"].append({"image": name, "phrase": f"the {figure.name}", "box": box})
            for text, label in statements(scene, rng):
                rows["statements"].append({"image": name, "text": text, "label": label})
    return rows, buffer.getvalue()


def _new_scene(make: Callable[[], Scene], described: set[str]) -> Scene:
    for _ in range(1000):
        scene = make()
        texts = set(captions(scene))
        if not texts & described:
            described |= texts
            return scene
    raise UsageError(f"no more different pictures after {len(described) // 2:,}; expected a smaller number of dev pictures")
