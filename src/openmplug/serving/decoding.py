"""What clients send, as pixels: told by its first bytes, held to the limits by its header, decoded away from the model."""

from __future__ import annotations

import re

import numpy as np
from PIL import Image

from openmplug.data.images import decode_image
from openmplug.data.video import Animation, Video, VideoLimits, kind_of_content
from openmplug.errors import DataError, TooLarge
from openmplug.serving.limits import Limits
from openmplug.serving.work import About, Visual

# Of the many kinds PIL can open, those people send; some of the others run programs or were never meant for strangers' files.
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")

_LONGEST_SIDE = 65_535
"""Of a picture or frame, px: what JPEG allows. To resize a line of fifty million pixels takes gigabytes."""

_MOST_SCANS = 100
"""Of a JPEG: progressive ones have about ten, and each goes over the whole picture again, however few bytes it has."""

_SCAN, _MARKER = 0xDA, re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_BARE = frozenset({0x01, 0xD8, *range(0xD0, 0xD8)})  # markers without a length


def decode_visual(field: str, data: bytes, about: About, limits: Limits, boxes: bool = False) -> Visual:
    """Decode a picture or a video.

    Args:
        field: ``image`` or ``video``: what it was sent as.
        data: Its bytes.
        about: The model, for size and sampling.
        limits: What it may ask for.
        boxes: Place the picture as where phrases are looked for.

    Raises:
        DataError: If it is not what it was sent as, is damaged or cannot be read.
        TooLarge: If its header, or what turns out behind it, is beyond a limit.
    """
    if field == "video":
        pixels = about.visuals(_video(data, limits))
        return Visual(np.ascontiguousarray(pixels.numpy()))
    picture = _picture(data, limits)
    if boxes:
        assert about.boxes is not None
        pixels, placement = about.boxes.place(picture)
        return Visual(np.ascontiguousarray(pixels.numpy()), placement)
    return Visual(np.ascontiguousarray(about.visuals(picture).numpy()))


def _picture(data: bytes, limits: Limits) -> Image.Image:
    if not data.startswith(_PICTURES) and not (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        hint = "; send a video as 'video'" if kind_of_content(data) == "video" else ""
        raise DataError(f"'image' holds {len(data):,} bytes that are no picture; expected JPEG, PNG, WebP, GIF, BMP or TIFF{hint}")
    if data.startswith(b"\xff\xd8") and count_scans(data, _MOST_SCANS) > _MOST_SCANS:
        raise TooLarge(f"'image' is a JPEG of more than {_MOST_SCANS} scans, each over the whole picture; save it again")
    return decode_image(data, "image", limits.pixels, _check_compression, _LONGEST_SIDE)


def count_scans(data: bytes, most: int) -> int:
    """Count how often a JPEG goes over its picture; stops counting beyond ``most``.

    Segments are walked by their lengths: what merely looks like a scan, in a thumbnail or behind the picture's end, is none.
    """
    scans, place = 0, 2
    while scans <= most and (found := _MARKER.search(data, place)) is not None:
        place, marker = found.end(), data[found.end() - 1]
        if marker == 0xD9:
            break
        scans += marker == _SCAN
        if marker not in _BARE:
            place += max(2, int.from_bytes(data[place : place + 2], "big"))
    return scans


def _check_compression(picture: Image.Image) -> None:
    if picture.format == "TIFF" and "jpeg" in str(picture.info.get("compression")):
        raise OSError("a JPEG inside a TIFF is not read here; send the JPEG")  # its scans could not be counted


def _video(data: bytes, limits: Limits) -> Video:
    kind = kind_of_content(data)
    bounds = VideoLimits(limits.pixels, limits.video_frames, limits.video_seconds, limits.request_seconds, _LONGEST_SIDE)
    if kind == "video":
        from openmplug.data.video_file import VideoFile

        # One thread: others have theirs.
        return VideoFile(data, "video", threads=1, limits=bounds)
    if kind == "animation":
        animation = Animation(data, "video", bounds)
        if len(animation) > 1:
            return animation
        animation.close()
        raise DataError("'video' holds a picture that does not move; send it as 'image'")
    raise DataError(f"'video' holds {len(data):,} bytes that are no video; expected mp4, mov, webm, mkv, avi, GIF, ...")
