"""Videos of every kind as numbered frames: video files, animations, folders of pictures.

Frame ``i`` is the one that is shown as number ``i``; a video's length is the number of its frames, found in the file and not believed
from its header. Files are decoded by PyAV (``video_file.py``), animations (GIF, WebP, PNG) and folders of frames by PIL.
"""

from __future__ import annotations

import contextlib
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from openmplug.data.frames import indices_at
from openmplug.data.images import DECODER_ERRORS, MAX_PIXELS, PICTURE_SUFFIXES, decode_image, one_line, to_rgb
from openmplug.errors import DataError, TooLarge

if TYPE_CHECKING:
    from openmplug.data.images import ImageSource

Frames: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
"""(F, H, W, 3) uint8, red green blue."""


@dataclass(frozen=True, slots=True)
class VideoLimits:
    """What a video may ask of this machine: checked against its header before anything is decoded, and again while it is read.

    Args:
        pixels: Largest width x height of a frame.
        frames: Most frames.
        seconds: Longest duration.
        work_seconds: Longest time that finding and decoding its frames may take.
        side: Longest width or height of a frame.
    """

    pixels: int = MAX_PIXELS
    frames: float = float("inf")
    seconds: float = float("inf")
    work_seconds: float = float("inf")
    side: float = float("inf")

    def check(self, name: str, frames: int = 0, seconds: float = 0.0, size: tuple[int, int] = (0, 0)) -> None:
        """Refuse what is beyond a limit.

        Args:
            name: What errors call the video.
            frames: As far as known.
            seconds: As far as known.
            size: Width and height of a frame.

        Raises:
            TooLarge: If it is.
        """
        width, height = size
        if width * height > self.pixels:
            raise TooLarge(f"video '{name}' has too many pixels: {width:,} x {height:,}, expected at most {self.pixels:,}; resize it first")
        if max(size) > self.side:
            raise TooLarge(
                f"video '{name}' has too long a side: {width:,} x {height:,}, expected at most {self.side:,} each way; resize it"
            )
        if seconds > self.seconds:
            raise TooLarge(f"video '{name}' is too long: {seconds:,.0f} seconds, expected at most {self.seconds:,.0f}; cut it")
        if frames > self.frames:
            raise TooLarge(f"video '{name}' has too many frames: {frames:,} or more, expected at most {self.frames:,}; cut it")

    def check_work(self, name: str, begun: float) -> None:
        """Refuse to go on with a video that has taken too long since ``begun`` (``time.monotonic()``).

        Raises:
            TooLarge: If it has.
        """
        if time.monotonic() - begun > self.work_seconds:
            raise TooLarge(f"video '{name}' takes longer than {self.work_seconds:g} seconds to decode; cut it or make it smaller")


