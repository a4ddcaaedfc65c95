"""A data set of one's own with three splits, whose pictures are noise."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_split(root: Path, split: str, count: int, shift: int = 0) -> None:
    rng = np.random.default_rng(shift)
    with zipfile.ZipFile(root / f"{split}_images.zip", "w") as archive:
        for index in range(count):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(buffer, "PNG")
            archive.writestr(f"{index}.png", buffer.getvalue())
    rows = [{"image": f"{index // 2}.png", "question": f"{split} {index}?", "answer": f"a{index % 3}"} for index in range(2 * count)]
    (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits ``train`` (12 pictures), ``extra`` (3) and ``dev`` (5), two questions to a picture."""
    folder = tmp_path_factory.mktemp("own")
    write_split(folder, "train", 12)
    write_split(folder, "extra", 3, shift=1)
    write_split(folder, "dev", 5, shift=2)
    return folder
