"""Videos cut into moments of some seconds, each a small video of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO

import numpy as np
from PIL import Image

from openmplug.data.video import Frames, Video

THUMBNAIL_SIDE = 192
_QUALITY = 70


class Moment(Video):
    """Some consecutive frames of a video.

    Args:
        video: The whole; it stays open.
        first: Number of the first frame.
        last: Number behind the last frame.
        start_seconds: When it begins.
        end_seconds: When it ends.
    """

    def __init__(self, video: Video, first: int, last: int, start_seconds: float, end_seconds: float) -> None:
        self.name = video.name
        self.start_seconds = start_seconds
        self.end_seconds = end_seconds
        self._video, self._first, self._last = video, first, last
        self._seen: Frames | None = None

    def __len__(self) -> int:
        return self._last - self._first

    def times(self) -> np.ndarray:
        """Return when each frame appears, from the moment's first one on."""
        times = self._video.times()[self._first : self._last]
        found: np.ndarray = times - times[0]
        return found

    def _read(self, indices: Sequence[int]) -> dict[int, Frames]:
        frames = self._video.read([self._first + index for index in indices])
        self._seen = frames[len(frames) // 2]
        return dict(zip(indices, frames, strict=True))

    def thumbnail(self) -> bytes:
        """Return the middle one of the frames that were read last as a small JPEG."""
        if self._seen is None:
            self.read([len(self) // 2])
        return thumbnail(Image.fromarray(np.ascontiguousarray(self._seen)))


def cut(video: Video, seconds: float) -> list[Moment]:
    """Cut a video into moments; a rest shorter than half a moment belongs to the one before it.

    Args:
        video: At least one frame.
        seconds: Length of a moment, > 0.

    Returns:
        Moments in order, at least one frame each; together they are the video.
    """
    times = video.times()
    # A frame lasts until the next one; of the last one nothing is known but how long frames usually last.
    end = float(times[-1] + (np.median(np.diff(times)) if len(times) > 1 else 0.0))
    whole = max(1, int(end // seconds + (1 if end % seconds >= seconds / 2 else 0)))
    borders = [number * seconds for number in range(whole)] + [max(end, 0.0)]
    firsts = [*np.searchsorted(times, np.asarray(borders[:-1]) - 1e-06).tolist(), len(times)]
    return [Moment(video, *firsts[at : at + 2], *borders[at : at + 2]) for at in range(whole) if firsts[at] < firsts[at + 1]]


def find_moment(video: Video, start_seconds: float, end_seconds: float) -> Moment:
    """Return the frames between two times, at least one, as ``cut`` chose them."""
    times = video.times()
    first = min(int(np.searchsorted(times, start_seconds - 1e-6)), len(times) - 1)
    last = max(int(np.searchsorted(times, end_seconds - 1e-6)), first + 1)
    return Moment(video, first, last, start_seconds, end_seconds)


def thumbnail(picture: Image.Image) -> bytes:
    """Return a picture as a JPEG of at most ``THUMBNAIL_SIDE`` pixels a side."""
    small = picture.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    encoded = BytesIO()
    small.save(encoded, "JPEG", quality=_QUALITY)
    return encoded.getvalue()


def in_parts(moments: Sequence[Moment], size: int) -> Iterator[Sequence[Moment]]:
    """Yield so many moments at a time."""
    for start in range(0, len(moments), size):
        yield moments[start : start + size]