class _Watched(BytesIO):
    """Content that is read for a limited time: what counts an animation's frames reads it to the end, however many there are."""

    def __init__(self, content: bytes, check: Callable[[], None]) -> None:
        super().__init__(content)
        self._check = check

    def read(self, size: int | None = -1) -> bytes:
        self._check()
        return super().read(size)


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
        limits: What it may ask of this machine.

    Raises:
        DataError: If it is none, or damaged at its head.
        TooLarge: If it is beyond a limit.
    """

    def __init__(self, place: Path | bytes, name: str, limits: VideoLimits | None = None) -> None:
        self.name = name
        self._limits = limits or VideoLimits()
        self._begun = time.monotonic()
        try:
            watch = partial(self._limits.check_work, name, self._begun)
            self._image = Image.open(_Watched(place, watch) if isinstance(place, bytes) else place)
            self._limits.check(name, size=self._image.size)
            self._length = int(getattr(self._image, "n_frames", 1))
        except UnidentifiedImageError:
            raise DataError(f"video '{name}' is neither a video nor an animation; expected mp4, webm, mkv, avi, GIF, ...") from None
        except TooLarge:  # a ValueError too, as the next are
            raise
        except (Image.DecompressionBombError, *DECODER_ERRORS) as error:
            raise DataError(f"video '{name}' cannot be opened: {one_line(error)}") from None
        self._limits.check(name, self._length)

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
        self._limits.check_work(self.name, self._begun)
        try:
            self._image.seek(index)
            self._limits.check(self.name, size=self._image.size)  # a frame may reach beyond the first one's picture, and enlarges it
        except TooLarge:
            raise
        except Image.DecompressionBombError as error:
            raise TooLarge(f"video '{self.name}' has too many pixels at frame {index} ({error}); resize it first") from None
        except DECODER_ERRORS as error:
            raise DataError(f"video '{self.name}' is damaged at frame {index} of {len(self)} ({one_line(error)})") from None

    def _read(self, indices: Sequence[int]) -> dict[int, Frames]:
        found = {}
        for index in indices:
            self._seek(index)
            try:
                found[index] = np.asarray(to_rgb(self._image))
            except TooLarge:
                raise
            except DECODER_ERRORS as error:
                raise DataError(f"video '{self.name}' is damaged at frame {index} of {len(self)} ({one_line(error)})") from None
        return found

    def close(self) -> None:
        """Close the file."""
        self._image.close()


_PICTURE_STARTS = (b"GIF8", b"\x89PNG", b"\xff\xd8\xff", b"BM")
# EBML (mkv, webm), FLV, Ogg, MPEG program and elementary streams, ASF (wmv).
_VIDEO_STARTS = (b"\x1a\x45\xdf\xa3", b"FLV\x01", b"OggS", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"\x30\x26\xb2\x75")


def kind_of_content(place: Path | bytes) -> Literal["animation", "video", "other"]:
    """Tell by its first bytes whether a file may be an animation, or says it is a video; what cannot be read is ``other``."""
    start = b""
    if isinstance(place, bytes):
        start = place[:192]
    else:
        with contextlib.suppress(OSError), place.open("rb") as file:
            start = file.read(192)
    if start.startswith((b"GIF8", b"\x89PNG")) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP"):
        return "animation"
    boxes = start[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")  # mp4, mov
    transport = start[:1] == b"G" and start[188:189] == b"G"
    if start.startswith(_VIDEO_STARTS) or boxes or transport or (start[:4] == b"RIFF" and start[8:12] == b"AVI "):
        return "video"
    return "other"


def open_video(place: Path | bytes, name: str, limits: VideoLimits | None = None) -> Video:
    """Open a video.

    Args:
        place: A file, of which only what is needed is read; a folder of frames; or a file's content.
        name: What errors call it.
        limits: What a file or its content may ask of this machine.

    Raises:
        DataError: If it is missing, empty, damaged at its head, or holds no frame to show.
        TooLarge: If it is beyond a limit.
        EnvironmentProblem: If it needs PyAV and that is not installed.
    """
    if isinstance(place, bytes):
        start, size = place[:12], len(place)
    else:
        if place.is_dir():
            names = [path.name for path in place.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES]
            return FrameFolder(names, lambda each: (place / each).read_bytes(), name)
        try:
            if place.exists() and not place.is_file():  # to open a pipe would wait for someone to write into it
                raise DataError(f"video '{name}' is neither a file nor a folder; expected one of them")
            with place.open("rb") as file:
                start, size = file.read(12), place.stat().st_size
        except FileNotFoundError:
            raise DataError(f"video '{name}' does not exist; check the path") from None
        except OSError as error:
            raise DataError(f"video '{name}' cannot be read: {error.strerror or error}") from None
    if not size:
        raise DataError(f"video '{name}' is empty (0 bytes); replace the file or remove its record")
    if start.startswith(_PICTURE_STARTS) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP"):
        return Animation(place, name, limits)
    from openmplug.data.video_file import VideoFile

    return VideoFile(place, name, limits=limits)


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
