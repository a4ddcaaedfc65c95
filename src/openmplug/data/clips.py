"""From a video to the clip a model sees: which frames, cut and resized alike in all of them, normalised.

Source: the video data sets of the released mPLUG and mPLUG-2 scripts. mPLUG-2 trains on random frames of equal intervals,
``RandomResizedCrop`` (bicubic), flip and ``RandomAugment(2, 5)`` with one choice for a whole clip, and tests on middle frames squashed to
the square by nearest neighbour. mPLUG sees frames 0, s, 2s, ... squashed bicubically.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from openmplug.config import Settings, validate
from openmplug.data.crops import resize_fast
from openmplug.data.frames import Sampling, chooser
from openmplug.data.transforms import ImageSettings, Normalise, RandAugment, crop_box
from openmplug.data.video import Frames, Video

_Fraction = Annotated[float, Field(gt=0, le=1)]
_Positive = Annotated[float, Field(gt=0)]


class VideoSettings(Settings):
    """How videos become clips; size, mean and standard deviation are those of ``ImageSettings``.

    Args:
        frames: Frames per clip.
        sampling: Of evaluation and inference. ``middle``: the middle frame of each of ``frames`` equal intervals, mPLUG-2's own;
            ``uniform``: frames 0, s, 2s, ... with a whole-numbered step, mPLUG's own; ``ends``: equally spaced, first and last frame
            among them; ``random``: a random frame of each interval.
        train_sampling: Of training, likewise.
        resize: ``bicubic``, or ``nearest`` as the released mPLUG-2 checkpoints were tested. Evaluation only: training crops are resized
            bicubically.
        crop_scale: Smallest and largest part of the area that a training crop covers; the same crop in all frames.
        crop_ratio: Smallest and largest width / height of a training crop.
        flip: Probability that a training clip is flipped. Set it to 0 where texts say left or right: the words are not changed.
        randaugment_ops: Operations drawn per training clip; each is carried out with probability 0.5, on all frames alike.
        randaugment_magnitude: Their strength, 0 to 10.
        colour_ops: False leaves out operations that change colours.
    """

    frames: int = Field(8, ge=1)
    sampling: Sampling = "middle"
    train_sampling: Sampling = "random"
    resize: Literal["bicubic", "nearest"] = "bicubic"
    crop_scale: tuple[_Fraction, _Fraction] = (0.5, 1.0)
    crop_ratio: tuple[_Positive, _Positive] = (3 / 4, 4 / 3)
    flip: float = Field(0.5, ge=0, le=1)
    randaugment_ops: int = Field(2, ge=0)
    randaugment_magnitude: float = Field(5, ge=0, le=10)
    colour_ops: bool = True

    @model_validator(mode="after")
    def _in_order(self) -> VideoSettings:
        for name in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be [smallest, largest], got [{low}, {high}]")
        return self


def released_video(architecture: str) -> VideoSettings:
    """Return how a released model was evaluated on videos: for folders that say nothing about them."""
    if architecture == "mplug2":
        return VideoSettings(frames=16, sampling="middle", resize="nearest")
    return VideoSettings(frames=8, sampling="uniform", train_sampling="uniform")


def saved_video(content: Mapping[str, Any]) -> VideoSettings:
    """Return the video settings of a folder's ``config.json``; those of the released models where it has none.

    Raises:
        UsageError: If a setting is unknown.
    """
    if "video" in content:
        return validate(VideoSettings, content["video"], where="video")
    return released_video(str(content.get("architecture", "mplug")))


class ClipTransform(Protocol):
    """What ``TrainClip`` and ``EvalClip`` are: video and generator in, (F, C, H, W) float32 out."""

    def __call__(self, video: Video, rng: random.Random) -> Tensor:
        """Sample and transform one clip."""
        ...


class EvalClip:
    """Frames by ``sampling``, each resized to a square (the aspect ratio is not kept) and normalised."""

    def __init__(self, video: VideoSettings, image: ImageSettings) -> None:
        self.video, self.image = video, image
        self._normalise = Normalise(image.mean, image.std)

    def __call__(self, video: Video, rng: random.Random | None = None) -> Tensor:
        """Sample and transform one clip to (F, 3, size, size) float32; without ``rng``, random sampling takes the same frames always."""
        return self.squash(video.read(self.choose(video, rng)))

    def choose(self, video: Video, rng: random.Random | None = None) -> list[int]:
        """Choose the numbers of the frames that are looked at."""
        return chooser(self.video.sampling)(self.video.frames, len(video), rng or random.Random(0))

    def squash(self, frames: Frames) -> Tensor:
        """Transform frames (F, H, W, 3) to (F, 3, size, size)."""
        resize = resize_nearest if self.video.resize == "nearest" else resize_bicubic
        return self._normalise(resize(frames, self.image.size))


class TrainClip:
    """Frames by ``train_sampling``; one random crop, flip and RandAugment for all of them; normalised."""

    def __init__(self, video: VideoSettings, image: ImageSettings) -> None:
        self.video, self.image = video, image
        self._normalise = Normalise(image.mean, image.std)
        self._augment = RandAugment(video.randaugment_ops, video.randaugment_magnitude, video.colour_ops)

    def __call__(self, video: Video, rng: random.Random) -> Tensor:
        """Sample and transform one clip to (F, 3, size, size) float32."""
        settings = self.video
        frames = video.read(chooser(settings.train_sampling)(settings.frames, len(video), rng))
        height, width = frames.shape[1:3]
        left, top, right, bottom = crop_box((width, height), settings.crop_scale, settings.crop_ratio, rng)
        resize = resize_fast if self.image.fast else resize_bicubic
        frames = resize(frames[:, top:bottom, left:right], self.image.size)
        if rng.random() < settings.flip:
            frames = frames[:, :, ::-1]
        drawn = self._augment.draw(rng)
        if drawn:
            frames = _each(frames, lambda picture: self._augment.apply(picture, drawn))
        return self._normalise(frames)


def resize_bicubic(frames: Frames, size: int) -> Frames:
    """Resize frames (F, H, W, 3) to (F, size, size, 3) as ``EvalTransform`` resizes a picture."""
    if frames.shape[1:3] == (size, size):
        return frames
    return _each(frames, lambda picture: picture.resize((size, size), Image.Resampling.BICUBIC))


def resize_nearest(frames: Frames, size: int) -> Frames:
    """Resize frames (F, H, W, 3) to (F, size, size, 3) by taking the nearest pixel up and left.

    Source: ``torch.nn.functional.interpolate`` in its default mode, which mPLUG-2's test transform uses; its rounding in float32 too.
    """
    rows, columns = (_nearest(length, size) for length in frames.shape[1:3])
    return frames[:, rows[:, None], columns]


def _nearest(length: int, size: int) -> np.ndarray:
    scale = np.float32(length) / np.float32(size)
    return np.minimum(np.floor(np.arange(size, dtype=np.float32) * scale).astype(np.int64), length - 1)


def _each(frames: Frames, change: Callable[[Image.Image], Image.Image]) -> Frames:
    return np.stack([np.asarray(change(Image.fromarray(np.ascontiguousarray(frame)))) for frame in frames])
