"""Videos of every kind as numbered frames: video files, animations, folders of pictures.

Frame ``i`` is the one that is shown as number ``i``; a video's length is the number of its frames, found in the file and not believed
from its header. Files are decoded by PyAV (``video_file.py``), animations (GIF, WebP, PNG) and folders of frames by PIL.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from openmplug.data.frames import indices_at
from openmplug.data.images import DECODER_ERRORS, PICTURE_SUFFIXES, decode_image, one_line, to_rgb
from openmplug.errors import DataError

if TYPE_CHECKING:
    from openmplug.data.images import ImageSource

Frames: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
"""(F, H, W, 3) uint8, red green blue."""

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .avi .webm .mkv .mpg .mpeg .ts .flv .wmv .ogv .3gp .gif".split()  # .gif is a picture's, too
)
_FOLDER_FPS = 25.0  # of frames that lie in a folder and say nothing about time


class Video(ABC):
    """One video: how many frames it has, when they are shown, and any of them as pixels.

    A context manager; leaving the block closes the file. Frames come out upright, all of the first one's size.

    Attributes:
        name: What errors call it.
    """

    name: str

    @abstractmethod
    def __len__(self) -> int:
        """Count the frames, >= 1."""

    @abstractmethod
    def times(self) -> np.ndarray:
        """Return when each frame appears, (len,) float64 seconds; the first is 0."""

    @abstractmethod
    def _read(self, indices: Sequence[int]) -> dict[int, Frames]:
        """Decode frames (H, W, 3) by increasing, different numbers."""

    def read(self, indices: Sequence[int]) -> Frames:
        """Decode frames by number.

        Args:
            indices: In any order, repeated at will; each in 0 .. len - 1.

        Returns:
            (F, H, W, 3) uint8.

        Raises:
            DataError: If there is no such frame, or it is damaged.
        """
        wanted = sorted(set(indices))
        if not wanted or wanted[0] < 0 or wanted[-1] >= len(self):
            raise DataError(f"video '{self.name}' has frames 0 to {len(self) - 1}; asked for {list(indices) or 'none'}")
        found = self._read(wanted)
        return np.stack([found[index] for index in indices])

    def read_at(self, seconds: Sequence[float]) -> Frames:
        """Decode the frames that are on the screen at these times, in seconds since the first frame; (F, H, W, 3) uint8.

        Raises:
            DataError: If one is damaged.
        """
        return self.read(indices_at(list(seconds), self.times()))

    def close(self) -> None:  # noqa: B027 - most kinds hold nothing open
        """Close the file."""

    def __enter__(self) -> Video:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class ArrayVideo(Video):
    """Frames that are pixels already.

    Args:
        frames: (F, H, W, 3) uint8, F >= 1.
        name: What errors call it.
    """

    def __init__(self, frames: Frames, name: str = "array") -> None:
        self.name = name
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def times(self) -> np.ndarray:
        """Return times of 25 frames a second."""
        return np.arange(len(self)) / _FOLDER_FPS

    def _read(self, indices: Sequence[int]) -> dict[int, Frames]:
        return {index: self._frames[index] for index in indices}


class FrameFolder(Video):
    """A folder of pictures, one per frame, in the order of the numbers in their names.

    Args:
        names: The pictures, in any order.
        read: Returns a picture's bytes.
        name: What errors call the folder.
    """

    def __init__(self, names: Sequence[str], read: Callable[[str], bytes], name: str) -> None:
        if not names:
            raise DataError(f"video '{name}' is a folder without pictures; expected one picture per frame")
        self.name = name
        self._names = sorted(names, key=natural_order)
        self._bytes = read

    def __len__(self) -> int:
        return len(self._names)

    def times(self) -> np.ndarray:
        """Return times of 25 frames a second."""
        return np.arange(len(self)) / _FOLDER_FPS

    def _read(self, indices: Sequence[int]) -> dict[int, Frames]:
        found, size = {}, None
        for index in indices:
            picture = decode_image(self._bytes(self._names[index]), self._names[index])
            size = size or picture.size
            if picture.size != size:
                raise DataError(
                    f"video '{self.name}': frame '{self._names[index]}' is {picture.size[0]} x {picture.size[1]},"
                    f" others are {size[0]} x {size[1]}; expected one size"
                )
            found[index] = np.asarray(picture)
        return found


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key that orders numbers in names by value: ``frame9`` before ``frame10``."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


class Animation(Video):
    """GIF, animated WebP or PNG, or a still picture, which is one frame. Transparency is laid on white.

    Args:
        place: Path or content.
        name: What errors call it.
    """

    def __init__(self, place: Path | bytes, name: str) -> None:
        self.name = name
        try:
            self._image = Image.open(BytesIO(place) if isinstance(place, bytes) else place)
            self._length = int(getattr(self._image, "n_frames", 1))
        except UnidentifiedImageError:
            raise DataError(f"video '{name}' is neither a video nor an animation; expected mp4, webm, mkv, avi, GIF, ...") from None
        except (Image.DecompressionBombError, *DECODER_ERRORS) as error:
            raise DataError(f"video '{name}' cannot be opened: {one_line(error)}") from None

    def __len__(self) -> int:
        return self._length

    def times(self) -> np.ndarray:
        """Return when each frame appears; a frame without a duration lasts a tenth of a second, as in browsers."""
        durations = []
        for index in range(len(self)):
            self._seek(index)
            durations.append(float(self._image.info.get("duration") or 100))
        return np.cumsum([0.0, *durations[:-1]]) / 1000

    def _seek(self, index: int) -> None:
        try:
            self._image.seek(index)
        except DECODER_ERRORS as error:
            raise DataError(f"video '{self.name}' is damaged at frame {index} of {len(self)} ({one_line(error)})") from None

    def _read(self, indices: Sequence[int]) -> dict[int, Frames]:
        found = {}
        for index in indices:
            self._seek(index)
            try:
                found[index] = np.asarray(to_rgb(self._image))
            except DECODER_ERRORS as error:
                raise DataError(f"video '{self.name}' is damaged at frame {index} of {len(self)} ({one_line(error)})") from None
        return found

    def close(self) -> None:
        """Close the file."""
        self._image.close()


_PICTURE_STARTS = (b"GIF8", b"\x89PNG", b"\xff\xd8\xff", b"BM")


def open_video(place: Path | bytes, name: str) -> Video:
    """Open a video.

    Args:
        place: A file, of which only what is needed is read; a folder of frames; or a file's content.
        name: What errors call it.

    Raises:
        DataError: If it is missing, empty, damaged at its head, or holds no frame to show.
        EnvironmentProblem: If it needs PyAV and that is not installed.
    """
    if isinstance(place, bytes):
        start, size = place[:12], len(place)
    else:
        if place.is_dir():
            names = [path.name for path in place.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES]
            return FrameFolder(names, lambda each: (place / each).read_bytes(), name)
        try:
            with place.open("rb") as file:
                start, size = file.read(12), place.stat().st_size
        except FileNotFoundError:
            raise DataError(f"video '{name}' does not exist; check the path") from None
        except OSError as error:
            raise DataError(f"video '{name}' cannot be read: {error.strerror or error}") from None
    if not size:
        raise DataError(f"video '{name}' is empty (0 bytes); replace the file or remove its record")
    if start.startswith(_PICTURE_STARTS) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP"):
        return Animation(place, name)
    from openmplug.data.video_file import VideoFile

    return VideoFile(place, name)


def open_clip(source: ImageSource, name: str) -> Video:
    """Open a video of a split: a file of a folder by its path, a member of an archive by its content, or a folder of frames.

    Raises:
        DataError: As ``open_video``.
    """
    members = source.members(name)
    if members:
        return FrameFolder(members, source.read, name)
    place = source.locate(name)
    return open_video(source.read(name) if place is None else place, name)
