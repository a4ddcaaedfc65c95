"""Phrases and boxes made of NLVR's scenes: three white boxes with coloured shapes, 400 x 100 px (Suhr et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openmplug.batch import Sample
from openmplug.data.images import open_images
from openmplug.data.nlvr1_scene import BOXES, COLOURS, SHAPES, SIZES, Scene, Thing, orders
from openmplug.data.nlvr1_text import phrases
from openmplug.data.readers.files import find_file, need, read_box, read_rows
from openmplug.data.readers.joined import JoinedImages
from openmplug.data.readers.split import Numbering, Split
from openmplug.errors import DataError

FILES = ("dev", "test_u")
HELD_OUT = 10  # every tenth presentation
SCENES = "train_scenes"


def read_nlvr1_grounding(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read ``{file}_grounding.jsonl`` with lines ``{image, identifier, expression, bbox}``.

    NLVR's ``identifier`` is ``n-m``, where n is the presentation: scenes of one are alike, so they stay on one side of the split.

    Args:
        root: Folder with ``{file}_grounding.jsonl`` and ``{file}_images.tar`` (or ``.zip``, or a folder) of ``dev`` and ``test_u``.
        split: ``train``: the presentations of both files that 10 does not divide; ``valid``: the others; or the name of a file, whole.
            ``train_scenes``: the presentations of ``train`` with the pictures of all six orders of a scene's boxes, and every phrase of
            colour, shape, size and box that is true of one thing alone, made of the ``structured_rep`` in ``{file}.jsonl``; of all
            presentations of ``train.jsonl`` where there is that file.
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
    number = Numbering()
    samples: list[Sample] = []
    own = (root / "train.jsonl").is_file()
    files = ("train",) if own else FILES
    for name in files:
        for where, row in read_rows(find_file(root, (f"{name}.jsonl",), f"NLVR's scenes of split '{SCENES}'")):
            identifier = str(need(row, "identifier", where))
            if not own and _held_out(identifier, where):
                continue
            scenes, images = list(orders(read_scene(row, where))), need(row, "images", where)
            if len(images) != len(scenes):
                raise DataError(f"{where}: {len(images)} images, expected {len(scenes)}, one for each order of the boxes")
            for scene, picture in zip(scenes, images, strict=True):
                image = f"{name}/{picture}"
                for phrase, box, size in phrases(scene):
                    extra = {"identifier": identifier, "size": size}
                    samples.append(Sample(f"{image}/{phrase}", image, phrase, image_index=number(image), extra=extra, box=box))
    return Split(SCENES, samples, JoinedImages({name: open_images(root, name) for name in files}))


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
