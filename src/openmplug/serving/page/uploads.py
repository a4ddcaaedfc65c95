"""What people upload, held to limits before it costs anything: pictures and the frames of clips."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from openmplug.data.images import VIDEO_SUFFIXES, decode_image
from openmplug.data.video import Animation, ArrayVideo, Video, VideoLimits, kind_of_content, open_video
from openmplug.errors import DataError, TooLarge
from openmplug.inference.model import Model

MIB = 2**20
_READERS = threading.BoundedSemaphore(2)  # a large picture is 150 MB of pixels: ten people must not have them all at once


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """What the page takes.

    Args:
        megabytes: Largest file, MiB.
        pixels: Largest width x height of a picture, and of a frame.
        video_seconds: Longest clip.
        video_work_seconds: Longest time that unpacking a clip may take.
        characters: Longest text.
    """

    megabytes: int = 50
    pixels: int = 50_000_000
    video_seconds: float = 300.0
    video_work_seconds: float = 10.0
    characters: int = 500


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture or clip that was read.

    Args:
        name: The file's name.
        visual: What a model takes: an RGB picture, or the frames it looks at of a clip.
        frames: Frames of the clip; 0 for a picture.
        seconds: When the last of them appears.
    """

    name: str
    visual: Image.Image | ArrayVideo
    frames: int = 0
    seconds: float = 0.0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, px."""
        if isinstance(self.visual, Image.Image):
            return self.visual.size
        height, width = self.visual.read([0]).shape[1:3]
        return width, height

    def pictures(self) -> list[Image.Image]:
        """Return the picture, or the frames that were read."""
        if isinstance(self.visual, Image.Image):
            return [self.visual]
        return [Image.fromarray(frame) for frame in self.visual.read(range(len(self.visual)))]


def read_upload(path: str | None, model: Model, limits: UploadLimits) -> Upload:
    """Read an upload as a model looks at it.

    Args:
        path: Where the page put it; None where nothing was chosen.
        model: Says which frames of a clip are looked at.
        limits: What is taken.

    Raises:
        DataError: If there is none, it is neither a picture nor a clip, or is damaged.
        TooLarge: If it is beyond a limit.
        EnvironmentProblem: If it is a video and PyAV is not installed.
    """
    if not path:
        raise DataError("there is no picture yet; choose one above, or take an example")
    place = Path(path)
    try:
        size = place.stat().st_size
    except FileNotFoundError:
        raise DataError(f"'{place.name}' is no longer here: uploads are kept for an hour; choose it again") from None
    if size > limits.megabytes * MIB:
        raise TooLarge(f"'{place.name}' has {size / MIB:.1f} MB; at most {limits.megabytes} are taken; make it smaller")
    bounds = VideoLimits(limits.pixels, seconds=limits.video_seconds, work_seconds=limits.video_work_seconds)
    with _READERS:
        found = _open(place, limits, bounds)
        if isinstance(found, Image.Image):
            return Upload(place.name, found)
        with found:
            seconds = float(found.times()[-1])
            bounds.check(place.name, seconds=seconds)
            seen = model.visuals.clip.choose(found)
            return Upload(place.name, ArrayVideo(found.read(seen), place.name), len(found), seconds)


def _open(place: Path, limits: UploadLimits, bounds: VideoLimits) -> Image.Image | Video:
    """Open a file by what is in it; its name says nothing certain, and errors show no more of its path."""
    kind, name = kind_of_content(place), place.name
    if kind == "animation":
        try:
            video = Animation(place, name, bounds)
        except TooLarge:
            raise
        except DataError:  # as a picture it is damaged, too, and is called one
            return decode_image(place.read_bytes(), name, limits.pixels)
        if len(video) > 1:
            return video
        video.close()
    elif kind == "video" or place.suffix.lower() in VIDEO_SUFFIXES:
        return open_video(place, name, bounds)
    return decode_image(place.read_bytes(), name, limits.pixels)
