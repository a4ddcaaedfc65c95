"""Heat over pictures, in a grid with labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_AREA_SIDE = 224  # of a tile: as many pixels as a square of that side
_FRAME_SIDE = 128
_LONGEST, _SHORTEST = 900, 24  # sides of a tile of a very wide or high picture
_WIDEST = 1200  # of the whole grid, px
_GAP, _LABEL = 8, 22
_PAPER, _INK = (255, 255, 255), (32, 32, 32)
# Dark, through red, to light: brighter means more for those who see no colours too.
_COLOURS = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float32)


def heat(picture: Image.Image, values: NDArray[np.float32]) -> Image.Image:
    """Lay a map (h, w) with values from 0 to 1 over a picture of any ratio: each value over the part of it that its patch shows."""
    smooth = np.asarray(Image.fromarray(values.astype(np.float32)).resize(picture.size, Image.Resampling.BICUBIC)).clip(0, 1)
    at = smooth * (len(_COLOURS) - 1)
    low = np.minimum(at.astype(np.int64), len(_COLOURS) - 2)
    share = (at - low)[..., None]
    colour = _COLOURS[low] * (1 - share) + _COLOURS[low + 1] * share
    # A grey picture beneath: its own colours would be taken for heat.
    grey = np.asarray(picture.convert("L").convert("RGB"), np.float32)
    opacity = (0.35 + 0.4 * smooth)[..., None]
    return Image.fromarray((grey * (1 - opacity) + colour * opacity).round().astype(np.uint8))


def draw(pictures: Sequence[Image.Image], maps: Sequence[tuple[str, NDArray[np.float32]]], frames: Sequence[str]) -> Image.Image:
    """Draw pictures and maps over them, each map by its own highest value.

    Args:
        pictures: One picture, or the frames of a video, all of one size.
        maps: Labels and maps, (h, w) of a picture or (F, h, w) of a video.
        frames: Label of each frame; none for a picture.

    Returns:
        RGB; of a picture as many tiles in a row as fit, of a video one row per map.
    """
    tile = _tile_size(pictures[0].size, _FRAME_SIDE if frames else _AREA_SIDE)
    small = [picture.convert("RGB").resize(tile, Image.Resampling.BICUBIC) for picture in pictures]
    labels, tiles = list(frames) or ["picture"], list(small)
    for label, values in maps:
        high = float(values.max())
        scaled = values / high if high > 0 else values
        tiles += [heat(one, each) for one, each in zip(small, scaled if frames else [scaled], strict=True)]
        labels += [label, *[""] * (len(small) - 1)]
    fitting = max(1, (_WIDEST - _GAP) // (tile[0] + _GAP))
    return _grid(tiles, labels, len(small) if frames else min(len(tiles), fitting))


def _tile_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Scale a size to the area of a square of that side, unless a side would become too long or too short to see."""
    width, height = size
    scale = min(side / (width * height) ** 0.5, _LONGEST / max(size))
    return max(_SHORTEST, round(width * scale)), max(_SHORTEST, round(height * scale))


def _grid(tiles: Sequence[Image.Image], labels: Sequence[str], columns: int) -> Image.Image:
    width, height = tiles[0].size
    font = ImageFont.load_default(14)
    rows = -(-len(tiles) // columns)
    canvas = Image.new("RGB", (_GAP + columns * (width + _GAP), _GAP + rows * (height + _LABEL + _GAP)), _PAPER)
    pen = ImageDraw.Draw(canvas)
    for place, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
        x, y = _GAP + place % columns * (width + _GAP), _GAP + place // columns * (height + _LABEL + _GAP)
        pen.text((x, y + 2), _shortened(label, font, width), fill=_INK, font=font)
        canvas.paste(tile, (x, y + _LABEL))
    return canvas


def _shortened(label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    while label and font.getlength(label) > width:
        label = label[:-2].rstrip() + "…" if len(label) > 2 else ""
    return label
