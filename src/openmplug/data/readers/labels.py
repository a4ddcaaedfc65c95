"""Labels of pictures: a folder for each class, as ImageNet has them, and what follows from a picture, as SNLI-VE has it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from openmplug.batch import Sample
from openmplug.data.images import PICTURE_SUFFIXES, ImageSource, open_images
from openmplug.data.readers.files import find_file, need, read_rows, read_text
from openmplug.data.readers.split import Numbering, Split
from openmplug.errors import DataError

CLASS_NAMES = ("classes.txt", "LOC_synset_mapping.txt", "synset_words.txt")


def read_class_folders(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read ``{split}/{class}/{picture}``, a folder or an archive of it: ImageNet as torchvision, timm and Kaggle lay it out, CIFAR-10.

    Args:
        root: Holds ``{split}/`` (or ``{split}.zip``, ``{split}.tar``, with or without the split's folder inside). Where it also holds
            ``LOC_synset_mapping.txt`` or ``synset_words.txt`` (ImageNet's), or ``classes.txt``, with lines "folder name, ...", labels are
            these names and not the folders'.
        split: Name of the folder.
        columns: Not used; the format is fixed.

    Returns:
        One sample per picture, in order of class and name; ``extra["folder"]`` is the class's folder.

    Raises:
        DataError: If there is no such folder or archive, or a picture lies in no class.
    """
    images = _pictures(root, split)
    names = [name for name in images.names() if PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES]
    if not names:
        raise DataError(f"no pictures in {images.description}; expected {split}/CLASS/PICTURE.jpg")
    labels = _class_names(root)
    samples = []
    for index, name in enumerate(names):
        folder = PurePosixPath(name).parent.name
        if not folder:
            raise DataError(f"picture '{name}' in {images.description} lies in no class; expected {split}/CLASS/{name}")
        label = labels.get(folder, folder)
        samples.append(Sample(name, name, None, (label,), (1.0,), (label,), index, {"folder": folder} if label != folder else {}))
    return Split(split, samples, images)


def _pictures(root: Path, split: str) -> ImageSource:
    try:
        return open_images(root, split, folder=split)
    except DataError as error:
        if not root.is_dir():
            raise
        present = ", ".join(sorted(path.name for path in root.iterdir())[:6])
        raise DataError(f"{error}; found {present or 'nothing'}") from None


def _class_names(root: Path) -> dict[str, str]:
    path = next((root / name for name in CLASS_NAMES if (root / name).is_file()), None)
    if path is None:
        return {}
    names: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        folder, _, described = line.strip().partition(" ")
        name = described.split(",")[0].strip()
        if line.strip() and not name:
            raise DataError(f"{path} line {number}: expected a folder and its class's name, got {line!r:.60}")
        if folder:
            names[folder] = name
    # ImageNet calls two classes each "crane" and "maillot": there the folder tells which.
    seen = list(names.values())
    return {folder: name if seen.count(name) == 1 else f"{name} ({folder})" for folder, name in names.items()}


def read_snli_ve(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read SNLI-VE as its authors give it: does a sentence follow from a picture?

    Args:
        root: Folder with ``snli_ve_{split}.jsonl`` and Flickr30k's pictures in ``flickr30k-images/``, ``flickr30k_images/`` or
            ``images/``, or an archive of one of these.
        split: ``train``, ``dev`` or ``test``.
        columns: Not used; the format is fixed.

    Returns:
        One sample per pair: ``text`` the hypothesis, ``targets`` the label on which most annotators agree; the caption that the premise
        was (``sentence1``) is left out, as the task is about the picture. Pairs without such a label (``-``) are left out.

    Raises:
        DataError: If the file is missing or not in this format.
    """
    path = find_file(root, (f"snli_ve_{split}.jsonl",), f"SNLI-VE pairs of split '{split}'")
    number = Numbering()
    samples = []
    for where, row in read_rows(path):
        label = need(row, "gold_label", where)
        if label == "-":
            continue
        picture = need(row, "Flickr30kID" if row.get("Flickr30K_ID") is None else "Flickr30K_ID", where)
        name, pair = f"{picture}".removesuffix(".jpg") + ".jpg", str(need(row, "pairID", where))
        samples.append(Sample(pair, name, need(row, "sentence2", where), (label,), (1.0,), (label,), number(name), {"pairID": pair}))
    folders = ("flickr30k-images", "flickr30k_images")
    place = next((name for name in folders for suffix in ("", ".tar", ".zip") if (root / f"{name}{suffix}").exists()), None)
    return Split(split, samples, open_images(root, split, folder=place))
