"""From a picture, its phrases and their boxes to what a model that looks for boxes sees: the three change together.

Whatever happens to the pixels happens to the boxes, and a flip also changes left and right in the words.

Source: the grounding data set of the released mPLUG scripts. Evaluation: long side resized (bilinear), centred on zeros. Training: one of
seven sizes, with probability 0.5 after a random crop that keeps the box's centre; colour jitter; flip; a random place on the square.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Literal

import torch
from PIL import Image, ImageEnhance
from pydantic import Field
from torch import Tensor

from openmplug.batch import Coordinates, Item, Placement, Sample
from openmplug.config import Settings
from openmplug.data.transforms import IMAGENET_MEAN, IMAGENET_STD, ImageSettings, Normalise
from openmplug.errors import DataError

# Of the original, for photos of COCO's size: the short side before a crop, and the crop's sides, px.
CROP_SHORT_SIDES = (400, 500, 600)
CROP_SIDES = (384, 600)
CROP_TRIES = 20
JITTER_SHARE = 0.8
# Whole words, or their beginnings ("leftmost"). The original looks for the letters, and so swaps "bright" to "bleft".
_SIDES = re.compile(r"\b(left|right)", re.IGNORECASE)
_PLACES = re.compile(r"\b(left|right|top|bottom|middle)", re.IGNORECASE)


class BoxSettings(Settings):
    """How pictures with boxes become tensors; size, statistics and the probability of a flip are those of ``ImageSettings``.

    Args:
        fit: ``letterbox`` keeps the aspect ratio and leaves zeros around the picture, as the original; ``stretch`` fills the square,
            for pictures much wider than high, of which the letterbox would waste most.
        scales: Sizes that training draws from: the whole square, and each next one a twentieth of it smaller. 1 = the whole square.
        crop: Probability of a random crop around the box's centre in training; never where the words tell a place. Of several phrases
            about a picture the crop is around the box of one, and those that tell a place or whose centre is cut away are left out.
        jitter: Strength of training's changes of brightness, contrast and saturation (0.4: by a factor from 0.6 to 1.4).
        move: Training puts the picture at a random place of the square, not at its centre.
        imagenet: Evaluate with ImageNet's mean and standard deviation although training had others, as the released models were.
    """

    fit: Literal["letterbox", "stretch"] = "letterbox"
    scales: int = Field(7, ge=1, le=10)
    crop: float = Field(0.5, ge=0, le=1)
    jitter: float = Field(0.4, ge=0, lt=1)
    move: bool = True
    imagenet: bool = False


def swap_sides(phrase: str) -> str:
    """Say left for right and right for left, as a flip makes it.

    Example:
        >>> swap_sides("bright cup left of the rightmost one")
        'bright cup right of the leftmost one'
    """
    return _SIDES.sub(lambda found: "right" if found[0].lower() == "left" else "left", phrase)


class EvalBoxes:
    """The picture on the square, centred; boxes of the square where they are known."""

    def __init__(self, image: ImageSettings, boxes: BoxSettings) -> None:
        if boxes.imagenet:
            image = image.model_copy(update={"mean": IMAGENET_MEAN, "std": IMAGENET_STD})
        self.size, self.fit = image.size, boxes.fit
        self._normalise = Normalise(image.mean, image.std)

    def place(self, image: Image.Image) -> tuple[Tensor, Placement]:
        """Turn one RGB picture into pixels (3, size, size) and the way back."""
        small, scale_x, scale_y = _resized(image, self.size, self.fit)
        # The original's rounding, which puts a half pixel up and left.
        left, top = (round((self.size - side) / 2 - 0.1) for side in small.size)
        return _on_square(small, self._normalise, self.size, left, top), Placement(scale_x, scale_y, left, top, *image.size)

    def __call__(self, sample: Sample, image: Image.Image, rng: random.Random | None = None) -> Item:
        """Transform one record and its picture; ``rng`` is not used."""
        pixels, placement = self.place(image)
        boxes = () if sample.box is None else (to_square(_inside(sample, image.size), placement, self.size),)
        return Item(sample, pixels, boxes=boxes, placement=placement)


class TrainBoxes:
    """Random crop, size, colours, flip and place; the words follow the flip."""

    def __init__(self, image: ImageSettings, boxes: BoxSettings) -> None:
        self.image, self.boxes = image, boxes
        self._normalise = Normalise(image.mean, image.std)

    def __call__(self, sample: Sample, image: Image.Image, rng: random.Random) -> Item:
        """Transform one record, or the parts of one, and their picture.

        Returns:
            An item whose phrases are those of the picture as it became; ``Sample.box`` stays in the picture's own pixels.

        Raises:
            DataError: If a record has no box, or one that is not in the picture.
        """
        size, parts = self.image.size, sample.parts or (sample,)
        boxes = [_inside(part, image.size) for part in parts]
        if rng.random() < self.boxes.crop:
            image, parts, boxes = _crop(image, parts, boxes, rng)
        small, scale_x, scale_y = _resized(image, size - size // 20 * rng.randrange(self.boxes.scales), self.boxes.fit)
        small = _jitter(small, self.boxes.jitter, rng)
        if rng.random() < self.image.flip:
            small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            boxes = [(image.width - right, top, image.width - left, bottom) for left, top, right, bottom in boxes]
            parts = tuple(replace(part, text=swap_sides(part.text or "")) for part in parts)
        room = [size - side for side in small.size]
        left, top = (rng.randint(0, each) for each in room) if self.boxes.move else (round(each / 2 - 0.1) for each in room)
        placement = Placement(scale_x, scale_y, left, top, *image.size)
        pixels = _on_square(small, self._normalise, size, left, top)
        changed = replace(parts[0], parts=parts if sample.parts else ())
        return Item(changed, pixels, boxes=tuple(to_square(box, placement, size) for box in boxes))


# --------------------------------------------------------------------------------------------------------------- coordinates


def to_square(box_xyxy: Coordinates, placement: Placement, size: int) -> Coordinates:
    """Turn corners in the picture's pixels into centre and size from 0 to 1 of the square."""
    left, top, right, bottom = box_xyxy
    width, height = (right - left) * placement.scale_x, (bottom - top) * placement.scale_y
    x, y = placement.left + left * placement.scale_x + width / 2, placement.top + top * placement.scale_y + height / 2
    return x / size, y / size, width / size, height / size


