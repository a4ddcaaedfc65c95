"""A crop of a picture resized to the square a model sees, at little cost: for training, where the last bit of a pixel does not matter.

A JPEG is decoded at a half, a quarter or an eighth of its size where the crop still has as many pixels as the square: the decoder then
computes that many fewer. What is left is resized by torch, whose bicubic filter for bytes is Pillow's with other rounding, in vector
instructions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from openmplug.data.images import decode_image, upright_size

Box = tuple[int, int, int, int]  # left, top, right, bottom, px


def decode_crop(data: bytes, name: str, draw: Callable[[tuple[int, int]], Box], size: int) -> Image.Image:
    """Decode a crop of one picture, a JPEG at no more pixels than needed.

    Args:
        data: The bytes of the file.
        name: What to call the picture in an error.
        draw: Chooses the crop, in px, of an upright picture of the width and height it is given.
        size: Side in px below which neither side of the crop is reduced.

    Returns:
        The upright crop in RGB, whole or reduced to 1/2, 1/4 or 1/8.

    Raises:
        DataError: As ``decode_image``.
    """
    whole, box = (0, 0), (0, 0, 0, 0)

    def reduce(image: Image.Image) -> None:
        nonlocal whole, box
        whole = upright_size(image)
        box = draw(whole)
        fits = min(box[2] - box[0], box[3] - box[1]) // size
        if scale := next((each for each in (8, 4, 2) if each <= fits), None):
            image.draft(None, (image.width // scale, image.height // scale))  # of other formats Pillow decodes all

    image = decode_image(data, name, prepare=reduce)
    scale = round(whole[0] / image.width)
    left, top, right, bottom = (round(place / scale) for place in box)  # to whole pixels of what was decoded
    return image.crop((left, top, min(right, image.width), min(bottom, image.height)))


def resize_fast(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize pictures (B, H, W, 3) of bytes to (B, size, size, 3), bicubically with antialiasing; Pillow's result but for rounding."""
    if pixels.shape[1:3] == (size, size):
        return pixels
    if not pixels.flags.writeable or any(stride < 0 for stride in pixels.strides):  # torch takes neither
        pixels = pixels.copy()
    channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    resized = F.interpolate(channels_first, (size, size), mode="bicubic", antialias=True)
    return resized.permute(0, 2, 3, 1).contiguous().numpy()
