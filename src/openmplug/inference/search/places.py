"""How an index names the files it knows, and how they are found and read again, also after both have moved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image

from openmplug.data.images import PICTURE_SUFFIXES, VIDEO_SUFFIXES, ArchiveImages, TarImages, ZipImages, decode_image
from openmplug.data.video import Video, open_video
from openmplug.errors import DataError
from openmplug.inference.bulk.sources import PictureFolder, Source, Table
from openmplug.inference.search.manifest import Manifest
from openmplug.inference.visuals import read_visual

_ARCHIVES: dict[str, type[ArchiveImages]] = {".tar": TarImages, ".zip": ZipImages}


class Root:
    """The folder that an index's paths are relative to.

    Args:
        folder: Absolute.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    @classmethod
    def of(cls, manifest: Manifest, index: Path) -> Root:
        """Return where the root is now: where it was, or else where it lies as seen from the index."""
        beside = os.path.normpath(os.path.join(os.path.abspath(index), manifest.root_from_index))
        return cls(beside if not os.path.isdir(manifest.root) and os.path.isdir(beside) else manifest.root)

    def name(self, path: str) -> str:
        """Return a path as the index keeps it: relative to the root if it lies below, else absolute; with slashes."""
        full = os.path.abspath(path)
        inside = full.startswith(os.path.join(self.folder, ""))
        return Path(os.path.relpath(full, self.folder) if inside else full).as_posix()

    def path(self, name: str) -> str:
        """Return where the file of a name is."""
        return os.path.normpath(os.path.join(self.folder, name))


def choose_root(sources: Sequence[Source]) -> str:
    """Return the deepest folder that all inputs lie in."""
    folders = []
    for source in sources:
        if isinstance(source, PictureFolder):
            folders.append(os.path.abspath(source.root))
        elif isinstance(source, Table):
            folders.append(os.path.dirname(os.path.abspath(source.path)))
        else:
            names = getattr(source, "paths", None) or [getattr(source, "name", ".")]
            folders += [os.path.dirname(os.path.abspath(name)) for name in names]
    try:
        return os.path.commonpath(folders)
    except ValueError:  # on different drives
        return os.path.abspath(folders[0])


def read_again(path: str) -> Image.Image | Video:
    """Read a picture or open a video by the path an index gave it.

    Raises:
        DataError: If it is gone or cannot be read.
    """
    if os.path.exists(path):
        return read_visual(path)
    for parent in Path(path).parents:
        kind = _ARCHIVES.get(parent.suffix.lower())
        if kind is not None and parent.is_file():
            state = parent.stat()
            data = _archive(kind, str(parent), state.st_size, state.st_mtime_ns).read(Path(path).relative_to(parent).as_posix())
            is_video = Path(path).suffix.lower() in VIDEO_SUFFIXES - PICTURE_SUFFIXES
            return open_video(data, path) if is_video else decode_image(data, path)
    raise DataError(f"'{path}' is gone; put it back, or take it out with: openmplug index delete INDEX --missing")


@lru_cache(maxsize=32)
def _archive(kind: type[ArchiveImages], path: str, size: int, changed: int) -> ArchiveImages:
    """Index an archive once, as long as it stays what it is."""
    return kind(Path(path))


def exists(path: str) -> bool:
    """Say whether a file of an index, or the archive that holds it, is there."""
    return os.path.exists(path) or any(parent.suffix.lower() in _ARCHIVES and parent.is_file() for parent in Path(path).parents)
