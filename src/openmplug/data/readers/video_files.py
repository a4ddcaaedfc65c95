"""Where the videos of a benchmark lie: annotations name them by an id, the files have whatever suffix and folder they were saved with."""

from __future__ import annotations

import os
from pathlib import Path

from openmplug.data.images import PICTURE_SUFFIXES, ArchiveImages, ImageSource, open_images
from openmplug.errors import DataError

CLIP_SUFFIXES = (".mp4", ".avi", ".webm", ".mkv", ".mov", ".gif", ".flv", ".wmv", ".mpg", ".mpeg", ".m4v", ".3gp", ".ts", ".webp")


class VideoFiles:
    """The videos of a split, by the ids that annotations use.

    Args:
        root: Folder of the data set.
        split: Name of the split.
        places: Folders (or archives of that name) that the official download unpacks to, tried before the standard ones.

    Attributes:
        source: The ``ImageSource`` whose names ``__call__`` returns.

    Raises:
        DataError: If ``root`` does not exist or an archive cannot be read.
    """

    def __init__(self, root: Path, split: str, *places: str) -> None:
        self.source = _open(root, split, places)
        self._by_id: dict[str, str] = {}
        for name in _names(self.source):
            path, suffix = os.path.splitext(name)
            if suffix.lower() not in CLIP_SUFFIXES:
                if suffix.lower() not in PICTURE_SUFFIXES or "/" not in path:
                    continue
                name = path = path.rpartition("/")[0]  # a folder of frames
            self._by_id.setdefault(path.rpartition("/")[2], name)  # below whatever folders
            self._by_id[path] = name

    def __call__(self, identifier: str) -> str:
        """Return the name of a video: the file of that id with any usual suffix, or the folder of its frames, below whatever folders.

        Where there is none, ``{id}.mp4``.

        A reader opens no video, so a missing one is found by ``openmplug data check`` or when it is needed.
        """
        path, suffix = os.path.splitext(identifier)
        known = suffix.lower() in CLIP_SUFFIXES
        found = self._by_id.get(path if known else identifier)
        return found or (identifier if known else f"{identifier}.mp4")


def _open(root: Path, split: str, places: tuple[str, ...]) -> ImageSource:
    if not root.is_dir():
        raise DataError(f"data folder {root} does not exist; set data.root to the folder that holds the data set")
    for place in (*places, f"{split}_videos", "videos"):
        if any((root / f"{place}{suffix}").exists() for suffix in ("", ".tar", ".zip")):
            return open_images(root, split, place)
    return open_images(root, split)


def _names(source: ImageSource) -> list[str]:
    if isinstance(source, ArchiveImages):
        return source.names()
    folder = Path(getattr(source, "root", "."))
    return sorted(
        os.path.relpath(os.path.join(where, name), folder).replace(os.sep, "/")
        for where, _, files in os.walk(folder, followlinks=True)
        for name in files
    )
