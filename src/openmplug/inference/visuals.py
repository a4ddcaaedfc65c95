"""Anything a person may call a picture or a video, as the pixels a model takes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openmplug.batch import Placement
from openmplug.data.box_transforms import EvalBoxes
from openmplug.data.clips import EvalClip, VideoSettings
from openmplug.data.images import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from openmplug.data.transforms import EvalTransform, ImageSettings
from openmplug.data.video import Animation, ArrayVideo, Video, kind_of_content, open_video
from openmplug.errors import DataError
from openmplug.inference.pictures import ImageInput, pixels_of, read_image

VisualInput: TypeAlias = "ImageInput | Video"
"""What ``read_image`` takes, and videos: a path (a folder of frames, too), content, (F, H, W, 3) uint8, (F, 3, H, W), or a ``Video``."""

_MOVING = frozenset({".gif", ".webp", ".png", ".apng"})  # pictures that may be animations


def read_visual(visual: VisualInput) -> Image.Image | Video:
    """Return a picture, decoded, or a video, opened.

    An animation of several frames is a video; files are told by their suffix, or by their content where that says nothing.

    Raises:
        DataError: If it is neither, or cannot be read.
    """
    if isinstance(visual, Video):
        return visual
    if isinstance(visual, str | Path):
        path, suffix = Path(visual), Path(visual).suffix.lower()
        if path.is_dir() or suffix in VIDEO_SUFFIXES - _MOVING:
            return open_video(path, str(visual))
        if path.is_file() and (suffix in _MOVING or suffix not in PICTURE_SUFFIXES):
            return _told_by_content(visual, path, str(visual))
    elif isinstance(visual, bytes):
        return _told_by_content(visual, visual, "bytes")
    elif isinstance(visual, np.ndarray | Tensor) and visual.ndim == 4:
        return ArrayVideo(_frames(visual))
    return read_image(visual)


def _told_by_content(visual: str | Path | bytes, place: Path | bytes, name: str) -> Image.Image | Video:
    kind = kind_of_content(place)
    if kind == "video":
        return open_video(place, name)
    if kind == "animation":
        with contextlib.suppress(DataError):  # as a picture it is damaged, too, and is called one
            video = Animation(place, name)
            if len(video) > 1:
                return video
            video.close()
    return read_image(visual)


def _frames(clip: np.ndarray[Any, Any] | Tensor) -> np.ndarray[Any, Any]:
    if isinstance(clip, Tensor):
        if clip.ndim != 4 or clip.shape[1] != 3 or 0 in clip.shape or not (clip.dtype is torch.uint8 or clip.is_floating_point()):
            raise DataError(f"a video tensor must be (F, 3, H, W), uint8 or floats from 0 to 1; got {clip.dtype} {tuple(clip.shape)}")
        return pixels_of(clip, "video").permute(0, 2, 3, 1).contiguous().numpy()
    if clip.dtype != np.uint8 or clip.shape[3] != 3 or 0 in clip.shape:
        raise DataError(f"a video array must be uint8 of shape (F, H, W, 3); got {clip.dtype} {clip.shape}")
    return clip


def is_clip(visual: VisualInput) -> bool:
    """Say whether an input is a video; files are looked at, and nothing is raised for what cannot be read."""
    if isinstance(visual, Image.Image):
        return False
    if isinstance(visual, str | Path):
        suffix = Path(visual).suffix.lower()
        if suffix in (PICTURE_SUFFIXES | VIDEO_SUFFIXES) - _MOVING:
            return suffix in VIDEO_SUFFIXES
    elif isinstance(visual, np.ndarray | Tensor):
        return visual.ndim == 4
    try:
        found = read_visual(visual)
    except DataError:
        return False
    if isinstance(found, Video) and found is not visual:
        found.close()
    return isinstance(found, Video)


_DRAWN_SIDE = 1024  # px; pictures that are drawn on are small, and many may be held


@dataclass(frozen=True, slots=True)
class Shown:
    """What the model sees, and what a person would look at beside it.

    Args:
        pixels: (3, size, size) of a picture, (F, 3, size, size) of a video.
        pictures: The picture, or the video's frames; large ones reduced.
        size: Width and height before that, px.
        frames: Numbers of the frames; none of a picture.
    """

    pixels: Tensor
    pictures: tuple[Image.Image, ...]
    size: tuple[int, int]
    frames: tuple[int, ...] = ()


class VisualTransform:
    """Pictures to (3, size, size), videos to (F, 3, size, size); picklable.

    Args:
        image: Size and statistics.
        video: How videos are sampled and resized.
        boxes: How pictures are placed where boxes are looked for.
    """

    def __init__(self, image: ImageSettings, video: VideoSettings, boxes: EvalBoxes | None = None) -> None:
        self.boxes = boxes
        self.picture = EvalTransform(image)
        self.clip = EvalClip(video, image)

    def __call__(self, found: Image.Image | Video) -> Tensor:
        """Transform what ``read_visual`` gave; a video is closed.

        Raises:
            DataError: If a video's frames cannot be decoded.
        """
        if not isinstance(found, Video):
            return self.picture(found)
        with found:
            return self.clip(found)

    def placed(self, found: Image.Image | Video) -> tuple[Tensor, Placement | None]:
        """Transform what ``read_visual`` gave; where boxes are looked for, with the way back to the picture.

        Raises:
            DataError: If a video's frames cannot be decoded, or boxes are looked for in a video.
        """
        if self.boxes is None:
            return self(found), None
        if isinstance(found, Video):
            found.close()
            raise DataError(f"phrases are found in pictures, and '{found.name}' is a video; give one of its frames")
        return self.boxes.place(found)

    def read(self, visual: VisualInput) -> Tensor:
        """Read and transform an input.

        Raises:
            DataError: If it cannot be read.
        """
        if isinstance(visual, Video):  # the caller's own stays open
            return self.clip(visual)
        return self(read_visual(visual))

    def shown(self, visual: VisualInput) -> Shown:
        """Read and transform an input, and keep what is to be drawn on.

        Raises:
            DataError: If it cannot be read.
        """
        found = read_visual(visual)
        if isinstance(found, Image.Image):
            return Shown(self.picture(found), (_drawable(found),), found.size)
        try:
            numbers = self.clip.choose(found)
            frames = found.read(numbers)
        finally:
            if found is not visual:
                found.close()
        pictures = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
        return Shown(self.clip.squash(frames), tuple(map(_drawable, pictures)), pictures[0].size, tuple(numbers))


def _drawable(picture: Image.Image) -> Image.Image:
    copy = picture.copy()
    copy.thumbnail((_DRAWN_SIDE, _DRAWN_SIDE), Image.Resampling.BICUBIC)
    return copy


def by_kind(clips: Sequence[bool], lengths: Sequence[int], batch_size: int, frames: int) -> list[list[int]]:
    """Divide items into batches of one kind and similar text length.

    Args:
        clips: Of each item, whether it is a video.
        lengths: Of each item, the tokens of its text.
        batch_size: Pictures per batch; of videos of F frames, as many as have so many pixels, at least one.
        frames: Frames of a clip.

    Returns:
        The items' positions, batch by batch.
    """
    batches = []
    for kind, size in ((False, batch_size), (True, max(1, batch_size // frames))):
        order = sorted((position for position, clip in enumerate(clips) if clip is kind), key=lambda position: lengths[position])
        batches += [order[start : start + size] for start in range(0, len(order), size)]
    return batches
