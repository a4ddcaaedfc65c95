"""The small generated data set behind quickstart and tests: coloured shapes and how they lie, with words for five tasks.

Everything follows from one seed. Six pairs of colour and shape (``UNSEEN``) occur in no training picture and no training text; every
dev picture shows at least one of them. Each colour and each shape alone is well known from training, so dev measures composition.
"""

from __future__ import annotations

import io
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from openmplug.data.made import Archive, Rows, check_counts, undescribed, write_split, write_vocabulary
from openmplug.data.shapes_scene import COLOURS, SIZE, Scene, make_scene
from openmplug.data.shapes_text import captions, questions, statements

TASKS = ("vqa", "caption", "retrieval", "boxes", "statements")
ALONE = "alone"
"""The folder of pictures of one figure each, with its box: where that is can be learned before which of several is meant."""

Box = tuple[int, int, int, int]
_SMOOTH = 4  # shapes are drawn this many times larger and reduced: soft edges

# ------------------------------------------------------------------------------------------------------------------ drawing


def draw(scene: Scene) -> tuple[Image.Image, list[Box]]:
    """Draw a scene.

    Returns:
        A 64 x 64 RGB picture, and each figure's box (x1, y1, x2, y2) in px around its more than half covered pixels.
    """
    image = Image.new("RGB", (SIZE, SIZE), (scene.background,) * 3)
    boxes = []
    for figure in scene.figures:
        left, top, mask = paint(image, figure.colour, figure.shape, figure.x, figure.y, figure.radius)
        x1, y1, x2, y2 = mask.point([0] * 128 + [255] * 128).getbbox() or (0, 0, *mask.size)
        boxes.append((left + x1, top + y1, left + x2, top + y2))
    return image, boxes


def paint(image: Image.Image, colour: str, shape: str, x: float, y: float, radius: float) -> tuple[int, int, Image.Image]:
    """Draw one shape into a picture; what lies outside is cut off.

    Args:
        image: RGB, changed.
        colour: One of ``COLOURS``.
        shape: One of ``SHAPES``.
        x: Centre, px from the left.
        y: Centre, px from the top.
        radius: Px.

    Returns:
        Left and top of the square around the shape, px, and how much of each of its pixels is covered, 0 to 255.
    """
    left, top = math.floor(x - radius), math.floor(y - radius)
    side = math.ceil(2 * radius) + 2
    mask = Image.new("L", (side * _SMOOTH, side * _SMOOTH))
    _draw_shape(shape, ImageDraw.Draw(mask), (x - left) * _SMOOTH, (y - top) * _SMOOTH, radius * _SMOOTH)
    mask = mask.reduce(_SMOOTH)
    image.paste(COLOURS[colour], (left, top), mask)
    return left, top, mask


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


# ------------------------------------------------------------------------------------------------------------------ writing


def write_shapes(root: Path, train_images: int = 3000, dev_images: int = 500, seed: int = 0) -> dict[str, int]:
    """Write the data set, one folder per task, in the layout of one's own data.

    ``{task}/{split}.jsonl`` and ``{task}/{split}_images.zip`` for the tasks ``vqa`` (image, question, answer, kind), ``caption`` and
    ``retrieval`` (image, captions), ``boxes`` (image, phrase, box as x1 y1 x2 y2 in px) and ``statements`` (image, text, label), splits
    ``train`` and ``dev``. The pictures of a split are the same in every folder. No two dev pictures have the same captions.
    ``alone`` has as many other pictures, of one figure each, in the form of ``boxes``.

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
    check_counts(train_images, dev_images, "images")
    counts: dict[str, int] = {}
    for split, number in (("train", train_images), ("dev", dev_images)):
        rng = random.Random(f"shapes/{seed}/{split}")
        rows, archive = _make_split(rng, number, unseen=split == "dev")
        counts |= write_split(root, split, rows, archive, "images")
        alone, archive = _make_alone(random.Random(f"shapes/{seed}/{ALONE}/{split}"), number, unseen=split == "dev")
        counts |= write_split(root, split, {ALONE: alone}, archive, "images")
        if split == "train":
            write_vocabulary(root, {**rows, ALONE: alone})
    return counts


def _make_split(rng: random.Random, number: int, unseen: bool) -> tuple[Rows, bytes]:
    rows: Rows = {task: [] for task in TASKS}
    asked: Counter[tuple[str, str]] = Counter()

    def make() -> Scene:
        return make_scene(rng, unseen)

    new_scene = undescribed(make, captions, "images") if unseen else make
    archive = Archive()
    for index in range(number):
        scene, name = new_scene(), f"{index:05d}.png"
        boxes = _add(archive, name, scene)
        for question in questions(scene, rng, asked):
            row = {"question_id": len(rows["vqa"]), "image": name, "question": question.text, "answer": question.answer}
            rows["vqa"].append({**row, "kind": question.kind})
        caption = {"image": name, "captions": captions(scene)}
        rows["caption"].append(caption)
        rows["retrieval"].append(caption)
        rows["boxes"] += _boxes(name, scene, boxes)
        for text, label in statements(scene, rng):
            rows["statements"].append({"image": name, "text": text, "label": label})
    return rows, archive.close()


def _make_alone(rng: random.Random, number: int, unseen: bool) -> tuple[list[dict[str, Any]], bytes]:
    rows, archive = [], Archive()
    for index in range(number):
        scene, name = make_scene(rng, unseen, count=1), f"{index:05d}.png"
        rows += _boxes(name, scene, _add(archive, name, scene))
    return rows, archive.close()


def _add(archive: Archive, name: str, scene: Scene) -> list[Box]:
    """Draw a scene into an archive; return the boxes of its figures."""
    image, boxes = draw(scene)
    png = io.BytesIO()
    image.save(png, "PNG", compress_level=1)
    archive.add(name, png.getvalue())
    return boxes


def _boxes(name: str, scene: Scene, boxes: Sequence[Box]) -> list[dict[str, Any]]:
    return [{"image": name, "phrase": f"the {figure.name}", "box": box} for figure, box in zip(scene.figures, boxes, strict=True)]
