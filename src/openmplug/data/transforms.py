"""From an RGB picture to the normalised tensor a model sees, for training and for evaluation.

Every random choice comes from the ``random.Random`` handed in, so a picture's augmentation is a function of that generator's seed.

Source: transforms of the released mPLUG scripts: ``RandomResizedCrop`` (bicubic), horizontal flip, ``RandomAugment(2, 7)``, CLIP's
mean and standard deviation; evaluation squashes the picture to a square.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import Field, model_validator
from torch import Tensor

from openmplug.config import Settings
from openmplug.data.crops import decode_crop, resize_fast
from openmplug.data.images import decode_image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_Fraction = Annotated[float, Field(gt=0, le=1)]
_Positive = Annotated[float, Field(gt=0)]


class ImageSettings(Settings):
    """How pictures become tensors.

    Args:
        size: Side of the square the model sees, in pixels; a run takes it from the model.
        crop_scale: Smallest and largest part of the picture's area that a training crop covers.
        crop_ratio: Smallest and largest width / height of a training crop, before it is resized to the square.
        flip: Probability of a horizontal flip in training. Set it to 0 where texts say left or right: the words are not changed.
        randaugment_ops: Operations drawn per training picture (with replacement); each is then carried out with probability 0.5.
        randaugment_magnitude: Their strength, 0 to 10.
        colour_ops: False leaves out AutoContrast, Equalize and Brightness, for tasks that ask for colours.
        grayscale: Probability that a training picture loses its colours. A tower trained from scratch on questions about colours
            learns nothing else unless it sometimes has to.
        fast: Train on pictures that are decoded at a half, quarter or eighth of their size where the crop has the pixels to spare (JPEG),
            and resized by torch, clips too: other last bits, and where a JPEG is reduced a slightly other sharpness, in less time. What is
            cut, flipped and drawn stays the same; evaluation is never touched.
        mean: Per channel (red, green, blue), of values 0 to 1.
        std: Per channel, likewise.
    """

    size: int = Field(224, ge=1)
    crop_scale: tuple[_Fraction, _Fraction] = (0.5, 1.0)
    crop_ratio: tuple[_Positive, _Positive] = (3 / 4, 4 / 3)
    flip: float = Field(0.5, ge=0, le=1)
    randaugment_ops: int = Field(2, ge=0)
    randaugment_magnitude: float = Field(7, ge=0, le=10)
    colour_ops: bool = True
    grayscale: float = Field(0.0, ge=0, le=1)
    fast: bool = False
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[_Positive, _Positive, _Positive] = CLIP_STD

    @model_validator(mode="after")
    def _in_order(self) -> ImageSettings:
        for name in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be [smallest, largest], got [{low}, {high}]")
        return self


class Normalise:
    """8-bit pixels to normalised floats: ``(x / 255 - mean) / std`` in float32, a channel of a frame at a time to stay in the cache."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean, self.std = np.array(mean, np.float32), np.array(std, np.float32)

    def __call__(self, image: Image.Image | np.ndarray) -> Tensor:
        """Normalise a picture, or pixels (..., H, W, 3) of uint8, to (..., 3, H, W) float32."""
        pixels = np.asarray(image)
        result = np.empty((*pixels.shape[:-3], 3, *pixels.shape[-3:-1]), np.float32)
        flat = result.reshape(-1, 3, *pixels.shape[-3:-1])
        for frame, one in zip(pixels.reshape(-1, *pixels.shape[-3:]), flat, strict=True):
            for channel in range(3):
                plane = one[channel]
                np.divide(frame[:, :, channel], np.float32(255), out=plane, dtype=np.float32)
                plane -= self.mean[channel]
                plane /= self.std[channel]
        return torch.from_numpy(result)


class EvalTransform:
    """Resize to a square (bicubic, the aspect ratio is not kept) and normalise."""

    def __init__(self, settings: ImageSettings) -> None:
        self.settings = settings
        self.normalise = Normalise(settings.mean, settings.std)

    def __call__(self, image: Image.Image, rng: random.Random | None = None) -> Tensor:
        """Transform one RGB picture to (3, size, size) float32; ``rng`` is not used."""
        size = (self.settings.size, self.settings.size)
        return self.normalise(image if image.size == size else image.resize(size, Image.Resampling.BICUBIC))


class TrainTransform:
    """Random crop resized to a square, random flip, random loss of colours, RandAugment, normalise."""

    def __init__(self, settings: ImageSettings) -> None:
        self.settings = settings
        self._normalise = Normalise(settings.mean, settings.std)
        self._augment = RandAugment(settings.randaugment_ops, settings.randaugment_magnitude, settings.colour_ops)

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        """Transform one RGB picture to (3, size, size) float32."""
        return self._vary(image.crop(self._draw(image.size, rng)), rng)

    def read(self, data: bytes, name: str, rng: random.Random) -> Tensor:
        """Decode and transform one picture to (3, size, size) float32; see ``decode_image`` for arguments and errors."""
        if not self.settings.fast:
            return self(decode_image(data, name), rng)
        return self._vary(decode_crop(data, name, lambda size: self._draw(size, rng), self.settings.size), rng)

    def _draw(self, size: tuple[int, int], rng: random.Random) -> tuple[int, int, int, int]:
        return crop_box(size, self.settings.crop_scale, self.settings.crop_ratio, rng)

    def _vary(self, crop: Image.Image, rng: random.Random) -> Tensor:
        settings = self.settings
        if settings.fast:
            image = Image.fromarray(resize_fast(np.array(crop)[None], settings.size)[0])
        else:
            image = crop.resize((settings.size, settings.size), Image.Resampling.BICUBIC)
        if rng.random() < settings.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if settings.grayscale > 0 and rng.random() < settings.grayscale:
            image = image.convert("L").convert("RGB")
        return self._normalise(self._augment(image, rng))


