"""Phrases and boxes made of NLVR's scenes: three white boxes with coloured shapes, 400 x 100 px (Suhr et al. 2017)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

from openmplug.batch import Coordinates, Sample
from openmplug.data.images import open_images
from openmplug.data.readers.files import find_file, need, read_box, read_rows
from openmplug.data.readers.joined import JoinedImages
from openmplug.data.readers.split import Numbering, Split
from openmplug.errors import DataError

FILES = ("dev", "test_u")
HELD_OUT = 10  # every tenth presentation
SCENES = "train_scenes"
BOXES = 3
STEP = 150  # px from the left side of one white box to that of the next
SIZES = {10: "small", 20: "medium", 30: "large"}
PLACES = ("left", "middle", "right")


def read_nlvr1_grounding(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read ``{file}_grounding.jsonl`` with lines ``{image, identifier, expression, bbox}``.

    NLVR's ``identifier`` is ``n-m``, where n is the presentation: scenes of one are alike, so they stay on one side of the split.

    Args:
        root: Folder with ``{file}_grounding.jsonl`` and ``{file}_images.tar`` (or ``.zip``, or a folder) of ``dev`` and ``test_u``.
        split: ``train``: the presentations of both files that 10 does not divide; ``valid``: the others; or the name of a file, whole.
            ``train_scenes``: the presentations of ``train`` with the pictures of all six orders of a scene's boxes, and every phrase of
            colour, shape, size and box that is true of one thing alone, made of the ``objects`` in ``{file}.jsonl``.
        columns: Not used; the format is fixed.

    Returns:
        One sample per phrase, numbered from 0 in each file; ``extra`` has ``identifier`` and ``size``, the thing's side in px.

    Raises:
        DataError: If a file is missing or not in this format.
    """
    if split == SCENES:
        return _scenes(root)
    files = FILES if split in ("train", "valid") else (split,)
    number = Numbering()
    samples: list[Sample] = []
    for name in files:
        path = find_file(root, (f"{name}_grounding.jsonl",), f"NLVR's boxes of split '{split}'")
        for index, (where, row) in enumerate(read_rows(path)):
            identifier = str(need(row, "identifier", where))
            if _held_out(identifier, where) != (split == "valid") and split in ("train", "valid"):
                continue
            image, box = f"{name}/{need(row, 'image', where)}", read_box(need(row, "bbox", where), where, "bbox")
            extra = {"identifier": identifier, "size": round(box[3] - box[1])}
            phrase = str(need(row, "expression", where))
            samples.append(Sample(f"{name}/{index}", image, phrase, image_index=number(image), extra=extra, box=box))
    return Split(split, samples, JoinedImages({name: open_images(root, name) for name in files}))


def _held_out(identifier: str, where: str) -> bool:
    presentation = identifier.partition("-")[0]
    if not presentation.isdecimal():
        raise DataError(f"{where}: 'identifier' is {identifier!r:.40}, expected 'n-m' with the number n of the presentation")
    return int(presentation) % HELD_OUT == 0


def _scenes(root: Path) -> Split:
    orders = tuple(permutations(range(BOXES)))  # NLVR numbers a scene's pictures in this order
    number = Numbering()
    samples: list[Sample] = []
    for name in FILES:
        for where, row in read_rows(find_file(root, (f"{name}.jsonl",), f"NLVR's scenes of split '{SCENES}'")):
            identifier = str(need(row, "identifier", where))
            if _held_out(identifier, where):
                continue
            images, things = need(row, "images", where), need(row, "objects", where)
            if len(images) != len(orders):
                raise DataError(f"{where}: {len(images)} images, expected {len(orders)}, one for each order of the boxes")
            for order, picture in zip(orders, images, strict=True):
                image = f"{name}/{picture}"
                for phrase, box, size in _phrases(things, order, where):
                    extra = {"identifier": identifier, "size": size}
                    samples.append(Sample(f"{image}/{phrase}", image, phrase, image_index=number(image), extra=extra, box=box))
    return Split(SCENES, samples, JoinedImages({name: open_images(root, name) for name in FILES}))


def _phrases(things: list[Any], order: tuple[int, ...], where: str) -> Iterator[tuple[str, Coordinates, int]]:
    """Yield every phrase that names one thing alone, its corners and its side, where the boxes stand in ``order`` from left to right."""
    named: list[tuple[list[str], Coordinates, int]] = []
    for thing in things:
        colour, shape, size, box = (need(thing, key, where) for key in ("color", "shape", "size", "box"))
        left, top, right, bottom = read_box(need(thing, "bbox", where), where, "bbox")
        if size not in SIZES or box not in range(BOXES):
            sizes = ", ".join(map(str, SIZES))
            raise DataError(f"{where}: a thing of size {size!r} in box {box!r}, expected {sizes} px and box 0 to {BOXES - 1}")
        place = order.index(box)
        shift = STEP * (place - box)
        looks = f"{colour} {shape}", f"{SIZES[size]} {colour} {shape}"
        names = [f"the {look}{where_it_is}" for where_it_is in ("", f" in the {PLACES[place]} box") for look in looks]
        named.append((names, (left + shift, top, right + shift, bottom), size))
    count = Counter(name for names, _, _ in named for name in names)
    for names, box, size in named:
        yield from ((name, box, size) for name in names if count[name] == 1)
