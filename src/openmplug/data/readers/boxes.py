"""Phrases and boxes in photos: RefCOCO, RefCOCO+ and RefCOCOg as released, and the lists that the mPLUG scripts read."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import torch

from openmplug.batch import Sample
from openmplug.data.images import ImageSource, open_images
from openmplug.data.readers.files import find_file, need, read_box, read_json
from openmplug.data.readers.split import Numbering, Split
from openmplug.errors import DataError

COCO = "train2014"
DAMAGE = (pickle.UnpicklingError, EOFError, IndexError, KeyError, ValueError, TypeError, AttributeError, UnicodeDecodeError, struct.error)


def read_refcoco(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read RefCOCO, RefCOCO+ or RefCOCOg as lichengunc/refer gives them.

    Args:
        root: The folder of the data set (``refcoco``, ``refcoco+`` or ``refcocog``) with ``refs({partition}).p`` and ``instances.json``.
            COCO's pictures are in ``train2014/`` (``.zip``, ``.tar``) there or one folder above, or in ``images/``.
        split: ``train``, ``val``, ``testA``, ``testB``, ``test``. Where there are the references of several partitions,
            ``umd/val`` and so on says whose; without, ``unc`` and then ``umd`` come first.
        columns: Not used; the format is fixed.

    Returns:
        One sample per sentence, its number ``sent_id`` as id; ``extra`` has ``ref_id``, ``ann_id`` and ``image_id``.

    Raises:
        DataError: If a file is missing or not in this format, the references would have to run code to be read, the split has no
            sentence, or a reference names a box or picture that the instances do not have.
    """
    partition, _, part = split.rpartition("/")
    names = [f"refs({each}).p" for each in ((partition,) if partition else ("unc", "umd", "google"))]
    path = find_file(root, names, f"references of split '{split}'")
    references = read_plain_pickle(path)
    if not isinstance(references, list):
        raise DataError(f"{path}: expected a list of references, got {type(references).__name__}")
    boxes, pictures = _instances(find_file(root, ("instances.json",), "instances (the boxes of the references)"))
    number = Numbering()
    samples: list[Sample] = []
    present: dict[str, None] = {}
    for index, reference in enumerate(references, start=1):
        where = f"{path} reference {index}"
        if not isinstance(reference, dict):
            raise DataError(f"{where}: expected a dictionary, got {type(reference).__name__}")
        present[str(need(reference, "split", where))] = None
        if reference["split"] != part:
            continue
        ids = {field: need(reference, field, where) for field in ("ref_id", "ann_id", "image_id")}
        if ids["ann_id"] not in boxes or ids["image_id"] not in pictures:
            kind = "annotation" if ids["ann_id"] not in boxes else "picture"
            raise DataError(f"{where}: instances.json has no {kind} {ids['ann_id' if kind == 'annotation' else 'image_id']}")
        place, name = boxes[ids["ann_id"]], pictures[ids["image_id"]]
        for sentence in need(reference, "sentences", where):
            key, text = need(sentence, "sent_id", where), need(sentence, "sent", where)
            samples.append(Sample(str(key), name, text, image_index=number(name), extra=ids, box=place))
    if not samples:
        raise DataError(f"{path}: no reference of split '{part}'; it has {', '.join(sorted(present)) or 'none'}")
    return Split(split, samples, _coco_pictures(root, split))


def _instances(path: Path) -> tuple[dict[int, tuple[float, float, float, float]], dict[int, str]]:
    """Return the boxes by annotation and the pictures' names by picture."""
    content = read_json(path, dict)
    boxes = {}
    for index, row in enumerate(need(content, "annotations", str(path)), start=1):
        where = f"{path} annotation {index}"
        boxes[need(row, "id", where)] = read_box(need(row, "bbox", where), where, "bbox", sized=True)
    rows = enumerate(need(content, "images", str(path)), start=1)
    pictures = {need(row, "id", f"{path} image {i}"): str(need(row, "file_name", f"{path} image {i}")) for i, row in rows}
    return boxes, pictures


def _coco_pictures(root: Path, split: str) -> ImageSource:
    for folder in (root, root.parent):
        if any((folder / f"{COCO}{suffix}").exists() for suffix in ("", ".zip", ".tar")):
            return open_images(folder, split, folder=COCO)
    return open_images(root, split)


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, texts and containers of them; a name of anything else stops it, so nothing is ever run."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"names {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("names an object outside the file")


def read_plain_pickle(path: Path) -> Any:
    """Read a pickle of plain values without running anything in it.

    Python 2's texts, as RefCOCO's files have them, become text.

    Raises:
        DataError: If it cannot be read, is damaged, or holds anything but numbers, texts, lists, tuples and dictionaries.
    """
    try:
        with path.open("rb") as file:
            return _unpickled(file)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except DAMAGE as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path} is not a pickle of plain values ({said:.80}), so it was not read; get the file of its origin") from None


def _unpickled(file: BinaryIO) -> Any:
    return _PlainUnpickler(file, encoding="utf-8").load()


def read_transvg(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read the lists of TransVG and the mPLUG scripts, ``{data set}_{split}.pth``.

    Args:
        root: Folder with the list, or with a folder ``{data set}/`` that holds it (``unc/unc_val.pth``), and the pictures in
            ``train2014/`` (RefCOCO's), ``images/`` or where ``data.images`` says.
        split: The file's stem: ``unc_val``, ``unc+_testA``, ``gref_umd_test``, ``referit_test``, ``flickr_train``.
        columns: Not used; the format is fixed.

    Returns:
        One sample per tuple (picture, _, box, phrase, attributes), numbered from 0. Boxes are left, top, width, height; those of
        ``referit`` and ``flickr`` are left, top, right, bottom, and Flickr's tuples are (picture, box, phrase).

    Raises:
        DataError: If the list is missing, not in this format, or would have to run code to be read.
    """
    stem = PurePosixPath(split).name
    source = stem.partition("_")[0]
    path = find_file(root, (f"{split}.pth", f"{source}/{stem}.pth"), f"list of split '{split}'")
    try:
        rows = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, *DAMAGE) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path} is not a torch file of plain values ({said:.80}), so it was not read; get the file of its origin"
        ) from None
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: expected a list of tuples, got {type(rows).__name__ if rows else 'an empty list'}")
    fields = (0, 1, 2) if source == "flickr" else (0, 2, 3)
    number = Numbering()
    samples = []
    for index, row in enumerate(rows):
        where = f"{path} row {index + 1}"
        if not isinstance(row, list | tuple) or len(row) <= fields[-1] or not isinstance(row[fields[2]], str):
            shape = "(picture, box, phrase)" if source == "flickr" else "(picture, _, box, phrase, attributes)"
            raise DataError(f"{where}: expected {shape}, got {row!r:.80}")
        name, place, phrase = (row[field] for field in fields)
        place = place.tolist() if hasattr(place, "tolist") else place
        box = read_box(place, where, "box", sized=source not in ("referit", "flickr"))
        samples.append(Sample(str(index), str(name), phrase, image_index=number(str(name)), box=box))
    return Split(split, samples, _coco_pictures(root, split))
