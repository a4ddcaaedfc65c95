"""Image-text retrieval lists of the released mPLUG (and ALBEF) code, for COCO and Flickr30k."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openmplug.batch import Sample
from openmplug.data.images import open_images
from openmplug.data.readers.files import find_file, need, read_records
from openmplug.data.readers.split import Split
from openmplug.errors import DataError


def read_mplug_retrieval(root: Path, split: str, columns: Mapping[str, str | None]) -> Split:
    """Read a list of pictures and captions.

    Args:
        root: Folder with ``{split}.json`` (``coco_{split}.json`` and ``flickr30k_{split}.json`` are found too) and the pictures at the
            records' paths below it. Training records are ``{image, caption, image_id}``, one per caption; evaluation records are
            ``{image, caption: [..]}``, one per picture.
        split: ``train``, ``val`` or ``test``, or the whole stem of the file.
        columns: Not used; the format is fixed.

    Returns:
        One sample per picture, in order of first appearance, with its captions as targets and references.

    Raises:
        DataError: If the file is missing or not in this format.
    """
    names = (f"{split}.json", f"coco_{split}.json", f"flickr30k_{split}.json")
    path = find_file(root, names, f"retrieval list '{split}'")
    captions: dict[str, list[str]] = {}
    extras: dict[str, dict[str, Any]] = {}
    for where, record in read_records(path):
        name, caption = need(record, "image", where), need(record, "caption", where)
        texts = [caption] if isinstance(caption, str) else caption
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{where}: 'caption' must be a text or a list of texts, got {caption!r:.60}")
        captions.setdefault(name, []).extend(texts)
        extras.setdefault(name, {field: value for field, value in record.items() if field not in ("image", "caption")})
    samples = [
        Sample(name, name, None, tuple(texts), (), tuple(texts), index, extras[name])
        for index, (name, texts) in enumerate(captions.items())
    ]
    return Split(split, samples, open_images(root, split))