def crop_box(
    size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], rng: random.Random
) -> tuple[int, int, int, int]:
    """Draw the crop of Inception-style augmentation.

    Args:
        size: Width and height of the picture, px.
        scale: Range of the crop's share of the area.
        ratio: Range of the crop's width / height, drawn uniformly in its logarithm.
        rng: Where chance comes from.

    Returns:
        Left, top, right, bottom in px. After ten draws that do not fit: the largest centred crop within ``ratio``.

    Source: ``RandomResizedCrop.get_params`` of torchvision.
    """
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


# --------------------------------------------------------------------------------------------------------------- RandAugment
# Strengths at level m of 10. Source: ``RandomAugment`` of the released scripts (as in ALBEF): enhancement factor 0.1 + 1.8 m/10, shear
# 0.3 m/10, translation 10 px m/10, rotation 30 degrees m/10; the last three with a random sign; grey 128 where nothing is left.
# The originals call OpenCV; PIL interpolates bilinearly as well, but rounds differently in the last bit.
_GREY = (128, 128, 128)
_Op = Callable[[Image.Image, float, float], Image.Image]  # picture, level 0 to 1, sign -1 or +1


def _affine(image: Image.Image, inverse: tuple[float, float, float, float, float, float]) -> Image.Image:
    # A whole number of pixels needs no interpolation, and PIL's nearest neighbour is several times faster.
    whole = inverse[:2] + inverse[3:5] == (1, 0, 0, 1) and inverse[2].is_integer() and inverse[5].is_integer()
    resample = Image.Resampling.NEAREST if whole else Image.Resampling.BILINEAR
    return image.transform(image.size, Image.Transform.AFFINE, inverse, resample, fillcolor=_GREY)


def _identity(image: Image.Image, level: float, sign: float) -> Image.Image:
    return image


def _auto_contrast(image: Image.Image, level: float, sign: float) -> Image.Image:
    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, level: float, sign: float) -> Image.Image:
    return ImageOps.equalize(image)


def _brightness(image: Image.Image, level: float, sign: float) -> Image.Image:
    factor = 0.1 + 1.8 * level
    return image.point([min(255, int(value * factor)) for value in range(256)] * 3)


def _sharpness(image: Image.Image, level: float, sign: float) -> Image.Image:
    return Image.blend(smoothed(image), image, 0.1 + 1.8 * level)


def smoothed(image: Image.Image) -> Image.Image:
    """Smooth an RGB picture as Pillow's filter ``SMOOTH`` does, to the last bit, in a third of the time.

    Of each channel: the pixels around and five times the one in the middle, divided by 13 and rounded; pixels at the edge stay.
    """
    pixels = np.asarray(image)
    if min(pixels.shape[:2]) < 3:
        return image.copy()
    wide = pixels.astype(np.uint16)
    rows = wide[:-2] + wide[1:-1]
    rows += wide[2:]
    sums = rows[:, :-2] + rows[:, 1:-1]
    sums += rows[:, 2:]
    sums += wide[1:-1, 1:-1] << 2
    sums += 6  # to round: no sum lies in the middle between two multiples of 13
    sums //= 13
    result = pixels.copy()
    result[1:-1, 1:-1] = sums
    return Image.fromarray(result)


def _shear_x(image: Image.Image, level: float, sign: float) -> Image.Image:
    return _affine(image, (1.0, 0.3 * level * sign, 0.0, 0.0, 1.0, 0.0))


def _shear_y(image: Image.Image, level: float, sign: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, 0.0, 0.3 * level * sign, 1.0, 0.0))


def _translate_x(image: Image.Image, level: float, sign: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, 10 * level * sign, 0.0, 1.0, 0.0))


def _translate_y(image: Image.Image, level: float, sign: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, 0.0, 0.0, 1.0, 10 * level * sign))


def _rotate(image: Image.Image, level: float, sign: float) -> Image.Image:
    return image.rotate(30 * level * sign, Image.Resampling.BILINEAR, fillcolor=_GREY)


OPERATIONS: dict[str, _Op] = {
    "Identity": _identity,
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Brightness": _brightness,
    "Sharpness": _sharpness,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Rotate": _rotate,
}
_COLOUR_OPERATIONS = ("AutoContrast", "Equalize", "Brightness")


class RandAugment:
    """Draw ``ops`` operations with replacement; carry out each with probability 0.5."""

    def __init__(self, ops: int = 2, magnitude: float = 7, colour_ops: bool = True) -> None:
        self.ops = ops
        self.level = magnitude / 10
        self.names = tuple(name for name in OPERATIONS if colour_ops or name not in _COLOUR_OPERATIONS)

    def draw(self, rng: random.Random) -> list[tuple[str, float]]:
        """Draw operations and their signs, to be carried out on one picture or on every frame of a clip."""
        drawn = []
        for name in rng.choices(self.names, k=self.ops):
            if rng.random() < 0.5:
                drawn.append((name, rng.choice((-1.0, 1.0))))
        return drawn

    def apply(self, image: Image.Image, drawn: Sequence[tuple[str, float]]) -> Image.Image:
        """Carry out operations on one RGB picture; its size stays."""
        for name, sign in drawn:
            image = OPERATIONS[name](image, self.level, sign)
        return image

    def __call__(self, image: Image.Image, rng: random.Random) -> Image.Image:
        """Augment one RGB picture; its size stays."""
        return self.apply(image, self.draw(rng))
