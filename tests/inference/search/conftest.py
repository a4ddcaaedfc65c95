"""A small archive: pictures at two depths, and clips whose halves look different."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openmplug.inference.loading import load
from openmplug.inference.model import Model

pytest.importorskip("lancedb")


def colours(path: Path, colours: list[tuple[int, int, int]], seconds_each: float) -> Path:
    """Write a GIF of plain colours, ten frames a second; frames differ a little, as equal ones would be put together."""
    count = round(seconds_each * 10)
    frames = []
    for colour in colours:
        for number in range(count):
            pixels = np.full((24, 24, 3), colour, np.uint8)
            pixels[number % 24, :4] = 255 - number
            frames.append(Image.fromarray(pixels))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    return path


@pytest.fixture
def archive(pictures: list[Path], tmp_path: Path) -> Path:
    """A folder with five pictures, one of them deeper, a clip of 4 seconds, and something that is neither."""
    folder = tmp_path / "archive"
    (folder / "deep").mkdir(parents=True)
    for source, name in zip(pictures, ("a.png", "b.png", "c.png", "d.png", "deep/e.png"), strict=True):
        shutil.copy(source, folder / name)
    colours(folder / "clip.gif", [(250, 0, 0), (0, 0, 250)], 2.0)
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="session")
def matcher(folders: Callable[..., Path]) -> Model:
    """A loaded model that matches."""
    return load(folders("retrieval"), device="cpu", batch_size=4)
