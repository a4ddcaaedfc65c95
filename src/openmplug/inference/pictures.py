"""Anything a person may call a picture, as an RGB picture."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps

from openmplug.data.images import decode_image
from openmplug.errors import DataError

ImageInput: TypeAlias = "str | Path | bytes | Image.Image | np.ndarray[Any, Any] | torch.Tensor"


def read_image(image: ImageInput) -> Image.Image:
    """Return any accepted input as an RGB picture.

    Args:
        image: Path, encoded bytes, PIL image, array (H, W), (H, W, 3) or (H, W, 4) of uint8, or tensor (3, H, W) or (1, H, W) of uint8
            or of floats from 0 to 1.

    Raises:
        DataError: If the file is missing or unreadable, or the array has another shape or type.
    """
    if isinstance(image, str | Path):
        path = Path(image)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise DataError(f"image '{path}' does not exist") from None
        except OSError as error:
            raise DataError(f"image '{path}' cannot be read: {error.strerror}") from error
        return decode_image(data, str(path))
    if isinstance(image, bytes):
        return decode_image(image, "bytes")
    if isinstance(image, Image.Image):
        return _to_rgb(image)
    if isinstance(image, torch.Tensor):
        return _from_tensor(image)
    if isinstance(image, np.ndarray):
        fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
        if image.dtype != np.uint8 or not fits or 0 in image.shape:
            raise DataError(f"an image array must be uint8 of shape (H, W), (H, W, 3) or (H, W, 4); got {image.dtype} {image.shape}")
        return _to_rgb(Image.fromarray(np.ascontiguousarray(image)))
    raise DataError(f"an image must be a path, bytes, a PIL image, an array or a tensor; got {type(image).__name__}")


def _from_tensor(image: torch.Tensor) -> Image.Image:
    fits = image.ndim == 3 and image.shape[0] in (1, 3) and 0 not in image.shape
    if not fits or not (image.dtype is torch.uint8 or image.is_floating_point()):
        raise DataError(
            f"an image tensor must be (3, H, W) or (1, H, W), uint8 or floats from 0 to 1; got {image.dtype} {tuple(image.shape)}"
        )
    values = pixels_of(image, "image")
    return read_image(values.permute(1, 2, 0).squeeze(2).numpy() if len(values) == 1 else values.permute(1, 2, 0).numpy())


def pixels_of(tensor: torch.Tensor, what: str) -> torch.Tensor:
    """Return a tensor of uint8, or of floats from 0 to 1, as uint8.

    Raises:
        DataError: If floats leave that range.
    """
    values = tensor.detach().cpu()
    if values.is_floating_point():
        values = values.float()
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # also where a value is NaN
            raise DataError(f"a float {what} tensor must hold values from 0 to 1, not normalised ones; got {low:.3g} to {high:.3g}")
        values = (values * 255).round().to(torch.uint8)
    return values


def _to_rgb(image: Image.Image) -> Image.Image:
    """Treat an opened picture as ``decode_image`` treats its file: upright, alpha on white, 16 bits scaled."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        layers = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")
    if upright.mode.startswith("I"):
        encoded = BytesIO()
        upright.save(encoded, "PNG")
        return decode_image(encoded.getvalue(), "image")
    return upright.convert("RGB")
