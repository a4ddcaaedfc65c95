"""Captions in their official files: COCO's, NoCaps', and Karpathy's splits of COCO, Flickr8k and Flickr30k."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openmplug.batch import Sample
from openmplug.data.images import ImageSource, open_images
from openmplug.data.readers.files import find_file, need, read_records
from openmplug.data.readers.split import Split
from openmplug.errors import DataError


def read_coco_captions(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read COCO's own caption file.

    Args:
        root: Folder with ``captions_{split}.json`` (also in ``annotations/``) and the pictures in ``{split}/``, ``{split}.zip`` or
            ``{split}.tar``, or as ``open_images`` finds them.
        split: ``train2014``, ``val2017`` and so on; ``train`` and ``val`` mean whichever year is there.
        columns: Not used; the format is fixed.

    Returns:
        One sample per picture, in the order of the file, with all its captions as targets and references.

    Raises:
        DataError: If the file is missing or not in this format, or a picture has no caption.
    """
    subsets = (split, f"{split}2014", f"{split}2017") if split in ("train", "val") else (split,)
    names = tuple(f"{folder}captions_{subset}.json" for subset in subsets for folder in ("", "annotations/"))
    path = find_file(root, names, f"COCO captions of split '{split}'")
    return Split(split, _described(path), _named_or_standard(root, split, path.stem.removeprefix("captions_")))


def read_nocaps(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read NoCaps: photos of Open Images, most of things that COCO's captions never name.

    Args:
        root: Folder with ``nocaps_{split}_4500_captions.json`` (also without the number, or in ``annotations/``) and the pictures in
            ``{split}/``, ``{split}.zip`` or ``{split}.tar``, ``images/``, or as ``open_images`` finds them.
        split: ``val``; the captions of ``test`` are not public, and its ``nocaps_test_image_info.json`` gives pictures without them.
        columns: Not used; the format is fixed.

    Returns:
        One sample per picture, in the order of the file, with all its captions as targets and references;
        ``extra["domain"]`` is ``in-domain``, ``near-domain`` or ``out-domain``, where the file tells it.

    Raises:
        DataError: If the file is missing or not in this format, or a picture of a split with captions has none.
    """
    stems = (f"nocaps_{split}_4500_captions", f"nocaps_{split}_captions", f"nocaps_{split}", f"nocaps_{split}_image_info")
    path = find_file(root, [f"{folder}{stem}.json" for stem in stems for folder in ("", "annotations/")], f"NoCaps split '{split}'")
    samples = _described(path, fields=("domain",), needed=not path.stem.endswith("_image_info"))
    return Split(split, samples, _named_or_standard(root, split, split))


def _described(path: Path, fields: Sequence[str] = (), needed: bool = True) -> list[Sample]:
    """Read the pictures of a file in COCO's form, with their captions and these ``fields``, where they have them."""
    captions: dict[Any, list[str]] = {}
    for where, record in read_records(path, "annotations") if needed else ():
        captions.setdefault(need(record, "image_id", where), []).append(str(need(record, "caption", where)).strip())
    samples = []
    for index, (where, record) in enumerate(read_records(path, "images")):
        identifier, name = need(record, "id", where), need(record, "file_name", where)
        if needed and identifier not in captions:
            raise DataError(f"{where}: image {identifier} ('{name}') has no caption in 'annotations'")
        texts = tuple(captions.get(identifier, ()))
        extra = {"image_id": identifier, **{field: record[field] for field in fields if field in record}}
        samples.append(Sample(str(identifier), name, None, texts, (), texts, index, extra))
    return samples


def read_karpathy(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read a Karpathy split file: ``dataset_coco.json``, ``dataset_flickr8k.json`` or ``dataset_flickr30k.json``.

    Args:
        root: Folder with exactly one ``dataset_*.json`` (``dataset.json`` counts) and the pictures: below ``filepath`` where records name
            it (``val2014/COCO_val2014_...jpg``), else in ``{data set}-images/`` or as ``open_images`` finds them.
        split: ``train``, ``val`` or ``test``; ``restval`` belongs to ``train``, as everybody trains.
        columns: Not used; the format is fixed.

    Returns:
        One sample per picture with its raw sentences as targets and references.

    Raises:
        DataError: If the file is missing, several fit, it is not in this format, or the split has no picture.
    """
    candidates = sorted(path.name for path in root.glob("dataset*.json"))
    if len(candidates) > 1:
        raise DataError(f"several Karpathy files in {root}: {', '.join(candidates)}; keep one per folder")
    path = find_file(root, candidates or ("dataset_*.json",), "Karpathy split file")
    wanted = {"train", "restval"} if split == "train" else {split}
    found: set[str] = set()
    samples: list[Sample] = []
    for where, record in read_records(path, "images"):
        part = need(record, "split", where)
        found.add(part)
        if part not in wanted:
            continue
        filename, folder = need(record, "filename", where), record.get("filepath")
        sentences = tuple(str(need(each, "raw", where)).strip() for each in need(record, "sentences", where))
        if not sentences:
            raise DataError(f"{where}: 'sentences' is empty; expected at least one caption")
        name = f"{folder}/{filename}" if folder else filename
        identifier = record.get("cocoid", record.get("imgid", len(samples)))
        samples.append(Sample(str(identifier), name, None, sentences, (), sentences, len(samples), {"image_id": identifier}))
    if not samples:
        raise DataError(f"{path} has no picture of split '{split}'; its splits are {', '.join(sorted(found))}")
    return Split(split, samples, _named_or_standard(root, split, f"{path.stem.removeprefix('dataset_')}-images"))


def _named_or_standard(root: Path, split: str, folder: str) -> ImageSource:
    """Open ``folder`` (or its archive) where it exists, else look where one's own data would be."""
    exists = any((root / f"{folder}{suffix}").exists() for suffix in ("", ".tar", ".zip"))
    return open_images(root, split, folder if exists else None)
