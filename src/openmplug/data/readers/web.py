"""Captions from the web and of regions, as their authors publish them: mostly lists of addresses, beside the pictures one has got.

No picture is fetched here. A list's pictures are looked for under the names that downloaders give them: the row's number (from 0, with or
without leading zeros), the MD5 sum of the address in hexadecimal, or the last part of the address; rows without a picture are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from openmplug.batch import Sample
from openmplug.data.images import PICTURE_SUFFIXES, VIDEO_SUFFIXES, FolderImages, ImageSource, open_images
from openmplug.data.readers.files import find_file, need, read_json, read_records, read_table, read_text
from openmplug.data.readers.split import Split
from openmplug.errors import DataError


def read_folder_captions(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read a folder of pictures or videos, each with a text file of the same name beside it; a line of it is a caption.

    Args:
        root: Folder of the data set.
        split: Its part, a folder below; ``.`` is ``root`` itself. Searched to the bottom.
        columns: Not used.

    Raises:
        DataError: If there is no such folder, no picture with a text, or pictures and videos are mixed.
    """
    folder = root / split
    if not folder.is_dir():
        raise DataError(f"data folder {folder} does not exist; expected pictures there, each with a .txt file of the same name")
    images = FolderImages(folder)
    samples: list[Sample] = []
    bare = 0
    for name in images.names():
        place = (folder / name).with_suffix(".txt")
        if not place.is_file():
            bare += 1
            continue
        captions = tuple(line.strip() for line in read_text(place).splitlines() if line.strip())
        clip = PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES - PICTURE_SUFFIXES
        samples.append(Sample(name, name, None, captions, (), captions, len(samples), clip=clip))
    if not samples:
        raise DataError(f"none of the {bare:,} pictures in {folder} has a .txt file of the same name beside it")
    if 0 < sum(sample.clip for sample in samples) < len(samples):
        raise DataError(f"{folder} holds pictures and videos; put them into two folders")
    return Split(split.replace("/", "-"), samples, images)


def read_visual_genome_regions(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read the phrases about regions of Visual Genome as captions of the whole picture, as ALBEF and mPLUG pre-train on them.

    Half of its pictures are COCO's. Where ``image_data.json``, which says so, and Karpathy's ``dataset_coco.json`` lie beside it, those of
    COCO's ``val`` and ``test`` are left out: who pre-trains on them has seen the pictures of later tests.

    Args:
        root: Folder with ``region_descriptions.json`` and the pictures in ``VG_100K/`` and ``VG_100K_2/``, other folders or an archive.
        split: Not used: there is one.
        columns: Not used; the format is fixed.

    Raises:
        DataError: If the file is missing or not in this format.
    """
    path = find_file(root, ("region_descriptions.json",), "Visual Genome's regions")
    images = open_images(root, split)
    places = {PurePosixPath(name).stem: name for name in images.names()}
    held_out = _held_out_of_coco(root)
    samples: list[Sample] = []
    for where, record in read_records(path):
        regions = need(record, "regions", where)
        number = str(record.get("id", regions[0].get("image_id") if regions else ""))
        phrases = tuple(dict.fromkeys(str(need(region, "phrase", where)).strip() for region in regions))
        if phrases and number not in held_out:
            name = places.get(number, f"{number}.jpg")
            samples.append(Sample(number, name, None, phrases, (), phrases, len(samples), {"image_id": number}))
    if not samples:
        raise DataError(f"{path} has no region with a phrase")
    return Split(split, samples, images)


def _held_out_of_coco(root: Path) -> set[str]:
    """Return the numbers of Visual Genome's pictures that are in COCO's val and test; none where the files that tell are not there."""
    if not (root / "image_data.json").is_file() or not (root / "dataset_coco.json").is_file():
        return set()
    images = read_records(root / "dataset_coco.json", "images")
    tested = {need(record, "cocoid", where) for where, record in images if record.get("split") in ("val", "test")}
    return {
        str(need(record, "image_id", where)) for where, record in read_records(root / "image_data.json") if record.get("coco_id") in tested
    }


def read_sbu(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read SBU captions: ``sbu-captions-all.json``, or the older two text files of addresses and of captions.

    Args:
        root: Folder with the list and the pictures.
        split: Where the pictures lie, see ``open_images``.
        columns: Not used; the format is fixed.

    Raises:
        DataError: If there is no list, it is not in this format, or none of its pictures is at hand.
    """
    path = find_file(root, ("sbu-captions-all.json", "SBU_captioned_photo_dataset_urls.txt"), "SBU's list")
    if path.suffix == ".json":
        lists = read_json(path, dict)
        urls, captions = need(lists, "image_urls", str(path)), need(lists, "captions", str(path))
    else:
        urls = read_text(path).splitlines()
        captions = read_text(root / "SBU_captioned_photo_dataset_captions.txt").splitlines()
    if len(urls) != len(captions):
        raise DataError(f"{path}: {len(urls):,} addresses and {len(captions):,} captions; expected as many")
    return _listed(root, split, path, zip(urls, captions, strict=True))


def read_conceptual_captions(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read Conceptual Captions 3M or 12M: a table of captions and addresses (3M), or of addresses and captions (12M).

    Args:
        root: Folder with ``Train_GCC-training.tsv`` or ``Train-GCC-training.tsv``, ``Validation_GCC-1.1.0-Validation.tsv`` or
            ``cc12m.tsv``, and the pictures.
        split: ``train`` or ``val``; pictures lie where ``open_images`` finds those of it.
        columns: Not used; the format is fixed.

    Raises:
        DataError: If there is no list, it is not in this format, or none of its pictures is at hand.
    """
    train = ("Train_GCC-training.tsv", "Train-GCC-training.tsv", "cc12m.tsv")
    path = find_file(root, train if split == "train" else ("Validation_GCC-1.1.0-Validation.tsv",), f"Conceptual Captions' {split} list")

    def pairs() -> Iterator[tuple[str, str]]:
        for where, cells in read_table(path, "\t"):
            if len(cells) != 2:
                raise DataError(f"{where}: {len(cells)} cells, expected a caption and an address")
            caption, url = cells if "://" in cells[1] else reversed(cells)
            yield url, caption

    return _listed(root, split, path, pairs())


def _listed(root: Path, split: str, path: Path, pairs: Iterator[tuple[str, str]] | zip[tuple[str, str]]) -> Split:
    images = open_images(root, split)
    places = _by_stem(images)
    samples: list[Sample] = []
    count = 0
    for row, (url, caption) in enumerate(pairs):
        count += 1
        name = next((places[each] for each in _stems(row, url) if each in places), None)
        if name is not None and caption.strip():
            texts = (caption.strip(),)
            samples.append(Sample(str(row), name, None, texts, (), texts, len(samples), {"url": url}))
    if not samples:
        raise DataError(
            f"none of the {count:,} pictures of {path} is in {images.description}; fetch them first, named by row, by the MD5 sum of the"
            " address, or as the address ends (img2dataset makes shards at once: data.reader=shards)"
        )
    return Split(split, samples, images)


def _by_stem(images: ImageSource) -> dict[str, str]:
    found = {}
    for name in images.names():
        stem = PurePosixPath(name).stem
        found[str(int(stem)) if stem.isdecimal() else stem] = name
    return found


def _stems(row: int, url: str) -> Sequence[str]:
    last = PurePosixPath(urlsplit(url).path).stem
    named = () if last.isdecimal() else (last,)  # a number is a row's, not an address's
    return (str(row), hashlib.md5(url.encode()).hexdigest(), *named)