def to_picture(box_cxcywh: Coordinates, placement: Placement, size: int) -> Coordinates:
    """Turn centre and size of the square into corners in the picture's pixels, cut at its borders."""
    x, y, width, height = box_cxcywh
    across = [((x + side * width / 2) * size - placement.left) / placement.scale_x for side in (-1, 1)]
    down = [((y + side * height / 2) * size - placement.top) / placement.scale_y for side in (-1, 1)]
    left, right = (min(max(each, 0.0), float(placement.width)) for each in across)
    top, bottom = (min(max(each, 0.0), float(placement.height)) for each in down)
    return left, top, right, bottom


def _inside(sample: Sample, size: tuple[int, int]) -> Coordinates:
    """Return a record's box, cut at its picture's borders."""
    if sample.box is None:
        raise DataError(f"record '{sample.id}' has no box; expected [left, top, right, bottom] in the picture's pixels")
    (left, top, right, bottom), (width, height) = sample.box, size
    cut = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
    if cut[0] >= cut[2] or cut[1] >= cut[3]:
        raise DataError(
            f"record '{sample.id}' has the box {[round(each, 2) for each in sample.box]}, of which nothing is inside"
            f" its picture of {width} x {height} px; expected [left, top, right, bottom]"
        )
    return cut


# -------------------------------------------------------------------------------------------------------------------- pixels


def _resized(image: Image.Image, side: int, fit: str) -> tuple[Image.Image, float, float]:
    """Resize so that the long side, or both, become ``side``; with the scales across and down."""
    if fit == "stretch":
        return image.resize((side, side), Image.Resampling.BILINEAR), side / image.width, side / image.height
    scale = side / max(image.size)
    width, height = (max(1, round(each * scale)) for each in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR), scale, scale


def _on_square(image: Image.Image, normalise: Normalise, size: int, left: int, top: int) -> Tensor:
    pixels = torch.zeros(3, size, size)
    pixels[:, top : top + image.height, left : left + image.width] = normalise(image)
    return pixels


def _crop(
    image: Image.Image, parts: tuple[Sample, ...], boxes: list[Coordinates], rng: random.Random
) -> tuple[Image.Image, tuple[Sample, ...], list[Coordinates]]:
    """Enlarge the picture and crop it around one of the boxes, with the phrases that stay true; nothing changes if no crop is found."""
    true = [index for index, part in enumerate(parts) if not _PLACES.search(part.text or "")]
    if not true:
        return image, parts, boxes
    scale = rng.choice(CROP_SHORT_SIDES) / min(image.size)
    width, height = (max(1, round(each * scale)) for each in image.size)
    middles = {index: ((boxes[index][0] + boxes[index][2]) / 2 * scale, (boxes[index][1] + boxes[index][3]) / 2 * scale) for index in true}
    around = middles[true[0] if len(true) == 1 else rng.choice(true)]
    low, high = CROP_SIDES
    for _ in range(CROP_TRIES):
        w, h = (rng.randint(min(low, side), min(side, high)) for side in (width, height))
        x, y = rng.randint(0, width - w), rng.randint(0, height - h)
        if x < around[0] < x + w and y < around[1] < y + h:
            break
    else:
        return image, parts, boxes
    # Cut first, in the picture's own pixels: enlarging what is thrown away would be most of the work.
    region = x / scale, y / scale, min((x + w) / scale, image.width), min((y + h) / scale, image.height)
    cropped = image.resize((w, h), Image.Resampling.BILINEAR, box=region)
    kept = [index for index, (across, down) in middles.items() if x < across < x + w and y < down < y + h]
    corners: list[Coordinates] = []
    for index in kept:
        left, top, right, bottom = (each * scale for each in boxes[index])
        corners.append((max(left - x, 0.0), max(top - y, 0.0), min(right - x, float(w)), min(bottom - y, float(h))))
    return cropped, tuple(parts[index] for index in kept), corners


def _jitter(image: Image.Image, strength: float, rng: random.Random) -> Image.Image:
    """Change brightness, contrast and saturation, in this order, each by a random factor."""
    if not strength or rng.random() >= JITTER_SHARE:
        return image
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(1 - strength, 1 + strength))
    return image
