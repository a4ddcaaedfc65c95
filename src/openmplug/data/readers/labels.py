"""Pictures in a folder for each class, as ImageNet has them; the folder or its archive is the annotation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from openmplug.batch import Sample
from openmplug.data.images import PICTURE_SUFFIXES, ImageSource, open_images
from openmplug.data.readers.files import read_text
from openmplug.data.readers.split import Split
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
