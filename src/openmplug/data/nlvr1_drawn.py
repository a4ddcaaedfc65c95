"""New drawings like NLVR's, in NLVR's own format: as many as one likes, so that only its sentences have to come from people.

Everything follows from one seed.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from openmplug.data.made import Archive, check_counts, write_rows
from openmplug.data.nlvr1_scene import BOXES, COLOURS, SIDE, STEP, Scene, Thing, alter, make_scene, orders
from openmplug.data.nlvr1_text import contrasts

TOWERS = 3  # every third pair of scenes has no towers
PAINT = {"blue": (0, 153, 255), "yellow": (255, 255, 0), "black": (0, 0, 0)}
BOX, WALL = (211, 211, 211), (128, 128, 128)
_SMOOTH = 4  # things are drawn this many times larger and reduced: soft edges
_CODES = {name: code for code, name in COLOURS.items()}


def draw(scene: Scene) -> Image.Image:
    """Draw a scene as NLVR's authors did: 400 x 100 px, RGB, grey boxes between darker walls."""
    image = Image.new("RGB", (SIDE + STEP * (BOXES - 1), SIDE), WALL)
    canvas = ImageDraw.Draw(image)
    for place, box in enumerate(scene):
        canvas.rectangle((place * STEP, 0, place * STEP + SIDE - 1, SIDE - 1), fill=BOX)
        for one in box:
            image.paste(PAINT[one.colour], (place * STEP + one.left, one.top), _mask(one))
    return image


def _mask(one: Thing) -> Image.Image:
    """Return how much of each pixel of the square around it a thing covers."""
    mask, last = Image.new("L", (one.size * _SMOOTH,) * 2), one.size * _SMOOTH - 1
    canvas = ImageDraw.Draw(mask)
    if one.shape == "circle":
        canvas.ellipse((0, 0, last, last), fill=255)
    elif one.shape == "triangle":
        canvas.polygon([(last / 2, 0), (0, last), (last, last)], fill=255)
    else:
        canvas.rectangle((0, 0, last, last), fill=255)
    return mask.reduce(_SMOOTH)


def write_nlvr1(root: Path, train_scenes: int = 4000, dev_scenes: int = 200, seed: int = 0) -> dict[str, int]:
    """Write ``{split}.jsonl`` and ``{split}_images.zip``, splits ``train`` and ``dev``, as the readers of NLVR take them.

    A record is a scene with its six drawings, one for each order of the boxes, and a templated statement that is true or false. Two scenes
    make a presentation: they differ by one thing, and what is said is true of one of them. The readers make more of ``structured_rep``:
    statements and phrases.

    Args:
        root: Folder to write to; files of an earlier call are replaced.
        train_scenes: Scenes in ``train``.
        dev_scenes: Scenes in ``dev``.
        seed: Equal seeds give equal records and pixels.

    Returns:
        Number of records per split.

    Raises:
        UsageError: If a number of scenes is not positive.
    """
    check_counts(train_scenes, dev_scenes, "scenes")
    counts = {}
    for split, number in (("train", train_scenes), ("dev", dev_scenes)):
        archive, rows = Archive(), []
        for index, (scene, text, true) in enumerate(_said(random.Random(f"nlvr1/{seed}/{split}"), number)):
            name = f"{index // 2}-{index % 2}"
            names = [f"{split}-{name}-{each}.png" for each in range(len(list(orders(scene))))]
            for file, ordered in zip(names, orders(scene), strict=True):
                png = io.BytesIO()
                draw(ordered).save(png, "PNG", compress_level=1)
                archive.add(file, png.getvalue())
            rows.append({"identifier": name, "sentence": text, "label": str(true).lower(), "images": names, "structured_rep": _rows(scene)})
        counts[split] = write_rows(root / f"{split}.jsonl", rows)
        (root / f"{split}_images.zip").write_bytes(archive.close())
    return counts


def _said(rng: random.Random, number: int) -> Iterator[tuple[Scene, str, bool]]:
    """Make scenes two by two, nearly the same, with a statement that is true of one of them."""
    for index in range(0, number, 2):
        said: Sequence[tuple[str, bool]] = ()
        while not said:
            first = make_scene(rng, tower=index // 2 % TOWERS != 0)
            second = alter(first, rng)
            said = contrasts(first, second, rng, 1)
        text, true = said[0]
        yield first, text, true
        if index + 1 < number:
            yield second, text, not true


def _rows(scene: Scene) -> list[list[dict[str, Any]]]:
    return [
        [{"type": one.shape, "color": _CODES[one.colour], "size": one.size, "x_loc": one.left, "y_loc": one.top} for one in box]
        for box in scene
    ]
