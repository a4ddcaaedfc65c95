"""A folder of pictures to predict."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def place(pictures: list[Path], tmp_path: Path) -> Path:
    """A folder with pictures at two depths and something that is none."""
    folder = tmp_path / "place"
    (folder / "deep").mkdir(parents=True)
    for source, name in zip(pictures[:3], ("b.png", "a.png", "deep/c.png"), strict=True):
        shutil.copy(source, folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder
